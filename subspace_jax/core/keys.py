"""Random keys per sample, independent of the batch it is in; and conversion of what users give as a key."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Float, Int, Key

WORD = 32  # signs drawn from one random word


def as_key(key: Any) -> Key[Array, ""]:
    """One typed key, from `jax.random.key(0)` or the older `jax.random.PRNGKey(0)`: both give the same numbers.

    Works on tracers; under `vmap` each of a batch of keys is one.

    Raises:
      ValueError: an integer seed; several keys; something else.
    """
    key = as_keys(key)
    if key.shape:
        raise ValueError(f"key must be one key; got keys of shape {key.shape}: give one of them, or use jax.vmap.")
    return key


def as_keys(keys: Any) -> Key[Array, "..."]:
    """Typed keys of any shape; older ones are uint32 with one more axis, (..., 2).

    Raises:
      ValueError: integer seeds, or something else.
    """
    if is_key(keys):
        return keys
    dtype = getattr(keys, "dtype", None)
    if dtype == np.uint32 and keys.ndim:
        try:
            return jax.random.wrap_key_data(jnp.asarray(keys))
        except (TypeError, ValueError):  # another number of words than a key has
            raise ValueError(_no_key(f"uint32 of shape {keys.shape}")) from None
    if isinstance(keys, int | np.integer) and not isinstance(keys, bool):
        raise ValueError(f"key must be a key of jax.random; got the seed {keys}: give jax.random.key({keys}).")
    raise ValueError(_no_key(type(keys).__name__ if dtype is None else f"{dtype} of shape {keys.shape}"))


def is_key(leaf: Any) -> bool:
    """Whether a leaf of a tree is a typed random key, and no plain array."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def on_host(leaf: Any) -> np.ndarray:
    """An array, or the numbers of a key, as NumPy."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def sample_keys(key: Key[Array, ""], index: Int[Array | np.ndarray, " b"]) -> Key[Array, " b"]:
    """One key per sample, folded from its index in the data set.

    A score computed with these keys does not depend on batch size, order, padding or the number of devices.

    Args:
      key: the key of the whole score.
      index: positions in the original data set, below 2**31; equal indices get equal keys.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(as_key(key), jnp.asarray(index))


def rademacher(
    keys: Key[Array, " b"], number: int | Int[Array, ""], shape: tuple[int, ...], dtype=jnp.float32
) -> Float[Array, "b *d"]:
    """Probe `number` of every sample: entries +1 or -1 with equal chance, not normalised, so that ||v||^2 = d.

    One random word gives 32 signs: `jax.random.rademacher` spends a word per sign and is as slow as a small network.
    """
    checks.check_count("the number of a probe", number, 0)
    keys, size = as_keys(keys), math.prod(shape)

    def signs(key):
        words = jax.random.bits(jax.random.fold_in(key, number), (-(-size // WORD), 1), jnp.uint32)  # also under x64
        bits = (words >> jnp.arange(WORD, dtype=words.dtype)[None]) & 1
        return (2 * bits.reshape(-1)[:size].astype(dtype) - 1).reshape(shape)

    return jax.vmap(signs)(keys)


def _no_key(what: str) -> str:
    return f"key must be a key of jax.random; got {what}: give jax.random.key(seed)."
