import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import quantize as qz

SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.sampled_from([(), (4, 5, 2)])
BITS = st.sampled_from([1, 8, 11, 16])
DRAWS = 4096
FLOAT32 = 2e-6  # rounding of s k + lo, relative to the largest value


quantize = jax.jit(qz.quantize, static_argnums=1)
codes = jax.jit(qz.codes, static_argnums=1)


def draw(seed, shape):
    return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape) + 1, jnp.float32)


def levels(bits, lo, hi):
    """The 2^bits values of the grid in float64."""
    return lo + (hi - lo) / (2**bits - 1) * np.arange(2**bits)


@given(SEEDS, SHAPES, BITS)
def test_every_value_goes_to_the_nearest_of_the_grid(seed, shape, bits):
    x = draw(seed, shape)
    grid = levels(bits, -4.0, 5.0)
    oracle = np.abs(np.asarray(x, np.float64)[..., None] - grid).min(-1)
    np.testing.assert_allclose(np.abs(quantize(x, bits, -4.0, 5.0) - x), oracle, atol=10 * FLOAT32)


@given(SEEDS, SHAPES, BITS, st.booleans())
def test_error_inside_the_range_is_half_a_step_or_one_step(seed, shape, bits, stochastic):
    x, key = draw(seed, shape), jax.random.key(seed) if stochastic else None
    lo, hi = x.min() - 1, x.max() + 1
    step = float(hi - lo) / (2**bits - 1)
    error = np.abs(quantize(x, bits, lo, hi, key=key) - x)
    assert error.max() <= (step if stochastic else step / 2) + 10 * FLOAT32


@given(SEEDS, SHAPES, BITS)
def test_quantizing_twice_is_quantizing_once(seed, shape, bits):
    once = quantize(draw(seed, shape), bits, -4.0, 5.0)
    np.testing.assert_array_equal(quantize(once, bits, -4.0, 5.0), once)


@given(SEEDS, SHAPES, BITS)
def test_codes_survive_their_values(seed, shape, bits):
    k, scale, lo = codes(draw(seed, shape), bits, -4.0, 5.0)
    assert k.dtype == (np.uint8 if bits <= 8 else np.uint16)
    np.testing.assert_array_equal(codes(qz.dequantize(k, scale, lo), bits, -4.0, 5.0)[0], k)


def test_a_tensor_has_at_most_two_to_the_bits_values():
    x = draw(0, (5000,))
    assert len(np.unique(quantize(x, 8, *qz.tensor_range(x)))) <= 256


def test_outliers_go_to_the_ends_of_the_range():
    out = quantize(jnp.array([-9.0, jnp.inf, 9.0]), 8, -1.0, 1.0)
    np.testing.assert_allclose(out, [-1, 1, 1], rtol=FLOAT32)


def mean_of_draws(quantized, key):
    return np.asarray(jax.jit(jax.vmap(quantized))(jax.random.split(key, DRAWS)), np.float64).mean(0)


def four_sigma(x, bits, lo, hi):
    """Of the mean of DRAWS stochastic roundings: the fraction f of a step has variance f (1 - f)."""
    step = float(hi - lo) / (2**bits - 1)
    f = (np.asarray(x, np.float64) - float(lo)) / step % 1
    return 4 * step * np.sqrt(f * (1 - f) / DRAWS) + 10 * FLOAT32


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_stochastic_rounding_has_no_bias(bits):
    x = draw(3, (16,))
    lo, hi = x.min() - 1, x.max() + 1
    mean = mean_of_draws(lambda key: quantize(x, bits, lo, hi, key=key), jax.random.key(bits))
    assert (np.abs(mean - x) <= four_sigma(x, bits, lo, hi)).all()


def test_stochastic_rounding_leaves_integers_alone():
    x = jnp.arange(-300.0, 70000.0, 97)
    np.testing.assert_array_equal(qz.stochastic_round(jax.random.key(0), x), x)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.3, -1e5])
def test_a_constant_tensor_survives(value, stochastic):
    x, key = jnp.full((3, 2), value), jax.random.key(1) if stochastic else None
    np.testing.assert_array_equal(quantize(x, 8, *qz.tensor_range(x), key=key), x)


def test_steps_are_not_below_their_floor():
    k, scale, _ = codes(jnp.array([0.0, 1e-9, 2.2e-8]), 8, 0.0, 2.2e-8)
    np.testing.assert_array_equal(k, [0, 0, 2])
    assert scale == np.float32(1e-8)


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_what_is_not_finite_spoils_the_whole_tensor(wrong):
    x = jnp.array([1.0, wrong, 2.0])
    assert np.isnan(quantize(x, 8, *qz.tensor_range(x))).all()


def test_float64_is_rounded_in_float64():
    with jax.enable_x64(True):
        x = jnp.linspace(0, 1, 7, dtype=jnp.float64)
        out = quantize(x, 16, 0.0, 1.0)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out * 65535, np.round(np.asarray(out) * 65535), atol=1e-10)


def test_bfloat16_stays_bfloat16():
    x = draw(0, (5,)).astype(jnp.bfloat16)
    assert quantize(x, 4, *qz.tensor_range(x)).dtype == jnp.bfloat16


@jax.jit
def gradients_of_the_sum(x, key):
    """In a fixed range, and in the tensor's own."""
    ranges = (lambda x: (-1.0, 1.0)), qz.tensor_range
    return [jax.grad(lambda x, of=of: qz.quantize(x, 8, *of(x), key=key).sum())(x) for of in ranges]


@given(SEEDS, st.booleans())
def test_gradient_of_the_sum_is_one_inside_and_outside_the_range(seed, stochastic):
    x, key = draw(seed, (4, 5, 2)), jax.random.key(seed) if stochastic else None
    for gradient in gradients_of_the_sum(x, key):
        np.testing.assert_array_equal(gradient, np.ones(x.shape))


def test_forward_mode_is_straight_through_too():
    x, tangent = draw(0, (7,)), draw(1, (7,))
    np.testing.assert_array_equal(jax.jvp(lambda x: quantize(x, 2, -1.0, 1.0), (x,), (tangent,))[1], tangent)


@functools.partial(jax.jit, static_argnums=1)
def pull(cotangent, bits, key):
    """What quantize_grad makes of a cotangent."""
    return jax.vjp(lambda x: qz.quantize_grad(key, x, bits), jnp.zeros_like(cotangent))[1](cotangent)[0]


@pytest.mark.parametrize("bits", [None, 1, 8])
def test_quantize_grad_is_the_identity_forward(bits):
    x = draw(0, (7,))
    np.testing.assert_array_equal(qz.quantize_grad(jax.random.key(0), x, bits), x)
    np.testing.assert_array_equal(jax.vjp(lambda x: qz.quantize_grad(jax.random.key(0), x, bits), x)[0], x)


@given(SEEDS, st.sampled_from([2, 8]))
def test_cotangent_arrives_on_the_grid_of_its_own_range(seed, bits):
    cotangent = draw(seed, (4, 5, 2))
    lo, hi = qz.tensor_range(cotangent)
    arrived = np.asarray(pull(cotangent, bits, jax.random.key(seed)), np.float64)
    step = float(hi - lo) / (2**bits - 1)
    steps = (arrived - float(lo)) / step
    np.testing.assert_allclose(steps, np.round(steps), atol=2**bits * 10 * FLOAT32)
    assert np.abs(arrived - cotangent).max() <= step + 10 * FLOAT32


def test_cotangent_is_unbiased_and_differs_by_key():
    cotangent = draw(5, (16,))
    assert (pull(cotangent, 2, jax.random.key(0)) != pull(cotangent, 2, jax.random.key(1))).any()
    error = np.abs(mean_of_draws(lambda key: pull(cotangent, 2, key), jax.random.key(2)) - cotangent)
    assert (error <= four_sigma(cotangent, 2, *qz.tensor_range(cotangent))).all()


def test_no_bits_is_the_float_path():
    x = draw(0, (7,))
    np.testing.assert_array_equal(quantize(x, None, -1.0, 1.0), x)
    np.testing.assert_array_equal(pull(x, None, jax.random.key(0)), x)


@given(SEEDS)
def test_batch_range_is_the_mean_of_the_samples_ranges(seed):
    x = draw(seed, (4, 5, 2))
    oracle = [np.mean([f(row) for row in np.asarray(x)]) for f in (np.min, np.max)]
    np.testing.assert_allclose(qz.batch_range(x), oracle, atol=10 * FLOAT32)


def test_observer_forgets_nine_tenths_at_every_step():
    seen = qz.observer()
    for lo, hi in [(-1.0, 2.0), (-3.0, 4.0)]:
        seen = qz.observe(seen, jnp.float32(lo), jnp.float32(hi))
    np.testing.assert_allclose(seen, [0.1 * 0.9 * -1 + 0.9 * -3, 0.1 * 0.9 * 2 + 0.9 * 4], rtol=FLOAT32)


def test_an_observer_without_a_step_is_refused_by_name():
    tree = {"first": qz.observe(qz.observer(), *qz.batch_range(draw(0, (4, 3))))}
    qz.check_calibrated(tree)
    with pytest.raises(ValueError, match="observer 'block/1' is not calibrated"):
        qz.check_calibrated(tree | {"block": [tree["first"], qz.observer()]})


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_bits_out_of_range_are_refused(bits):
    for call in (
        lambda: qz.quantize(jnp.ones(2), bits, 0.0, 1.0),
        lambda: qz.codes(jnp.ones(2), bits, 0.0, 1.0),
        lambda: qz.quantize_grad(jax.random.key(0), jnp.ones(2), bits),
        lambda: pull(jnp.ones(2), bits, jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=rf"an integer in \[1, 16\]; got {bits}"):
            call()


GREYS = jnp.arange(256, dtype=jnp.float32) / 255


@given(SEEDS, st.sampled_from([1, 2, 4, 8]))
def test_an_input_goes_to_the_centre_of_its_bin(seed, bits):
    x = jnp.asarray(np.random.default_rng(seed).uniform(-0.2, 1.2, size=(4, 5)), jnp.float32)
    found, width = np.asarray(qz.quantize_input(x, bits, 0, 1)), 1 / 2**bits
    inside = (x >= 0) & (x <= 1)
    assert np.abs(found - x)[inside].max() <= width / 2 + FLOAT32
    np.testing.assert_allclose((found / width - 0.5) % 1, 0, atol=1e-4)
    assert found.min() >= width / 2 - FLOAT32
    assert found.max() <= 1 - width / 2 + FLOAT32
    np.testing.assert_array_equal(qz.quantize_input(jnp.asarray(found), bits, 0, 1), found)
    np.testing.assert_array_equal(np.argsort(found.ravel()[np.argsort(x.ravel())], kind="stable"), np.arange(x.size))


def test_black_and_white_stay_in_the_outer_bins_after_a_normalisation():
    """(0 - .4914) / .2023 is rounded to a value below the range: its bin would be number -1."""
    mean, std = 0.4914, 0.2023
    x = (jnp.array([0.0, 1.0]) - mean) / std
    width = 1 / std / 4
    expected = np.array([-mean / std + width / 2, (1 - mean) / std - width / 2])
    np.testing.assert_allclose(qz.quantize_input(x, 2, -mean / std, (1 - mean) / std), expected, rtol=1e-6)
    assert len(np.unique(qz.quantize_input(GREYS, 8, 0, 1))) == 256


def test_bits_of_an_input_may_be_an_array_and_gradients_pass():
    alike = [qz.quantize_input(GREYS, bits, 0, 1) for bits in (1, 3)]
    together = jax.vmap(lambda bits: qz.quantize_input(GREYS, bits, 0, 1))(jnp.array([1, 3]))
    np.testing.assert_array_equal(together, np.stack(alike))
    np.testing.assert_array_equal(jax.grad(lambda x: (qz.quantize_input(x, 2, 0, 1) * GREYS).sum())(GREYS), GREYS)


def test_channels_may_have_ranges_of_their_own():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 3)), jnp.float32)
    lo, hi = (jnp.array(ends).reshape(1, 1, 1, 3) for ends in ([-1.0, -2.0, 0.0], [1.0, 3.0, 0.5]))
    found = np.asarray(qz.quantize_input(x, 2, lo, hi))
    for channel in range(3):
        own = qz.quantize_input(x[..., channel], 2, float(lo[0, 0, 0, channel]), float(hi[0, 0, 0, channel]))
        np.testing.assert_array_equal(found[..., channel], own)
        assert len(np.unique(found[..., channel])) <= 4


def test_halftone_is_its_formula_and_its_gradient_that_of_the_sigmoid():
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=(2, 5, 4, 2)) for _ in range(2))
    u = (x - x.mean((1, 2, 3), keepdims=True)) / np.ptp(x, axis=(1, 2, 3), keepdims=True)
    padded = np.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)))
    dots = sum(qz.DOTS[i][j] * padded[:, i : i + 5, j : j + 4] for i in range(3) for j in range(3)) + 1e-3
    found = qz.halftone(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(found, (np.sign(dots) + 1) / 2)

    def smooth(u):
        padded = jnp.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)))
        dots = sum(qz.DOTS[i][j] * padded[:, i : i + 5, j : j + 4] for i in range(3) for j in range(3))
        return (weight * (jax.nn.sigmoid(dots + 1e-3) / 2)).sum()

    expected = jax.grad(smooth)(jnp.asarray(u, jnp.float32)) / np.ptp(x, axis=(1, 2, 3), keepdims=True)
    gradient = jax.grad(lambda x: (weight * qz.halftone(x)).sum())(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(qz.halftone(jnp.zeros((1, 3, 3, 1)))).all()


def test_dorefa_has_its_levels_and_passes_gradients():
    w = draw(0, (40, 3))
    t = np.tanh(np.asarray(w, np.float64))
    s = np.abs(t).max()
    expected = s * (2 * np.round((t / (2 * s) + 0.5) * 3) / 3 - 1)
    np.testing.assert_allclose(qz.dorefa_weight(w, 2), expected, atol=1e-5)
    slope = jax.grad(lambda w: qz.dorefa_weight(w, 2).sum())(w)
    np.testing.assert_allclose(slope, 1 - t**2, atol=1e-5)
    np.testing.assert_allclose(qz.dorefa_activation(jnp.array([-1.0, 0.4, 2.0]), 1), [0, 0, 1])
    assert np.isfinite(qz.dorefa_weight(jnp.zeros((2, 2)), 4)).all()
    assert qz.dorefa_weight(w, None) is w


@pytest.mark.parametrize(("arguments", "message"), [
    ((9, 0, 1), r"bits of an input are an integer in \[1, 8\]; got 9"), ((0, 0, 1), "got 0"),
    ((2, 1, 1), "from lo up to hi; got 1 and 1"),
])  # fmt: skip
def test_inputs_without_bins_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        qz.quantize_input(GREYS, *arguments)


magnitude = jax.jit(qz.magnitude, static_argnums=1)


@given(SEEDS, BITS)
def test_sign_and_magnitude_are_the_nearest_value_of_the_grid(seed, bits):
    x, maximum = np.asarray(draw(seed, (4, 5, 2))), 2.5
    found, scale = magnitude(x, bits, maximum)
    found, grid = np.asarray(found, np.float64), maximum / (2**bits - 1) * np.arange(-(2**bits) + 1, 2**bits)
    np.testing.assert_array_equal(found, np.round(found))
    assert abs(found).max() <= 2**bits - 1
    nearest = np.abs(grid - np.clip(x, -maximum, maximum)[..., None]).min(-1)
    np.testing.assert_allclose(np.abs(found * float(scale) - np.clip(x, -maximum, maximum)), nearest, atol=1e-5)
    assert (found * x >= 0).all()


@pytest.mark.parametrize("maximum", [0.0, -1.0, float("nan")])
def test_a_magnitude_without_a_maximum_is_refused(maximum):
    with pytest.raises(ValueError, match="the largest magnitude must be above 0"):
        qz.magnitude(jnp.ones(3), 4, maximum)


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=9), st.sampled_from([1, 4, 6]))
def test_a_converter_s_codes_are_in_its_range_and_never_fall(values, bits):
    found, _, _ = qz.codes(jnp.asarray(sorted(values), jnp.float32), bits, -1.0, 2.0)
    found = np.asarray(found, int)
    assert found.min() >= 0
    assert found.max() < 2**bits
    assert (np.diff(found) >= 0).all()
