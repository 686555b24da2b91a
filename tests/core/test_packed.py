"""Packed signs and their dot products, against floats."""

import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import packed


def signs(seed, *shape):
    return np.random.default_rng(seed).integers(0, 2, shape).astype(bool)


@pytest.mark.parametrize(
    ("count", "dtype", "words"), [(1, "uint8", 1), (9, "uint16", 1), (32, "uint32", 1), (70, "uint32", 3)]
)
def test_packed_bits_come_back_and_their_dots_are_those_of_the_signs(count, dtype, words):
    a, b, mask = signs(0, 2, 3, count), signs(1, count, 5), signs(2, 1, 3, count)
    rows = packed.pack(a)
    assert (rows.dtype, rows.shape) == (np.dtype(dtype), (2, 3, words))
    np.testing.assert_array_equal(packed.unpack(rows, count), a)
    np.testing.assert_array_equal(packed.unpack(rows, words * rows.dtype.itemsize * 8)[..., count:], False)
    columns = jnp.moveaxis(packed.pack(b.T), 0, 1)
    dots = packed.popcount_dot(rows, columns, packed.pack(mask))
    value = lambda bits: np.where(bits, 1, -1)  # noqa: E731
    np.testing.assert_array_equal(dots, (value(a) * mask) @ value(b))
