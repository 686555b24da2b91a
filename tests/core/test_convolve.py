"""The convolution of our networks is the one of JAX: values, derivatives of every order, many kernels, capture."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from subspace_jax.core import capture
from subspace_jax.core.convolve import FEW_CHANNELS, convolve, kept

NUMBERS = "NHWC", "HWIO", "NHWC"
PADS = ((0, 0), (0, 0))
FLOAT32_SUM = 1e-4  # another order of sums of up to 100 products
FLOAT64_SUM = 1e-11  # another order of sums of up to 100 products and of their products
CASES = {  # images, kernel, strides, padding
    "few channels": ((2, 7, 6, 2), (3, 2, 2, 4), (2, 3), ((2, 0), (1, 3))),
    "small image": ((2, 2, 2, 10), (3, 3, 10, 4), (1, 1), "SAME"),
    "one pixel": ((2, 1, 1, 10), (3, 3, 10, 4), (2, 2), ((1, 1), (1, 1))),
}
SEEDS = st.integers(0, 2**31 - 1)


def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NUMBERS)


def derivatives(conv, x, kernel, dx, dkernel):
    """Value, forward mode, reverse mode, both of both, of a function that is not linear in the convolution."""

    def loss(x, kernel):
        return jnp.sin(conv(x, kernel)).sum()

    grad = jax.grad(loss, (0, 1))
    return {
        "value": conv(x, kernel),
        "forward": jax.jvp(conv, (x, kernel), (dx, dkernel)),
        "reverse": grad(x, kernel),
        "input alone": jax.grad(loss)(x, kernel),
        "forward over reverse": jax.jvp(grad, (x, kernel), (dx, dkernel))[1],
        "reverse over reverse": jax.grad(lambda x, k: sum(map(jnp.vdot, grad(x, k), (dx, dkernel))), (0, 1))(x, kernel),
    }


@functools.cache
def both(case):
    """Derivatives of ours and of the oracle in one program, over two agents with kernels of their own."""
    _, _, strides, padding = CASES[case]

    def run(*arrays):
        ours = functools.partial(convolve, strides=strides, padding=padding, dimension_numbers=NUMBERS)
        oracle = functools.partial(plain, strides=strides, padding=padding)
        alone = [derivatives(conv, *(a[0] for a in arrays)) for conv in (ours, oracle)]
        return alone, [jax.vmap(lambda *a, conv=conv: derivatives(conv, *a))(*arrays) for conv in (ours, oracle)]

    return jax.jit(run)


@pytest.mark.parametrize("case", CASES)
@given(SEEDS)
def test_every_derivative_is_that_of_the_plain_convolution(case, seed):
    rng, shapes = np.random.default_rng(seed), CASES[case][:2]
    with jax.enable_x64(True):
        for ours, oracle in both(case)(*(rng.normal(size=(2, *shape)) for shape in (*shapes, *shapes))):
            chex.assert_trees_all_close(ours, oracle, atol=FLOAT64_SUM)


def test_groups_dilation_and_many_channels_are_passed_on():
    x = jnp.ones((1, 4, 4, 4))
    for options in ({"feature_group_count": 2}, {"rhs_dilation": (2, 1)}, {"lhs_dilation": (1, 2)}):
        kernel = jnp.ones((2, 2, 4 // options.get("feature_group_count", 1), 2))
        jaxpr = jax.make_jaxpr(lambda x, k, o=options: convolve(x, k, (1, 1), PADS, dimension_numbers=NUMBERS, **o))
        assert [e.primitive.name for e in jaxpr(x, kernel).eqns] == ["conv_general_dilated"]
    many = jnp.ones((1, 4, 4, FEW_CHANNELS + 1)), jnp.ones((3, 3, FEW_CHANNELS + 1, 2))
    jaxpr = jax.make_jaxpr(lambda x, k: convolve(x, k, (1, 1), "SAME", dimension_numbers=NUMBERS))(*many)
    assert [e.primitive.name for e in jaxpr.eqns] == ["conv_general_dilated"]


@pytest.mark.parametrize("case", CASES)
def test_capture_sees_the_same_layer_and_derives_through_it(case):
    shape, window, strides, padding = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, window))

    def ours(params, x):
        return convolve(x, params["kernel"], strides, padding, dimension_numbers=NUMBERS)

    def oracle(params, x):
        return plain(x, params["kernel"], strides, padding)

    def measured(fn):
        swapped = capture.replace(fn, lambda call, matrix: call.linear(matrix))
        loss = lambda matrix: jnp.sin(swapped({"kernel": kernel}, {"kernel": matrix}, x)).sum()  # noqa: E731
        moments = capture.observe(fn, {"kernel": kernel}, x)[1]["kernel"]
        return moments, jax.grad(loss)(kernel.reshape(-1, window[-1]))

    chex.assert_trees_all_close(measured(ours), measured(oracle), rtol=FLOAT32_SUM, atol=FLOAT32_SUM)


def test_what_is_kept_stays_what_it_is():
    x = jnp.array([0.0, -0.0, jnp.inf, jnp.nan, 1e-30, 3.0])
    np.testing.assert_array_equal(jax.jit(kept)(x), x)
    assert float(jax.grad(lambda x: kept(x).sum())(3.0)) == 1
