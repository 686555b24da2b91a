"""Learning with wrong labels: correction from a few trusted samples, their selection, and baselines."""

from subspace_jax.label_noise import early_stopping, mixup, sam, trusted, verifix

__all__ = ["early_stopping", "mixup", "sam", "trusted", "verifix"]
