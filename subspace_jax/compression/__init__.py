"""How much of each layer does the network use? The utilized rank, smaller networks, and the baselines."""

from subspace_jax.compression import baselines, utilized_rank
from subspace_jax.compression.eigenpairs import spectra
from subspace_jax.compression.factorised import factorised_model

__all__ = ["baselines", "factorised_model", "spectra", "utilized_rank"]
