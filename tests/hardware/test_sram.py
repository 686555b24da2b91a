"""Networks in the array against the formulas in float64, sum by sum; a chip is the same in every batch and library."""

import re

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn
from subspace_jax.hardware import sram
from subspace_jax.hardware.sram import Design, Range

RNG = np.random.default_rng(0)
X = np.maximum(RNG.normal(size=(12, 6)), 0).astype(np.float32)
W = [RNG.normal(size=shape).astype(np.float32) for shape in ((6, 5), (5, 3))]
BIAS = [RNG.normal(size=(1, 5)).astype(np.float32), RNG.normal(size=(1, 3)).astype(np.float32)]
PARAMS = {"one": {"kernel": W[0], "bias": BIAS[0]}, "two": {"kernel": W[1], "bias": BIAS[1]}}
DESIGN = Design(rows=2, sigma=1.0)
KEY = jax.random.key(3)


def mlp(params, x):
    return (
        jax.nn.relu(x @ params["one"]["kernel"] + params["one"]["bias"]) @ params["two"]["kernel"]
        + params["two"]["bias"]
    )


def torch_like(params, x):
    """The same network with other names, kernels (out, in) and the data on the right."""
    hidden = jax.nn.relu(params["z"] @ x.T + params["y"].T)
    return (params["b"] @ hidden + params["a"].T).T


compiled = jax.jit(sram.convert, static_argnums=3)
CALIBRATION = sram.calibrate(mlp, PARAMS, X)
CHIP = sram.sample_chip(KEY, CALIBRATION, DESIGN)


def grid(x, bits, most):
    """Sign and magnitude in float64."""
    levels = 2**bits - 1
    return np.clip(np.round(np.asarray(x, np.float64) * levels / most), -levels, levels) * most / levels


def converted(sums, high, low, offsets, levels):
    """The converters, one sum after the other."""
    out = np.zeros_like(sums)
    for place, s in np.ndenumerate(sums):
        most = high if s >= 0 else low
        if most > 0:
            code = min(max(np.round(abs(s) * levels / most) + offsets[place[1:]], 0), levels)
            out[place] = np.sign(s) * code * most / levels
    return out


def slow(x, chip=None, design=DESIGN, calibrate=False):
    """The two-layer network by the formulas; with `calibrate` the ranges of this batch."""
    ranges = []
    for path, w, bias in zip(("one/kernel", "two/kernel"), W, BIAS, strict=True):
        own = [float(value) for value in CALIBRATION.ranges[path]]
        if calibrate:
            own[:2] = abs(w).max(), abs(x).max()
        sums = grid(x, design.bits, own[1]) @ grid(w, design.bits, own[0])
        ranges.append((own[0], own[1], max(sums.max(), 0), max(-sums.min(), 0)))
        if chip is not None:
            levels = (2**design.adc_bits - 1) * len(w) / design.rows
            sums = converted(sums, own[2], own[3], np.asarray(chip[path])[0], levels)
        x = sums + bias if path == "two/kernel" else np.maximum(sums + bias, 0)
    return ranges if calibrate else x


def test_calibration_measures_the_quantised_network():
    found = [tuple(map(float, CALIBRATION.ranges[path])) for path in ("one/kernel", "two/kernel")]
    np.testing.assert_allclose(found, slow(X, calibrate=True), rtol=1e-5)
    assert CALIBRATION.shapes == {"one/kernel": (1, 6, 5), "two/kernel": (1, 5, 3)}
    assert CALIBRATION.digital == ()


@pytest.mark.parametrize("chip", [None, CHIP], ids=["quantised", "chip"])
def test_a_network_is_that_of_the_formulas(chip):
    found = sram.run_chip(mlp, PARAMS, CALIBRATION, X, chip=chip, design=DESIGN)
    np.testing.assert_allclose(found, slow(X, chip), rtol=1e-4, atol=1e-5)


def test_many_bits_give_the_float_network():
    calibration = sram.calibrate(mlp, PARAMS, X, bits=11)
    found = sram.run_chip(mlp, PARAMS, calibration, X, design=Design(bits=11))
    np.testing.assert_allclose(found, mlp(PARAMS, X), atol=0.02)


def test_fine_converters_without_deviation_give_the_quantised_network():
    fine = Design(adc_bits=16, rows=1, sigma=0.0)
    chip = sram.sample_chip(KEY, CALIBRATION, fine)
    found = sram.run_chip(mlp, PARAMS, CALIBRATION, X, chip=chip, design=fine)
    np.testing.assert_allclose(found, sram.run_chip(mlp, PARAMS, CALIBRATION, X, design=fine), atol=2e-3)


@given(
    st.lists(st.floats(-8, 8, width=32, allow_subnormal=False), min_size=12, max_size=12),
    st.lists(st.integers(-9, 9), min_size=6, max_size=6),
    st.sampled_from([(4.0, 2.0), (4.0, 0.0), (0.0, 2.0)]),
    st.sampled_from([13.5, 45.0]),
)
def test_converters_are_those_of_a_loop(sums, offsets, most, levels):
    sums, offsets = np.float32(sums).reshape(2, 2, 3), np.float32(offsets).reshape(2, 3)
    own = Range(jnp.float32(1), jnp.float32(1), *map(jnp.float32, most))
    found = np.asarray(compiled(sums, own, offsets, levels))
    expected = converted(sums.astype(np.float64), *most, offsets, levels)
    step = max(most) / levels
    ties = np.abs(np.abs(sums * levels / np.where(sums < 0, most[1] or 1, most[0] or 1)) % 1 - 0.5) < 1e-4
    np.testing.assert_allclose(found[~ties], expected[~ties], atol=1e-4)
    assert (np.abs(found - expected) <= step + 1e-4).all()
    assert (found * sums >= 0).all()
    assert (np.clip(found, -most[1] - 1e-6, most[0] + 1e-6) == found).all()


def test_offsets_are_whole_and_have_the_deviation_of_all_conversions():
    calibration = CALIBRATION._replace(shapes={"one/kernel": (400, 90, 50)})
    drawn = np.asarray(sram.sample_chip(KEY, calibration, Design(rows=10, sigma=2.0))["one/kernel"])
    np.testing.assert_array_equal(drawn, np.round(drawn))
    assert drawn.var() == pytest.approx(4 * 9 + 1 / 12, rel=0.03)  # rounding adds a twelfth
    assert abs(drawn.mean()) < 0.15


def test_a_chip_is_the_same_in_every_batch():
    whole = sram.run_chip(mlp, PARAMS, CALIBRATION, X, chip=CHIP, design=DESIGN)
    part = sram.run_chip(mlp, PARAMS, CALIBRATION, X[3:8], chip=CHIP, design=DESIGN)
    np.testing.assert_array_equal(part, whole[3:8])


def test_a_network_of_another_library_gets_the_same_chip():
    other = {"z": W[0].T, "y": BIAS[0], "b": W[1].T, "a": BIAS[1]}
    calibration = sram.calibrate(torch_like, other, X)
    chip = sram.sample_chip(KEY, calibration, DESIGN)
    found = sram.run_chip(torch_like, other, calibration, X, chip=chip, design=DESIGN)
    np.testing.assert_allclose(
        found, sram.run_chip(mlp, PARAMS, CALIBRATION, X, chip=CHIP, design=DESIGN), rtol=1e-5, atol=1e-6
    )


class Nnx(nnx.Module):
    """The network in nnx."""

    def __init__(self, rngs):
        self.one, self.two = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.two(nnx.relu(self.one(x)))


def test_linen_nnx_and_plain_functions_give_the_same_chip_the_same_logits():
    params = {name: {"kernel": own["kernel"], "bias": own["bias"][0]} for name, own in PARAMS.items()}
    linens = {f"layers_{place}": params[name] for place, name in ((0, "one"), (2, "two"))}
    layers = linen.Sequential([linen.Dense(5), jax.nn.relu, linen.Dense(3)])
    expected = sram.run_chip(mlp, PARAMS, CALIBRATION, X, chip=CHIP, design=DESIGN)
    for model, own in ((nn.from_linen(layers), linens), (nn.from_nnx(Nnx), params)):
        variables = {"params": own, "batch_stats": {}}
        calibration = sram.calibrate(model.apply, variables, X)
        chip = sram.sample_chip(KEY, calibration, DESIGN)
        found = sram.run_chip(model.apply, variables, calibration, X, chip=chip, design=DESIGN)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def network():
    """A small convolutional network of ours on 8x8 images."""
    model, x = nn.build("cnn2", widths=(2, 3), dense=(4,), classes=3), RNG.random((10, 8, 8, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    return model.apply, variables, x, sram.calibrate(model.apply, variables, x)


def test_accuracy_over_chips_is_that_of_one_chip_after_the_other(network):
    apply, variables, x, calibration = network
    y = np.arange(10) % 3
    found = sram.over_chips(KEY, apply, variables, calibration, x, y, chips=5, design=DESIGN, at_once=3)
    for number, accuracy in enumerate(found):
        chip = sram.sample_chip(jax.random.fold_in(KEY, number), calibration, DESIGN)
        logits = sram.run_chip(apply, variables, calibration, x, chip=chip, design=DESIGN)
        assert accuracy == pytest.approx(float((np.asarray(logits).argmax(1) == y).mean()))


def test_a_convolution_has_an_offset_for_each_place_and_channel(network):
    _, _, _, calibration = network
    assert list(calibration.shapes.values()) == [(64, 9, 2), (16, 18, 3), (1, 12, 4), (1, 4, 3)]


def test_grouped_convolutions_stay_digital():
    model = nn.from_linen(
        linen.Sequential([linen.Conv(2, (3, 3), feature_group_count=2), lambda x: x.mean((1, 2)), linen.Dense(3)])
    )
    x = RNG.random((4, 4, 4, 2)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    found = sram.calibrate(model.apply, variables, x)
    assert len(found.digital) == len(found.ranges) == 1
    assert np.isfinite(sram.run_chip(model.apply, variables, found, x)).all()


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (Design(rows=26), "rows summed before a conversion are whole, in [1, 25]; got 26"),
        (Design(sigma=-1.0), "at least 0 and finite; got -1.0"),
        (Design(adc_bits=0), "must be an integer in [1, 16]; got 0"),
        (Design(bits=5), "the design has 5 bits, the calibration 4: calibrate again"),
    ],
)
def test_designs_that_cannot_be_are_refused(design, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sram.run_chip(mlp, PARAMS, CALIBRATION, X, design=design)


def test_the_calibration_of_another_network_is_refused():
    other = {**PARAMS, "two": {**PARAMS["two"], "kernel": 2 * W[1]}}
    with pytest.raises(ValueError, match="'two/kernel' is not the layer that was calibrated"):
        sram.run_chip(mlp, other, CALIBRATION, X)


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match="the inputs of 'one/kernel' are all zero"):
        sram.calibrate(mlp, PARAMS, np.zeros_like(X))
    zero = {**PARAMS, "two": {**PARAMS["two"], "kernel": 0 * W[1]}}
    with pytest.raises(ValueError, match="the weights of 'two/kernel' are all zero"):
        sram.calibrate(mlp, zero, X)
    with pytest.raises(ValueError, match="images must be finite"):
        sram.calibrate(mlp, PARAMS, np.full_like(X, np.nan))
    broken = {**PARAMS, "two": {**PARAMS["two"], "kernel": np.nan * W[1]}}
    with pytest.raises(ValueError, match="weights 'two/kernel' must be finite"):
        sram.calibrate(mlp, broken, X)
    with pytest.raises(ValueError, match="must be finite; got nan"):
        sram.over_chips(KEY, mlp, PARAMS, CALIBRATION, np.nan * X, np.zeros(12, int), chips=1)
    with pytest.raises(ValueError, match="at least 1 chip, and 1 at once; got 0"):
        sram.over_chips(KEY, mlp, PARAMS, CALIBRATION, X, np.zeros(12, int), chips=0)
