"""Levels and scales of binary and few-bit values, and their straight-through gradients, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import binary

SEEDS = st.integers(0, 2**31 - 1)
BITS = st.sampled_from([1, 2, 3, 8])
SHAPE = (3, 3, 4, 5)
FLOAT32 = 1e-6

quantize = jax.jit(binary.quantize, static_argnums=1, static_argnames="clip")
weight = jax.jit(binary.kbit_weight, static_argnums=1, static_argnames="scale")
gradient = jax.jit(jax.grad(lambda w, bits, g: (binary.kbit_weight(w, bits) * g).sum()), static_argnums=1)


def draw(seed, shape=SHAPE, scale=0.7):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def levels(x, bits):
    """The nearest of the 2^k levels, by looking at all of them; one bit: the sign, 1 at 0."""
    if bits == 1:
        return np.where(x >= 0, 1.0, -1.0)
    grid = -1 + 2 * np.arange(2**bits) / (2**bits - 1)
    return grid[np.abs(np.clip(np.asarray(x, np.float64), -1, 1)[..., None] - grid).argmin(-1)]


@given(SEEDS, BITS)
def test_a_value_goes_to_the_nearest_level(seed, bits):
    x = draw(seed)
    out = np.asarray(quantize(x, bits))
    np.testing.assert_allclose(out, levels(x, bits), atol=FLOAT32)
    np.testing.assert_allclose(np.asarray(binary.codes(x, bits)) / (2**bits - 1), out, atol=FLOAT32)
    assert np.abs(np.clip(x, -1, 1) - out).max() <= 1 / (2**bits - 1) + FLOAT32
    np.testing.assert_allclose(quantize(out, bits), out, atol=FLOAT32)
    np.testing.assert_allclose(quantize(-x, bits), -out, atol=FLOAT32)  # no draw lies half-way


def test_levels_are_counted_ordered_and_even_at_ties():
    x = np.linspace(-1.5, 1.5, 4001, dtype=np.float32)
    for bits in (1, 2, 3):
        out = np.asarray(quantize(x, bits))
        assert len(np.unique(out.round(5))) == 2**bits
        assert (np.diff(out) >= 0).all()
    np.testing.assert_allclose(quantize(jnp.zeros(1), 2), [1 / 3], atol=FLOAT32)
    np.testing.assert_array_equal(binary.sign(jnp.array([0.0, -0.0, -1e-9])), [1, 1, -1])
    np.testing.assert_allclose(quantize(x, 8), np.clip(x, -1, 1), atol=1 / 255 + FLOAT32)


def test_values_outside_pass_no_gradient_unless_they_are_not_clipped():
    x, passed = jnp.array([-2.0, -1.0, -0.3, 0.0, 0.99, 1.0, 3.0]), [0, 0, 1, 1, 1, 0, 0]
    for bits in (1, 2):
        np.testing.assert_array_equal(jax.grad(lambda x: quantize(x, bits).sum())(x), passed)  # noqa: B023
    wide = quantize(x, 2, clip=False)
    np.testing.assert_allclose(wide, [-7 / 3, -1, -1 / 3, 1 / 3, 1, 1, 3], atol=FLOAT32)
    np.testing.assert_array_equal(jax.grad(lambda x: quantize(x, 2, clip=False).sum())(x), np.ones(7))


@given(SEEDS, BITS)
def test_the_gradient_of_a_weight_is_that_of_the_authors(seed, bits):
    w, g = draw(seed), draw(seed + 1)
    n, alpha, sign = 3 * 3 * 4, np.abs(w).mean((0, 1, 2)), np.where(w >= 0, 1.0, -1.0)
    oracle = (alpha * (np.abs(w) <= 1) * g + sign * (sign * g).mean((0, 1, 2))) * (1 - 1 / 4) * n
    np.testing.assert_allclose(gradient(w, bits, g), oracle, rtol=1e-4, atol=1e-4)


@given(SEEDS, BITS)
def test_weights_are_scaled_levels_and_their_scales_are_the_best_there_are(seed, bits):
    w = draw(seed)
    for scale in ("mean", "least_squares"):
        alpha = np.asarray(binary.filter_scale(jnp.asarray(w), bits, scale=scale))
        np.testing.assert_allclose(weight(w, bits, scale=scale), alpha * levels(w, bits), atol=1e-5)
    q = levels(w, bits)
    error = lambda a: ((w - a * q) ** 2).sum((0, 1, 2))  # noqa: E731
    for factor in (0.8, 0.95, 1.05, 1.3):
        assert (error(alpha) <= error(factor * alpha) + FLOAT32).all()


def test_one_bit_takes_two_values_whose_scale_is_the_mean():
    w = draw(3)
    out = np.asarray(binary.binary_weight(jnp.asarray(w)))
    for filter_, kernel in zip(out.reshape(-1, 5).T, w.reshape(-1, 5).T, strict=True):
        np.testing.assert_allclose(np.unique(filter_), [-np.abs(kernel).mean(), np.abs(kernel).mean()], rtol=1e-5)
    best = binary.filter_scale(jnp.asarray(w), 1, scale="least_squares")
    np.testing.assert_allclose(binary.filter_scale(jnp.asarray(w), 1), best, rtol=1e-5)


def test_recentred_weights_have_no_mean_over_channels_unless_they_were_clipped():
    w = draw(0, scale=0.1)
    np.testing.assert_allclose(np.asarray(binary.recentred(w)).mean(2), 0, atol=1e-7)
    np.testing.assert_allclose(binary.recentred(w), w - w.mean(2, keepdims=True), atol=1e-7)
    once = binary.recentred(draw(0, scale=0.7))
    assert np.abs(once).max() <= 1
    assert np.abs(binary.recentred(once) - once).max() > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binary.quantize(jnp.ones(3), 0), "integer in [1, 16]; got 0"),
        (lambda: binary.quantize(jnp.ones(3), 9), "1 to 8 bits; got 9"),
        (lambda: binary.kbit_weight(jnp.ones((3, 3, 1, 4)), 1), "2 channels or more"),
    ],
)
def test_bits_and_kernels_that_there_are_not_are_refused(call, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        call()
    assert message in str(refused.value)
