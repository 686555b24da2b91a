"""How much of each layer does the network use? The utilized rank, smaller networks, and the baselines."""

from subspace_jax.compression import baselines, eigenpairs, factorised, utilized_rank

__all__ = ["baselines", "eigenpairs", "factorised", "utilized_rank"]
