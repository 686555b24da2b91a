"""Bits in words: signs packed along the last axis, and their dot product by XOR and population count.

A word has 8, 16 or 32 bits, the narrowest that holds all values; more than 32 take several words. The dot product
of n signs is n - 2 popcount(a XOR b). Values that a mask leaves out count as 0, such as those of a padded border, which
is no sign.

>>> import jax.numpy as jnp
>>> a, b = (jnp.array(row) for row in ([True, False, True], [True, True, True]))
>>> int(popcount_dot(pack(a), pack(b)[:, None], pack(jnp.ones(3, bool)))[0])
1
"""

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_count, check_filled
from subspace_jax.typing import Array, Bool, Int, Num

WORDS = {8: np.uint8, 16: np.uint16, 32: np.uint32}  # by their bits


def word_bits(count: int) -> int:
    """Bits of the words for so many values."""
    check_count("the number of values", count, 0)
    return next((bits for bits in WORDS if count <= bits), 32)


def pack(bits: Bool[Array | np.ndarray, "*lead n"]) -> Num[Array, "*lead words"]:
    """The bits as unsigned words, the first one lowest; those that are missing in the last word are 0."""
    check_filled("the bits", bits)
    count = bits.shape[-1]
    size = word_bits(count)
    padded = jnp.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -count % size)]).astype(jnp.uint32)
    shifts = jnp.arange(size, dtype=jnp.uint32).reshape(*(1,) * bits.ndim, -1)
    words = (padded.reshape(*bits.shape[:-1], -1, size) << shifts).sum(-1, dtype=jnp.uint32)
    return words.astype(WORDS[size])


def unpack(words: Num[Array, "*lead words"], count: int) -> Bool[Array, "*lead n"]:
    """The first `count` bits: the inverse of `pack`."""
    check_filled("the words", words)
    size = words.dtype.itemsize * 8
    shifts = jnp.arange(size, dtype=words.dtype).reshape(*(1,) * words.ndim, -1)
    bits = (words[..., None] >> shifts) & np.ones((), words.dtype)
    return bits.reshape(*words.shape[:-1], -1)[..., :count].astype(bool)


def popcount_dot(
    a: Num[Array, "*lead words"], b: Num[Array, "words n"], mask: Num[Array, "*#lead words"]
) -> Int[Array, "*lead n"]:
    """Dot products of signs, 1 for a set bit and -1 for another, over the values that the mask has.

    Args:
      a: packed rows.
      b: packed columns.
      mask: packed bits of the values that count; its leading axes may be 1.
    """

    def add(differ: Array, word: tuple[Array, Array, Array]) -> tuple[Array, None]:
        row, column, own = word
        changed = (row[..., None] ^ column.reshape(*(1,) * row.ndim, -1)) & own[..., None]
        return differ + jax.lax.population_count(changed).astype(jnp.int32), None

    words = jnp.moveaxis(a, -1, 0), b, jnp.moveaxis(mask, -1, 0)
    blank = jnp.zeros((*a.shape[:-1], b.shape[-1]), jnp.int32)
    differ, _ = jax.lax.scan(add, blank, words)  # in one expression XLA keeps all words of all pairs
    return jax.lax.population_count(mask).sum(-1, dtype=jnp.int32)[..., None] - 2 * differ
