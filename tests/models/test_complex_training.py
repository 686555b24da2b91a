"""Training of complex weights is training of their real and imaginary parts as weights of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn, training
from subspace_jax.label_noise import sam

D, H, OUT, N = 4, 5, 3, 24
CLOSE = 1e-5
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Y = (np.arange(N) % OUT).astype(np.int32)
TX = optax.sgd(0.3, momentum=0.9)


def forward(w, v, x):
    z = jnp.tanh((x @ w).real) + 1j * jnp.tanh((x @ w).imag)
    return (z @ v).real


def model(shape):
    """The network on parameters as `shape` makes complex ones of them."""

    def init(key, x):
        k = jax.random.split(key, 4)
        parts = {"w": [jax.random.normal(key, (D, H)) for key in k[:2]],
                 "v": [jax.random.normal(key, (H, OUT)) for key in k[2:]]}  # fmt: skip
        return {"params": {name: shape[0](*both) for name, both in parts.items()}, "batch_stats": {}}

    def apply(variables, x):
        return forward(*(shape[1](variables["params"][name]) for name in "wv"), x)

    return nn.Model(init, apply, lambda variables, x, key: (apply(variables, x), {}), lambda variables, x: {})


COMPLEX = model((jax.lax.complex, lambda w: w))
PAIRED = model((lambda re, im: {"re": re, "im": im}, lambda w: w["re"] + 1j * w["im"]))


def assert_same(found, expected):
    for name in "wv":
        np.testing.assert_allclose(found[name].real, expected[name]["re"], atol=CLOSE)
        np.testing.assert_allclose(found[name].imag, expected[name]["im"], atol=CLOSE)


def by_steps(net, objective=None):
    variables = net.init(jax.random.key(0), X[:1])
    objective = objective or training.mean_loss
    found = training.minimise(
        jax.random.key(1), objective(net.train_apply), TX, variables, [(X, Y)], steps=5, batch=8
    )  # fmt: skip
    return found["params"]


def sharpness_aware(net):
    return by_steps(net, lambda train_apply: sam.sam(training.mean_loss(train_apply), rho=0.1))


@pytest.mark.parametrize("train", [by_steps, sharpness_aware])
def test_both_parts_of_a_complex_weight_are_trained_as_weights(train):
    found = train(COMPLEX)
    assert jnp.iscomplexobj(found["w"])
    assert_same(found, train(PAIRED))
