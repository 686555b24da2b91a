"""Train with a tree of the classes, and measure how far from the truth on that tree a network's mistakes are.

`tree` holds the classes' ancestors and the distance between classes. `conditional` trains one head a level, each on the
samples that the coarser heads already get right. `baselines` has what to compare it with: weights that move from coarse
to fine, soft labels, decisions by expected distance. `metrics` splits mistakes into how many and how severe.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["baselines", "conditional", "metrics", "tree"]
__getattr__, __dir__ = modules(__name__, __all__)
