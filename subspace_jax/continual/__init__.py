"""Continual learning: one network learns task after task without forgetting the earlier ones.

`gpm`, `sgp` (optax transforms), `trgp` and `space` are the methods, `baselines` what they are compared with, `protocol`
runs a sequence of `tasks`, and `leak` checks that an optimiser respects a projection.
"""

from subspace_jax.continual import (
    baselines,
    extract,
    gpm,
    leak,
    projected,
    projection,
    protocol,
    sgp,
    space,
    tasks,
    trgp,
    widths,
)  # fmt: skip

__all__ = [
    "baselines", "extract", "gpm", "leak", "projected", "projection", "protocol", "sgp", "space", "tasks", "trgp",
    "widths",
]  # fmt: skip
