"""Task after task with one network, and nothing lost: gradient projections, and what they are measured by."""

from subspace_jax.continual import gpm, leak, sgp

__all__ = ["gpm", "leak", "sgp"]
