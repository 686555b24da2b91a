"""Task after task with one network, and nothing lost: gradient projections, and what they are measured by."""

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
