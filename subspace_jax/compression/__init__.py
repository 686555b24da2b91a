"""How much of each layer does a network use, how many filters and bits does it need? Ranks, designs, and baselines."""

from subspace_jax.compression import (
    baselines,
    channel_groups,
    eigenpairs,
    factorised,
    hybrid_net,
    pca_design,
    utilized_rank,
)

__all__ = ["baselines", "channel_groups", "eigenpairs", "factorised", "hybrid_net", "pca_design", "utilized_rank"]
