"""Small valid values that the calls share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import nn
from subspace_jax.core import capture, moments, subspace

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 6)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
JX = jnp.asarray(X)
Y = np.array([0, 1, 1, 0, 1, 0])
Y3 = np.array([0, 1, 2, 0, 1, 2])
LOGITS = RNG.normal(size=(6, 3)).astype(np.float32)
ROWS = np.asarray(jax.nn.softmax(LOGITS))
SCORES = RNG.normal(size=6).astype(np.float32)
POSITIVE = Y == 1
KERNEL = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
PARAMS = {"w": KERNEL}
VARIABLES = {"params": PARAMS, "batch_stats": {}}
SGD = optax.sgd(0.1)
IMAGES = RNG.random((6, 4, 4, 1)).astype(np.float32)


def fn(params, x):
    return x @ params["w"]


def apply(variables, x):
    return fn(variables["params"], x)


def loss(variables, x, y):
    """One loss per sample."""
    logits = apply(variables, x)
    return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, y[:, None], -1)[:, 0]


def linear(x):
    return jnp.tanh(x.reshape(len(x), -1)) @ jnp.eye(x[0].size, 2)


MODEL = nn.from_function(lambda key, x: {"w": jax.random.normal(key, (3, 2))}, fn)
TABLE = capture.layers(fn, PARAMS, JX)
SEEN = capture.collect(fn, PARAMS, [X], dtype="float64")
GRAM = X.T @ X
SPACE = subspace.from_gram(GRAM, energy=0.9)
MOMENTS = moments.from_rows(JX)
