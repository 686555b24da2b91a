"""How much of each layer does a network use? Utilized rank, factorised networks, and baselines."""

from subspace_jax.compression import baselines, eigenpairs, factorised, utilized_rank

__all__ = ["baselines", "eigenpairs", "factorised", "utilized_rank"]
