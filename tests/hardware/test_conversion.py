"""Clipped sums of single bits against whole numbers and a loop; energies against the published histograms."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn
from subspace_jax.core import costs
from subspace_jax.hardware import adc_pruning, conversion, snapping, sram
from subspace_jax.hardware.conversion import adc_bits, adc_energy, adc_matmul, improvement

SEEDS = st.integers(0, 2**31 - 1)
ROWS = 4
product = jax.jit(lambda x, w, bits: adc_matmul(x, w, bits, rows=ROWS))


def operands(seed, zeros=0.0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 16, (5, 10)), rng.integers(-15, 16, (10, 6)) * (rng.random((10, 6)) >= zeros)


def slow(x, w, bits):
    """Every bit of every operand, tile by tile."""
    total = np.zeros((len(x), w.shape[1]))
    for out in range(w.shape[1]):
        for start in range(0, len(w), ROWS):
            most = 2 ** bits[out // ROWS, start // ROWS] - 1
            for i in range(4):
                for j in range(4):
                    for sign in (1, -1):
                        held = np.maximum(sign * w[start : start + ROWS, out], 0) >> j & 1
                        sums = (x[:, start : start + ROWS] >> i & 1) @ held
                        total[:, out] += sign * 2 ** (i + j) * np.minimum(sums, most)
    return total


@given(SEEDS)
def test_clipped_sums_are_those_of_a_loop(seed):
    x, w = operands(seed)
    bits = np.random.default_rng(seed).integers(0, 4, (2, 3))
    np.testing.assert_array_equal(product(x, w, bits), slow(x, w, bits))


@given(SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_one_bit_more_than_the_model_is_exact(seed, zeros):
    """This is why pruning serves: n weights in a column give sums up to n."""
    x, w = operands(seed, zeros)
    bits = adc_bits(snapping.bins(w.astype(np.float32), ROWS), ROWS)
    np.testing.assert_array_equal(product(x, w, bits + 1), x @ w)
    assert np.abs(np.asarray(product(x, w, bits)) - x @ w).max() <= 225 * 10


def test_a_full_column_is_clipped_by_the_model_s_bits():
    x, w = np.full((1, 4), 15), np.full((4, 1), 15)
    assert float(product(np.pad(x, ((0, 4), (0, 6))), np.pad(w, ((0, 6), (0, 5))), np.full((2, 3), 2))[0, 0]) == 675
    assert (x @ w).item() == 900


def test_the_published_histograms_give_the_published_improvements():
    for rows, counts, expected in ((32, [61, 646, 827, 86, 767, 5481, 1134], 7.134), (64, [6, 1964, 757], 1.270)):
        bins = {"all": np.repeat(np.arange(len(counts)), counts)[None]}
        assert improvement(bins, rows) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("model", costs.CONVERSIONS)
def test_energies_fall_with_the_bin_and_empty_tiles_cost_nothing(model):
    each = [adc_energy({"w": np.array([[k]])}, 16, model=model) for k in range(6)]
    assert all(before > after for before, after in itertools.pairwise(each[:5]))
    assert each[4] == each[5] == 0
    assert improvement({"w": np.zeros((2, 3), int)}, 16, model=model) == 1
    assert improvement({"w": np.full((2, 3), 5)}, 16, model=model) == np.inf


def test_layers_count_by_their_positions():
    bins = {"a": np.array([[0, 1]]), "b": np.array([[2]])}
    assert adc_energy(bins, 16, weights={"a": 64.0, "b": 16.0}) == 64 * (4 + 3) + 16 * 2
    assert improvement(bins, 16, weights={"a": 64.0, "b": 16.0}) == (64 * 8 + 16 * 4) / (64 * 7 + 16 * 2)
    with pytest.raises(ValueError, match="weights say nothing of 'b'"):
        adc_energy(bins, 16, weights={"a": 1.0})


@pytest.fixture(scope="module")
def network():
    model = nn.build("cnn2", widths=(4, 6), dense=(5,), classes=3)
    # both signs; with seed 0 a value of the second layer, a ratio of whole numbers, lies on the edge of two codes
    x = np.random.default_rng(1).normal(size=(6, 4, 4, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    layers = adc_pruning.mapped(model.apply, variables, x, rows=ROWS)
    return model.apply, variables, layers, sram.calibrate(model.apply, variables, x), x


def test_a_network_with_enough_bits_is_the_one_in_few_bits(network):
    apply, variables, layers, calibration, x = network
    kernels = adc_pruning.kernels(layers, variables)
    enough = {path: np.full(snapping.bins(kernel, ROWS).shape, 3) for path, kernel in kernels.items()}
    found = conversion.run_converted(apply, variables, calibration, enough, x, rows=ROWS)
    parts = sram.parts_of(apply, variables, calibration, x, sram.DESIGN)

    def swap(call, part):
        return sram.product(call, part[0], 4, part[1].weight, part[1].inputs)

    some = {path: parts[path] for path in layers}
    quantised = conversion.capture.replace(apply, swap)(variables, some, jnp.asarray(x))
    np.testing.assert_allclose(found, quantised, rtol=1e-4, atol=1e-5)
    few = {path: np.full_like(own, 1) for path, own in enough.items()}
    assert np.abs(np.asarray(conversion.run_converted(apply, variables, calibration, few, x, rows=ROWS)) - found).max()


def test_tiles_of_the_run_are_those_of_the_pruning(network):
    """The bits of one tile change the outputs that its kernel entries feed, and no others."""
    apply, variables, layers, calibration, x = network
    path = next(iter(layers))  # 9 inputs, 4 outputs: 1 x 3 tiles
    kernel = np.asarray(adc_pruning.kernels(layers, variables)[path])
    tile = np.zeros((1, 3, ROWS, ROWS), np.float32)
    tile[0, 1] = 1
    without = np.where(snapping.convolution.untile(tile, kernel.shape) > 0, 0, kernel)
    most = kernel.reshape(-1)[np.abs(kernel).argmax()]
    assert np.abs(without).max() == abs(most)  # the range stays
    changed = adc_pruning.write(layers, variables, {path: without})
    bits = {path: np.array([[3, 0, 3]])}  # without a bit the middle tile gives 0
    found = conversion.run_converted(apply, variables, calibration, bits, x, rows=ROWS)
    same = conversion.run_converted(apply, changed, calibration, {path: np.full((1, 3), 3)}, x, rows=ROWS)
    np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adc_matmul(*operands(0), np.ones((2, 2), int), rows=4), "6 outputs of 10 inputs are 2 x 3 tiles; got"),
        (lambda: adc_matmul(*operands(0), np.ones((2, 3), int), rows=6), "are a power of two, such as 16 or 64; got 6"),
        (lambda: costs.conversion_energy(3, "flash"), "linear, exponential, sar, puma, neurosim; got 'flash'"),
        (lambda: costs.conversion_energy(-1), "a converter has 0 bits or more; got -1"),
    ],
)
def test_what_cannot_be_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_layers_that_were_not_calibrated_are_refused(network):
    apply, variables, _, calibration, x = network
    with pytest.raises(ValueError, match="'other' was not calibrated; the layers are conv0/kernel"):
        conversion.run_converted(apply, variables, calibration, {"other": np.ones((1, 1), int)}, x, rows=ROWS)
