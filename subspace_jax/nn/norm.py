"""Norms that Flax does not have."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class MinibatchNorm(nn.Module):
    """Batch normalisation with the batch's own statistics in training AND at test: it keeps none.

    Nothing of earlier tasks can drift, and a sample's output depends on its batch: test with a fixed batch, and record
    it with the result.
    """

    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """(..., channels) -> the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        shape = (1,) * (x.ndim - 1) + (-1,)
        out = (wide - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale.reshape(shape) + bias.reshape(shape)
        return out.astype(self.dtype)
