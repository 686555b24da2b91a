"""Membership attacks, a file a family: pure functions of one statistic of targets and shadow models.

Larger scores mean member. `privacy.membership` has all by name.
"""

from subspace_jax.privacy.attacks import curvature, fits, lira, rmia, thresholds

__all__ = ["curvature", "fits", "lira", "rmia", "thresholds"]
