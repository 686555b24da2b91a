"""Networks that learned wrong labels: their correction from a few trusted samples, and who those are."""

from subspace_jax.label_noise import trusted, verifix

__all__ = ["trusted", "verifix"]
