"""Networks as pure functions: ours by name, those of any library, and published weights."""

import subspace_jax.nn.layers as layers
from subspace_jax.nn import weights
from subspace_jax.nn.build import build
from subspace_jax.nn.heads import level_heads, multi_head
from subspace_jax.nn.model import Model, from_function, from_linen, from_nnx

__all__ = [
    "Model", "build", "from_function", "from_linen", "from_nnx", "layers", "level_heads", "multi_head", "weights",
]  # fmt: skip
