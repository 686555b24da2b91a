"""Costs against the products that JAX itself writes down."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import capture, costs

SHAPE = jax.ShapeDtypeStruct


def network(params, x):
    """Three readers of one input, a layer used twice, and a last one."""
    q, k, v = (x @ params[name] for name in ("q", "k", "v"))
    hidden = jnp.tanh(q + k * v)
    hidden = jnp.tanh(jnp.tanh(hidden @ params["again"]) @ params["again"])
    return hidden @ params["last"]


PARAMS = {name: SHAPE((6, 5), "float32") for name in "qkv"} | {
    "again": SHAPE((5, 5), "float32"), "last": SHAPE((5, 3), "float32"),
}  # fmt: skip
X = SHAPE((7, 6), "float32")


def products(fn, *args):
    """Multiply-accumulates of every matrix product in the program of fn."""
    total = 0
    for equation in jax.make_jaxpr(fn)(*args).jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += inner * math.prod(equation.outvars[0].aval.shape)
    return total


def test_a_step_is_the_products_of_the_program_and_of_its_gradient():
    table = capture.layers(network, PARAMS, X)
    step = costs.step_macs(table)
    assert costs.macs(table) == step.outputs == products(network, PARAMS, X)
    gradient = jax.value_and_grad(lambda params, x: network(params, x).sum())
    assert sum(step) == products(gradient, PARAMS, X)
    assert step.inputs == step.outputs - 3 * 7 * 6 * 5


def test_conversions_by_their_formulas():
    bits = np.arange(5)
    expected = {
        "linear": bits, "exponential": [0, 2, 4, 8, 16], "puma": 3.125 * bits**2,
        "neurosim": [0, *(0.471 * bits[1:] + 1.9529)], "sar": [0, *(0.1 * bits[1:] + 1e-6 * 4.0 ** bits[1:])],
    }  # fmt: skip
    assert expected.keys() == costs.CONVERSIONS.keys()
    for model, values in expected.items():
        np.testing.assert_allclose(costs.conversion_energy(bits, model), values)
        assert costs.CONVERSIONS[model].source
        assert costs.CONVERSIONS[model].unit


def test_convolutions_in_groups_by_hand():
    def conv(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
        )

    table = capture.layers(conv, SHAPE((3, 3, 2, 6), "float32"), SHAPE((1, 8, 8, 4), "float32"))
    assert costs.macs(table) == 6 * 6 * 6 * (3 * 3 * 2)  # places, channels, entries of a kernel
    assert costs.step_macs(table).inputs == 0


def test_layers_in_a_scan_count_once_a_turn():
    def deep(kernels, x):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    table = capture.layers(deep, SHAPE((4, 5, 5), "float32"), SHAPE((2, 5), "float32"))
    assert costs.macs(table) == 4 * 2 * 5 * 5


def test_numbers_and_bytes_of_a_tree():
    assert costs.parameters(PARAMS) == 3 * 30 + 25 + 15
    assert costs.nbytes(PARAMS) == 4 * 130
    assert costs.nbytes(PARAMS, bits=1) == 3 * 4 + 4 + 2
    assert costs.nbytes({"half": SHAPE((3,), "bfloat16")}) == 6


def test_energy_is_that_of_a_product_and_a_sum():
    assert costs.picojoule(2, "float32") == pytest.approx(9.2)
    assert costs.picojoule(1, "float32") / costs.picojoule(1, "int8") == pytest.approx(20)
    with pytest.raises(ValueError, match="energy is known of float32, float16, int32, int8; got 'int4'"):
        costs.picojoule(1, "int4")


def resnet20():
    """The convolutions of a ResNet-20 for 32x32x3 without those of its shortcuts, and its classifier."""
    widths, strides = [16] * 7 + [32] * 6 + [64] * 6, [1] * 19
    strides[7] = strides[13] = 2
    shape, layers = (32, 32, 3), {}
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        layers[f"conv{i}"] = costs.conv_cost(shape, width, strides=(stride, stride))
        shape = layers[f"conv{i}"].outputs
    return layers | {"head": costs.conv_cost((1, 1, 64), 100, window=(1, 1))}


def plan(layers, bits, **others):
    return {path: 32 if path in ("conv0", "head") else others.get(path, bits) for path in layers}


@pytest.mark.parametrize(
    ("bits", "others", "efficiency"),
    [(1, {}, 14.81), (2, {}, 10.24), (1, {"conv7": 2, "conv13": 2}, 14.36), (1, {"conv7": 4, "conv13": 4}, 13.55)],
)
def test_energy_of_a_resnet_in_few_bits_is_the_known_one(bits, others, efficiency):
    layers = resnet20()
    assert costs.energy(layers, plan(layers, bits, **others)).efficiency == pytest.approx(efficiency, abs=1e-2)


def test_first_and_last_layer_are_a_fifth_of_a_binary_network():
    layers = resnet20()
    found = costs.energy(layers, plan(layers, 1))
    assert (found.layers["conv0"] + found.layers["head"]) / found.total == pytest.approx(0.20, abs=1e-2)
    kernels = {path: layer.parameters for path, layer in layers.items()}
    stored = sum(size * (32 if path in ("conv0", "head") else 1) for path, size in kernels.items())
    assert found.memory_compression == pytest.approx(32 * sum(kernels.values()) / stored)


def test_energy_adds_up_grows_with_bits_and_charges_each_side_its_own():
    layers = resnet20()
    full = costs.energy(layers)
    assert full.efficiency == full.memory_compression == 1
    assert full.total == pytest.approx(sum(full.layers.values()))
    totals = [costs.energy(layers, bits).total for bits in range(1, 33)]
    assert totals == sorted(totals)
    one = {"conv": costs.conv_cost((4, 4, 2), 3)}
    assert costs.energy(one, (1, 4)).total == pytest.approx(2.5 * (4 * 32 + 54) + 16 * 54 * (3.1 * 4 / 32 + 0.1))
    assert costs.energy(one, 32).total == pytest.approx(2.5 * 32 * (32 + 54) + 3.2 * 16 * 54)


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (7, 2), (8, 2), (1, 2)])
def test_a_convolution_costs_what_its_table_says(size, stride):
    kernel, x = SHAPE((3, 3, 4, 6), "float32"), SHAPE((1, size, size, 4), "float32")
    conv = lambda kernel, x: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = costs.conv_cost((size, size, 4), 6, strides=(stride, stride))
    assert found.macs == costs.macs(capture.layers(conv, kernel, x))
    assert (1, *found.outputs) == jax.eval_shape(conv, kernel, x).shape
    assert (found.parameters, found.inputs, found.nbytes(1), found.nbytes()) == (216, size * size * 4, 27, 864)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: costs.conv_cost((0, 4, 2), 3), "got shape (0, 4, 2)"),
        (lambda: costs.conv_cost((4, 4, 2), 0), "0 features"),
        (lambda: costs.energy({"conv": costs.conv_cost((4, 4, 2), 3)}, 0), "in [1, 32]; got (0, 0) for 'conv'"),
        (lambda: costs.energy({"conv": costs.conv_cost((4, 4, 2), 3)}, {"other": 1}), "bits say nothing of conv"),
    ],
)
def test_layers_and_bits_that_there_are_not_are_refused(call, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        call()
    assert message in str(refused.value)
