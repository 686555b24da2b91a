"""Networks that learned wrong labels: their correction from a few trusted samples, who those are, and the baselines."""

from subspace_jax.label_noise import early_stopping, mixup, sam, trusted, verifix

__all__ = ["early_stopping", "mixup", "sam", "trusted", "verifix"]
