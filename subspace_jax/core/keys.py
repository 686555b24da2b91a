"""Randomness that belongs to a sample, not to the batch it happens to be in."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.typing import Array, Float, Int, Key

WORD = 32  # signs drawn from one random word


def sample_keys(key: Key[Array, ""], index: Int[Array | np.ndarray, " b"]) -> Key[Array, " b"]:
    """One key a sample, folded from its index in the data set.

    A score computed with these keys does not depend on batch size, order, padding or the number of devices.

    Args:
      key: the key of the whole score.
      index: positions in the original data set, below 2**31; equal indices get equal keys.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(index))


def rademacher(
    keys: Key[Array, " b"], number: int | Int[Array, ""], shape: tuple[int, ...], dtype=jnp.float32
) -> Float[Array, "b *d"]:
    """Probe `number` of every sample: entries +1 or -1 with equal chance, not normalised, so that ||v||^2 = d.

    One random word gives 32 signs: `jax.random.rademacher` spends a word on each and is as slow as a small network.
    """
    size = math.prod(shape)

    def signs(key):
        words = jax.random.bits(jax.random.fold_in(key, number), (-(-size // WORD), 1))
        bits = (words >> jnp.arange(WORD, dtype=words.dtype)[None]) & 1
        return (2 * bits.reshape(-1)[:size].astype(dtype) - 1).reshape(shape)

    return jax.vmap(signs)(keys)
