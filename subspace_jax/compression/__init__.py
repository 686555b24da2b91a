"""How much of each layer does the network use? The utilized rank, smaller networks, and the baselines."""

from subspace_jax.compression import baselines, utilized_rank

__all__ = ["baselines", "utilized_rank"]
