"""Who can tell that a sample was in the training set, and how to train so that nobody can.

Membership attacks from saved outputs of a few models: `masks` draws who is trained on what, `statistics` reads saved
logits, `membership` has every attack by name, and `core.roc` tells how well one works.

Differentially private training: `dp_sgd` trains by `sampling`, `clipping` and `noise`, `accounting` says what it costs,
`reports` keeps that, `audit` checks it. `links` has the bounds between privacy, memorization and curvature, `trends`
the bins and curves that show such a relation in data.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = [
    "accounting", "attacks", "audit", "clipping", "dp_sgd", "links", "masks", "membership", "noise", "reports",
    "sampling", "shadows", "statistics", "trends", "zeroth_order",
]  # fmt: skip
__getattr__, __dir__ = modules(__name__, __all__)
