"""What the projection methods are compared with: each a `protocol.Learner`, joint training a function."""

from subspace_jax.continual.baselines import a_gem, er, ewc, hat, multitask, ogd, owm

__all__ = ["a_gem", "er", "ewc", "hat", "multitask", "ogd", "owm"]
