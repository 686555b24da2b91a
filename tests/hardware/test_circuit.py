"""Group sums against a look-up of every product, and a network by the circuit against a loop in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.hardware import circuit as of_circuit
from subspace_jax.hardware import products, sram
from subspace_jax.hardware.circuit import Circuit, group_sums

SEEDS = st.integers(0, 2**31 - 1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 7)).astype(np.float32)  # both signs
PARAMS = {"w": RNG.normal(size=(7, 5)).astype(np.float32), "v": RNG.normal(size=(5, 3)).astype(np.float32)}
KEY = jax.random.key(3)
CIRCUIT = Circuit(rows=3)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def sums_of(v, w, kind, rows, rank):
    return group_sums(v.astype("float32"), w.astype("float32"), products.product_table(kind), rows=rows, rank=rank)


def mlp(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["v"]


CALIBRATION = sram.calibrate(mlp, PARAMS, X)


def looked_up(v, w, table, rows):
    """Every product by itself, zeros for what is missing in the last group."""
    groups = -(-len(w) // rows)
    v, w = np.pad(v, ((0, 0), (0, groups * rows - len(w)))), np.pad(w, ((0, groups * rows - len(w)), (0, 0)))
    each = table[w[None], v[:, :, None]]
    return each.reshape(len(v), groups, rows, -1).sum(2)


@given(SEEDS, st.sampled_from([3, 10]), st.sampled_from([4, 6, 16]))
def test_group_sums_are_those_of_every_product(seed, rows, rank):
    rng = np.random.default_rng(seed)
    v, w = rng.integers(0, 16, (4, 11)), rng.integers(0, 16, (11, 3))
    for kind, bound in (("mc_mean", 1.3e-3), ("ideal", 1e-6), ("nominal_fit", 1e-6)):
        table = products.product_table(kind)
        found = sums_of(v, w, kind, rows, rank)
        atol = rows * (bound if rank == 4 else 1.1e-4 if rank == 6 else 0) + 1e-5
        np.testing.assert_allclose(found, looked_up(v, w, table, rows), atol=atol, rtol=1e-5)


@given(SEEDS, st.sampled_from([0.0, 0.02, 0.5]))
def test_a_passive_accumulation_is_that_of_one_capacitor_after_the_other(seed, ratio):
    """The sum is the last voltage, times a factor that makes equal products count as they do without it."""
    rng = np.random.default_rng(seed)
    v, w, table = rng.integers(0, 16, (4, 7)), rng.integers(0, 16, (7, 3)), products.product_table()
    voltage, unit = np.zeros((4, 3)), 0.0
    for i in range(7):
        voltage = (voltage + ratio * table[w[i][None], v[:, i, None]]) / (1 + ratio)
        unit = (unit + ratio) / (1 + ratio)
    expected = 7 * voltage / unit if ratio else looked_up(v, w, table, 7)[:, 0]
    weights = of_circuit.row_weights(Circuit(rows=7, passive=ratio))
    codes = v.astype("float32"), w.astype("float32")
    found = group_sums(*map(jnp.asarray, codes), table, rows=7, rank=16, weights=weights)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@given(SEEDS)
def test_an_ideal_table_and_fine_converters_give_the_product_of_whole_numbers(seed):
    """One step of 12 bits is .55 units of the ten largest products."""
    rng = np.random.default_rng(seed)
    v, w = rng.integers(0, 16, (4, 11)), rng.integers(0, 16, (11, 3))
    sums = sums_of(v, w, "ideal", 10, 1)
    read = of_circuit.quantize.quantize(sums, 12, 0.0, 10 * 225 * products.UNIT)
    np.testing.assert_array_equal(np.round(np.asarray(read) / products.UNIT).sum(1), v @ w)


def test_tables_are_as_published():
    mean, deviation = products.product_table(), products.product_table("mc_std")
    assert mean.shape == deviation.shape == (16, 16)
    assert (mean[0, 0], mean.min(), mean[15, 15], mean[15, 0]) == pytest.approx((-8.2e-3, -10.7e-3, 0.4689, 2.1e-3))
    assert (np.diff(mean[1:], axis=1) > 0).all()
    assert (deviation > 0).all()
    slope, offset = np.polyfit(np.outer(np.arange(16), np.arange(16)).ravel(), mean.ravel(), 1)
    assert (slope, offset) == pytest.approx((1.875e-3, -11.3e-3), rel=1e-2)
    assert products.product_table("nominal_fit")[15, 15] == pytest.approx(1.659e-3 * 225 - 14.8e-3)
    for table, bound in ((mean, 1.31e-3), (deviation**2, 0.8e-6)):
        a, b = products.factors(table, 4)
        assert np.abs(a @ b.T - table).max() <= bound


def slow(params, x, fits, circuit):
    """The network by loops over signs, every product looked up, float64."""
    table = products.product_table(circuit.table, circuit.bits)
    for path, last in (("w", False), ("v", True)):
        own, fit = CALIBRATION.ranges[path], fits[path]
        codes = [np.clip(np.round(np.asarray(value, np.float64) * 15 / float(most)), -15, 15).astype(int)
                 for value, most in ((x, own.inputs), (params[path], own.weight))]  # fmt: skip
        total = 0.0
        for of_x in (1, -1):
            for of_w in (1, -1):
                if of_x < 0 and path not in CALIBRATION.signed:
                    continue
                sums = looked_up(np.maximum(of_x * codes[0], 0), np.maximum(of_w * codes[1], 0), table, circuit.rows)
                if circuit.adc_bits:
                    step = (float(fit.high) - float(fit.low)) / (2**circuit.adc_bits - 1)
                    sums = float(fit.low) + step * np.clip(
                        np.round((sums - float(fit.low)) / step), 0, 2**circuit.adc_bits - 1
                    )
                total = total + of_x * of_w * sums.sum(1)
        x = float(fit.gain) * total + float(fit.offset)
        x = x if last else np.maximum(x, 0)
    return x


@pytest.mark.parametrize(
    "circuit", [CIRCUIT._replace(rank=16), Circuit(rows=3, table="ideal", adc_bits=None, rank=1)], ids=["adc", "ideal"]
)
def test_a_network_is_that_of_a_loop(circuit):
    assert CALIBRATION.signed == ("w",)
    fits = of_circuit.fit(mlp, PARAMS, CALIBRATION, X, circuit=circuit)
    found = of_circuit.run_circuit(mlp, PARAMS, CALIBRATION, fits, X, circuit=circuit)
    np.testing.assert_allclose(found, slow(PARAMS, X, fits, circuit), rtol=1e-3, atol=1e-3)


def test_ideal_products_without_a_converter_are_the_network_in_few_bits():
    circuit = Circuit(rows=3, table="ideal", adc_bits=None)
    fits = of_circuit.fit(mlp, PARAMS, CALIBRATION, X, circuit=circuit)
    found = of_circuit.run_circuit(mlp, PARAMS, CALIBRATION, fits, X, circuit=circuit)
    np.testing.assert_allclose(found, sram.run_chip(mlp, PARAMS, CALIBRATION, X), rtol=1e-3, atol=1e-3)


def test_the_full_range_is_that_of_the_largest_products_and_sums_are_far_below():
    narrow = of_circuit.fit(mlp, PARAMS, CALIBRATION, X, circuit=CIRCUIT)
    wide = of_circuit.fit(mlp, PARAMS, CALIBRATION, X, circuit=CIRCUIT._replace(range="full"))
    for path in ("w", "v"):
        assert tuple(map(float, wide[path][:2])) == pytest.approx((3 * -8.2e-3, 3 * 0.4689), rel=1e-5)
        assert narrow[path].low < narrow[path].high < wide[path].high / 2  # far from 3 largest products


def test_the_noise_of_a_sum_has_the_variance_of_its_products():
    params = {"w": np.full((3, 1), 1.0, np.float32)}
    x = np.full((20000, 3), 1.0, np.float32)

    def linear(params, x):
        return x @ params["w"]

    calibration = sram.calibrate(linear, params, x[:4])
    circuit = Circuit(rows=3, adc_bits=None)
    fits = {"w": of_circuit.Fit(*map(jnp.float32, (0, 1, 1, 0)))}
    found = of_circuit.run_circuit(linear, params, calibration, fits, x, circuit=circuit, key=KEY)
    deviation = products.product_table("mc_std")  # weights 15 and, where they are summed for the other sign, 0
    expected = 3 * (deviation[15, 15] ** 2 + deviation[0, 15] ** 2)
    assert float(np.asarray(found).var()) == pytest.approx(expected, rel=0.04)


def test_a_convolution_groups_its_inputs_channel_by_channel():
    """Converters see sums of one channel's window: a bit each, so that another grouping would show."""
    kernel, x = RNG.random((2, 2, 3, 4)).astype(np.float32), RNG.random((2, 4, 4, 3)).astype(np.float32)

    def conv(kernel, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)

    calibration = sram.calibrate(conv, kernel, x)
    circuit, low, high = Circuit(rows=4, adc_bits=2, rank=16), 0.0, 0.8
    fits = {"kernel": of_circuit.Fit(*map(jnp.float32, (low, high, 1, 0)))}
    found = of_circuit.run_circuit(conv, kernel, calibration, fits, x, circuit=circuit)
    codes = [np.round(values * 15 / values.max()).astype(int) for values in (x, kernel)]
    expected = np.zeros(found.shape)
    for at in np.ndindex(2, 3, 3):
        window = codes[0][at[0], at[1] : at[1] + 2, at[2] : at[2] + 2]
        for c in range(3):
            for sign, w in ((1, codes[1][:, :, c]), (-1, 0 * codes[1][:, :, c])):  # no weight below zero
                sums = looked_up(window[..., c].reshape(1, 4), w.reshape(4, 4), products.product_table(), 4)[0, 0]
                expected[at] += sign * high / 3 * np.clip(np.round(sums * 3 / high), 0, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("circuit", "message"),
    [
        (Circuit(bits=5), "mc_mean was simulated for 4 bits; got 5: take the table nominal_fit or ideal"),
        (Circuit(rows=26), "rows summed before a conversion are whole, in [1, 25]; got 26"),
        (Circuit(range="wide"), "the range of a converter is 'calibrated' or 'full'; got 'wide'"),  # type: ignore
        (Circuit(table="none"), "tables are mc_mean, mc_std, nominal_fit and ideal; got 'none'"),  # type: ignore
        (Circuit(rank=17), "the rank is in [1, 16]; got 17"),
        (Circuit(passive=-1.0), "a ratio of capacitors is at least 0 and finite; got -1.0"),
    ],
)
def test_circuits_that_cannot_be_are_refused(circuit, message, unchecked):
    with pytest.raises(ValueError, match=re.escape(message)):
        of_circuit.fit(mlp, PARAMS, CALIBRATION, X, circuit=circuit)


def test_noise_and_fits_that_are_not_there_are_refused():
    fits = of_circuit.fit(mlp, PARAMS, CALIBRATION, X, circuit=CIRCUIT)
    with pytest.raises(ValueError, match="there is no fit of 'v': fit this network"):
        of_circuit.run_circuit(mlp, PARAMS, CALIBRATION, {"w": fits["w"]}, X, circuit=CIRCUIT)
    five = Circuit(bits=5, table="ideal")
    with pytest.raises(ValueError, match="noise of cells was simulated for 4 bits; got 5"):
        of_circuit.run_circuit(mlp, PARAMS, CALIBRATION, fits, X, circuit=five, key=KEY)
