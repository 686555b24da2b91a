"""Costs against the products that JAX itself writes down."""

import math

import jax
import jax.numpy as jnp
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
