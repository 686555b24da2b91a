"""Baselines of the projection methods: each builds a `protocol.Learner`; joint training, `multitask`, is a function."""

from subspace_jax.continual.baselines import a_gem, er, ewc, hat, multitask, ogd, owm

__all__ = ["a_gem", "er", "ewc", "hat", "multitask", "ogd", "owm"]
