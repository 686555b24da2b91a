"""Compressors: from a tree of arrays to the message that an agent sends, and back.

A message (the wire) is a pytree of arrays whose bits are packed: `nbytes(wire)` counts the bytes sent, with no
formula. Every leaf is compressed separately, with its own scale and its own key. A leaf with NaN arrives with NaN.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from subspace_jax import trees
from subspace_jax.core import quantize, shares
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Key, Num, PyTree, UInt8


class Compressor(NamedTuple):
    """An encoder with its decoder; a constructor called with equal arguments returns the same object.

    Attributes:
      encode: (key, tree) -> wire, the arrays that are sent; ValueError where a leaf is empty or not floating.
      decode: (wire, like) -> tree of the shapes and dtypes of `like` (arrays or `jax.ShapeDtypeStruct`).
    """

    encode: Callable[[Key[Array, ""], PyTree], PyTree]
    decode: Callable[[PyTree, PyTree], PyTree]


def nbytes(tree: PyTree) -> int:
    """Bytes of all arrays in a tree, such as a wire or its `jax.eval_shape`; a static int."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def feedback(key: Key[Array, ""], compressor: Compressor, tree: PyTree, error: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """Compress with error feedback: what was lost before is added to what is sent now.

    c = tree + error, sent = C(c), new error = c - sent, so that the sums of `tree` and of `sent` over time differ by
    the last error alone (Seide et al., 2014; Karimireddy et al., 2019).

    Returns:
      (wire, sent, error): `sent` is what a receiver decodes; the error starts as zeros.
    """
    corrected = jax.tree.map(jnp.add, tree, error)
    wire = compressor.encode(key, corrected)
    sent = compressor.decode(wire, corrected)
    return wire, sent, jax.tree.map(jnp.subtract, corrected, sent)


@functools.lru_cache
def identity() -> Compressor:
    """The tree as it is."""
    return Compressor(lambda key, tree: tree, lambda wire, like: wire)


@functools.lru_cache
def as_vector(compressor: Compressor) -> Compressor:
    """The same for all leaves as ONE vector: one scale, and the largest entries wherever they are.

    Args:
      compressor: of a tree with a single leaf. All leaves have one dtype, or the widest of theirs is sent.
    """

    def encode(key, tree):
        _check_leaves(tree)
        return compressor.encode(key, jax.flatten_util.ravel_pytree(tree)[0])

    def decode(wire, like):
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        vector, restore = jax.flatten_util.ravel_pytree(blank)
        return restore(compressor.decode(wire, vector))

    return Compressor(encode, decode)


@functools.lru_cache
def sign() -> Compressor:
    """Signs (a zero counts as +1) times the mean magnitude ||c||_1 / n; to be used with `feedback`.

    1 bit per entry, packed, and one scale of the leaf's dtype: ceil(n / 8) + 4 bytes for float32.
    """

    def encode(key, x):
        return pack((x >= 0).astype(jnp.uint8), 1), jnp.abs(x).mean()

    def decode(part, n):
        packed, scale = part
        return jnp.where(unpack(packed, 1, n) == 1, scale, -scale)

    return _per_leaf(encode, decode)


@functools.lru_cache
def top_k(ratio: float, *, bits: int | None = None) -> Compressor:
    """The `kept(n, ratio)` entries of largest magnitude; the others arrive as zero.

    Sends values and int32 indices: 4 + 4 bytes per kept entry for float32. Of equal magnitudes the first are kept.

    Args:
      ratio: share of the entries that is dropped, in [0, 1).
      bits: per value, packed codes between the kept values' minimum and maximum, and two floats for that range:
        bits / 8 + 4 bytes per entry. Not quantised when None.

    Raises:
      ValueError: ratio outside [0, 1); bits outside 1..16.
    """
    _check_ratio(ratio)
    if bits is not None:
        quantize.check_bits(bits)

    def encode(key, x):
        indices = jax.lax.top_k(jnp.abs(x), kept(x.size, ratio))[1]
        return x[indices] if bits is None else _to_grid(x[indices], bits, None), indices

    def decode(part, n):
        values, indices = part
        return _scatter(values if bits is None else _from_grid(values, bits, indices.size), indices, n)

    return _per_leaf(encode, decode)


@functools.lru_cache
def random_k(ratio: float) -> Compressor:
    """`kept(n, ratio)` entries at random, not rescaled; the others arrive as zero.

    Sends the values and the uint32 seed from which the receiver draws their positions again: 4 bytes per kept entry and
    4 per leaf, for float32.

    Args:
      ratio: share of the entries that is dropped, in [0, 1).

    Raises:
      ValueError: ratio outside [0, 1).
    """
    _check_ratio(ratio)

    def places(seed, n):
        lots = jax.random.uniform(jax.random.key(seed), (n,), jnp.float32)
        return jax.lax.top_k(lots, kept(n, ratio))[1]  # with 1 % kept, 20 times faster than a permutation

    def encode(key, x):
        seed = jax.random.bits(key, dtype=jnp.uint32)
        return x[places(seed, x.size)], seed

    def decode(part, n):
        values, seed = part
        return _scatter(values, places(seed, n), n)

    return _per_leaf(encode, decode)


@functools.lru_cache
def qsgd(bits: int, *, biased: bool = False) -> Compressor:
    """||x||_2 sign(x) (floor(l) + Bernoulli(frac l)) / s with l = s |x| / ||x||_2, s = 2^(bits-1) - 1 levels.

    Unbiased; zero stays zero. Sends a sign and a level of bits - 1 bits per entry, packed, and the scale ||x|| / s in
    float32 or wider: ceil(bits n / 8) + 4 bytes (Alistarh et al., 2017, arXiv 1610.02132).

    Args:
      bits: per entry, 2 to 16, its sign included.
      biased: divides by 1 + min(n / s^2, sqrt(n) / s), which makes it a contraction: E||Q(x) - x||^2 < ||x||^2.

    Raises:
      ValueError: bits outside 2..16.
    """
    quantize.check_bits(bits, least=2)
    levels = 2 ** (bits - 1) - 1

    def encode(key, x):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        peak = jnp.abs(x).max()
        x = x / jnp.where(peak > 0, peak, 1)  # the squares of a tiny gradient would vanish
        norm = jnp.maximum(jnp.linalg.norm(x), 1)  # at least 1 but for a zero tensor
        level = quantize.stochastic_round(key, levels * (jnp.abs(x) / norm))
        level = jnp.minimum(level, levels).astype(quantize.code_dtype(bits))  # in case the division rounds up
        negative = (x < 0).astype(level.dtype)
        excess = min(x.size / levels**2, x.size**0.5 / levels) if biased else 0
        return pack(2 * level + negative, bits), norm * peak / (levels * (1 + excess))

    def decode(part, n):
        packed, scale = part
        codes = unpack(packed, bits, n)
        size = (codes >> 1).astype(scale.dtype) * scale
        return jnp.where(codes & 1 == 1, -size, size)

    return _per_leaf(encode, decode)


@functools.lru_cache
def k_bit(bits: int, *, stochastic: bool = False) -> Compressor:
    """2^bits equal steps between the minimum and the maximum (`quantize.codes`): packed codes, the scale and lo.

    ceil(bits n / 8) + 8 bytes; scale and lo are float32 or wider. A constant tensor is exact.

    Args:
      bits: per entry, 1 to 16.
      stochastic: rounds stochastically, without bias; to nearest otherwise.

    Raises:
      ValueError: bits outside 1..16.
    """
    quantize.check_bits(bits)

    def encode(key, x):
        return _to_grid(x, bits, key if stochastic else None)

    return _per_leaf(encode, lambda part, n: _from_grid(part, bits, n))


def kept(n: int, ratio: float) -> int:
    """Entries of a leaf of n that are sent where the share `ratio` is dropped: n (1 - ratio) rounded down, at least 1.

    >>> kept(10, 0.9), kept(1000, 0.9), kept(10, 0.99)
    (1, 100, 1)
    """
    return max(1, shares.kept(n, ratio))


def pack(codes: Num[Array, " n"], bits: int) -> UInt8[Array, " bytes"]:
    """Codes below 2^bits as one stream of bits, lowest bit first: ceil(bits n / 8) bytes.

    >>> pack(jnp.array([1, 2, 3, 0, 1], jnp.uint8), 2)
    Array([57,  1], dtype=uint8)
    """
    quantize.check_bits(bits)
    shifts = jnp.arange(bits, dtype=codes.dtype)[None]
    return jnp.packbits((codes[:, None] >> shifts) & 1, bitorder="little")


def unpack(packed: UInt8[Array, " bytes"], bits: int, n: int) -> Num[Array, " n"]:
    """The n codes that `pack` wrote, uint8 up to 8 bits, else uint16."""
    quantize.check_bits(bits)
    dtype = quantize.code_dtype(bits)
    digits = jnp.unpackbits(packed, count=n * bits, bitorder="little").reshape(n, bits)
    return (digits.astype(dtype) << jnp.arange(bits, dtype=dtype)[None]).sum(1, dtype=dtype)


def _per_leaf(encode: Callable, decode: Callable) -> Compressor:
    """A compressor of trees from encode(key, vector) -> part and decode(part, n) -> vector of one leaf."""

    def encode_tree(key, tree):
        key = as_key(key)
        _check_leaves(tree)
        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten([encode(jax.random.fold_in(key, i), jnp.ravel(x)) for i, x in enumerate(leaves)])

    def decode_tree(wire, like):
        leaves, structure = jax.tree.flatten(like)
        parts = zip(structure.flatten_up_to(wire), leaves, strict=True)
        return structure.unflatten([decode(part, x.size).astype(x.dtype).reshape(x.shape) for part, x in parts])

    return Compressor(encode_tree, decode_tree)


def _check_leaves(tree: PyTree) -> None:
    for path, leaf in trees.flatten(tree).items():
        if not (jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size):
            raise ValueError(
                f"leaf {path!r} is {leaf.dtype} of shape {leaf.shape}: only floating arrays with an entry are "
                "compressed; leave it out."
            )


def _check_ratio(ratio: float) -> None:
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio is the share of entries that is dropped, in [0, 1); got {ratio}.")


def _scatter(values: Array, indices: Array, n: int) -> Array:
    return jnp.zeros(n, values.dtype).at[indices].set(values, unique_indices=True)


def _to_grid(x: Array, bits: int, key: Array | None) -> tuple[Array, Array, Array]:
    codes, scale, lo = quantize.codes(x, bits, *quantize.tensor_range(x), key=key)
    return pack(codes, bits), scale, lo


def _from_grid(part: tuple[Array, Array, Array], bits: int, n: int) -> Array:
    packed, scale, lo = part
    return quantize.dequantize(unpack(packed, bits, n), scale, lo)
