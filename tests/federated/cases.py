"""A toy problem for federated methods: small smooth networks, and the gradients of the linear one in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import exchange
from subspace_jax.federated import fedavg

CLIENTS, INPUTS, HIDDEN, CLASSES, STEPS, ROWS = 4, 5, 4, 3, 2, 6
FLOAT32 = 1e-5  # rounding of a few float32 steps on values near 1


def linear(variables, x):
    p = variables["params"]
    return x @ p["kernel"] + p["bias"][None]


def network(variables, x):
    p = variables["params"]
    return jnp.tanh(x @ p["first"] + p["shift"][None]) @ p["kernel"] + p["bias"][None]


LINEAR, SMOOTH = fedavg.classification(linear), fedavg.classification(network)
SHAPES = {"kernel": (INPUTS, CLASSES), "bias": (CLASSES,)}
DEEP = {"first": (INPUTS, HIDDEN), "shift": (HIDDEN,), "kernel": (HIDDEN, CLASSES), "bias": (CLASSES,)}


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def variables(seed=0, shapes=SHAPES):
    return {"params": draw(seed, shapes), "batch_stats": {}}


def batches(seed, steps=STEPS):
    """(x, y) of all clients: (clients, steps, rows, ...)."""
    rng = np.random.default_rng(seed)
    lead = CLIENTS, steps, ROWS
    return rng.normal(size=(*lead, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, lead).astype(np.int32)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def linear_gradient(params, x, soft, weights):
    """Of sum_i a_i CE(x_i W + b, y_i), in float64."""
    kernel, bias, x = (np.asarray(part, np.float64) for part in (params["kernel"], params["bias"], x))
    error = (softmax(x @ kernel + bias) - np.asarray(soft, np.float64)) * np.asarray(weights, np.float64)[:, None]
    return {"kernel": x.T @ error, "bias": error.sum(0)}


@functools.cache
def rounds(method, comm, runner=exchange.vmap):
    """One compiled round of all clients."""
    return jax.jit(runner(method.step, comm, shared=(0,)))


def started(method, seed=0, shapes=SHAPES):
    return jax.tree.map(jnp.asarray, exchange.stack([method.init(None, variables(seed, shapes))] * CLIENTS))
