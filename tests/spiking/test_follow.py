"""Functions that `nn.build` did not make: the same chain, the same spikes; whatever does not follow is named."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.spiking import network
from subspace_jax.spiking.network import Layer

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
CONV = functools.partial(
    jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
)
OTHER = {"first": (3, 1, 5, 5), "second": (7, 12), "last": (7, 2)}  # (out, in, h, w), (out, in), (in, out)
WEIGHTS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in OTHER.items()}
FLAT = X.reshape(6, 64)


def pooled(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def torch_like(params, x):
    """Kernels in another framework's layout, a 5x5 window, two poolings in front of one layer."""
    x = jax.nn.relu(CONV(x, params["first"].transpose(2, 3, 1, 0)))
    x = pooled(pooled(x)).reshape(len(x), -1)
    return jax.nn.relu(x @ params["second"].T) @ params["last"]


def test_a_network_of_build_is_followed_to_its_own_table_and_keeps_its_tree():
    model = nn.build("cnn2", widths=(3, 4), dense=(6,), classes=5, pool="average", use_bias=False)
    variables = jax.jit(model.init)(jax.random.key(0), X[:1])
    found = network.spiking(model, variables, X)
    assert found.layers == network.spiking(model, variables).layers
    assert found.params is variables["params"]
    np.testing.assert_allclose(found.apply(variables, X), model.apply(variables, X), atol=1e-6)


def test_kernels_of_another_layout_are_turned_and_the_chain_gives_the_same_logits():
    found = network.spiking(torch_like, WEIGHTS, X)
    assert found.layers == (Layer("first", False, 0), Layer("second", True, 2), Layer("last", True, 0))
    np.testing.assert_array_equal(found.params["first"], WEIGHTS["first"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found.params["second"], WEIGHTS["second"].T)
    wanted = torch_like({name: jnp.asarray(own) for name, own in WEIGHTS.items()}, X)
    np.testing.assert_allclose(found.apply({"params": found.params}, X), wanted, rtol=1e-5, atol=1e-5)
    logits, read = network.run(found, (1.0, 1.0), X[None], order="update_first", hold=3)
    assert logits.shape == (6, 2)
    assert read["second"].shape == (6, 8, 8, 3)


def test_a_module_of_equinox_is_followed_whose_tree_holds_more_than_arrays():
    module = eqx.nn.MLP(64, 3, 5, 1, use_bias=False, use_final_bias=False, key=jax.random.key(0))
    found = network.spiking(lambda own, x: jax.vmap(own)(x), module, FLAT)
    assert found.layers == (Layer("layers/0/weight", True, 0), Layer("layers/1/weight", True, 0))
    np.testing.assert_array_equal(found.params["layers/1/weight"], module.layers[1].weight.T)
    np.testing.assert_allclose(found.apply({"params": found.params}, FLAT), jax.vmap(module)(FLAT), atol=1e-5)


SMALL = {"a": RNG.normal(size=(64, 4)).astype(np.float32), "b": RNG.normal(size=(4, 3)).astype(np.float32)}
IMAGE = {"a": RNG.normal(size=(3, 3, 1, 2)).astype(np.float32), "b": RNG.normal(size=(32, 3)).astype(np.float32)}


def halved(x):
    return x.reshape(6, 4, 2, 4, 2, 2).max((2, 4))


@pytest.mark.parametrize(
    ("fn", "params", "x", "message"),
    [
        (lambda p, x: jax.nn.gelu(x @ p["a"]) @ p["b"], SMALL, FLAT, "'b' does not follow from 'a'"),
        (lambda p, x: x @ p["a"] @ p["b"], SMALL, FLAT, "'b' does not follow from 'a'"),
        (lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + 1, SMALL, FLAT, "the logits are not what 'b' gives"),
        (lambda p, x: jax.nn.relu(2 * x @ p["a"]) @ p["b"], SMALL, FLAT, "'a' does not follow from 'the input'"),
        (lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + p["c"], SMALL | {"c": np.ones((1, 3), np.float32)}, FLAT,
         "'c' has no place in a spiking network: train without biases"),
        (lambda p, x: halved(jax.nn.relu(CONV(x, p["a"]))).reshape(6, -1) @ p["b"], IMAGE, X,
         "'b' does not follow from 'a'.*maximum pooling"),
        (lambda p, x: jax.nn.relu(CONV(x, p["a"], window_strides=(2, 2))).reshape(6, -1) @ p["b"], IMAGE, X,
         "'a' does not follow from 'the input'"),
        (lambda p, x: CONV(x, p["a"][:2]).reshape(6, -1)[:, :32] @ p["b"], IMAGE, X, "square window of odd side"),
    ],
    ids=["gelu", "linear", "shifted", "scaled", "bias", "maximum", "strided", "even"],
)  # fmt: skip
def test_what_is_no_such_chain_is_refused_by_name(fn, params, x, message):
    with pytest.raises(ValueError, match=message):
        network.spiking(fn, params, x)


def test_a_function_needs_samples_and_finite_ones():
    with pytest.raises(ValueError, match="a function is followed on a few samples: give x"):
        network.spiking(torch_like, WEIGHTS)
    with pytest.raises(ValueError, match="x must be finite"):
        network.spiking(torch_like, WEIGHTS, np.full_like(X, np.nan))
