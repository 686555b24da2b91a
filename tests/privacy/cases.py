"""A softmax regression whose clipped sum NumPy computes in float64."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import losses

BATCH, DIM, CLASSES = 6, 4, 3
PARAMS = {"b": jnp.zeros(CLASSES), "w": jnp.asarray(np.random.default_rng(3).normal(size=(DIM, CLASSES)), jnp.float32)}


def apply(params, x):
    return x @ params["w"] + params["b"][None]


loss = losses.cross_entropy(apply)


def model_loss(variables, x, y):
    return loss(variables["params"], x, y)


def draw(seed, batch=BATCH):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, DIM)).astype(np.float32), rng.integers(0, CLASSES, batch)


def gradients(params, x, y):
    """Of each sample: {"b": (n, classes), "w": (n, dim, classes)}, float64."""
    x = np.asarray(x, np.float64)
    logits = x @ np.asarray(params["w"], np.float64) + np.asarray(params["b"], np.float64)
    chance = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = chance / chance.sum(axis=1, keepdims=True) - np.eye(CLASSES)[y]
    return {"b": error, "w": x[:, :, None] * error[:, None, :]}


def norms(grads):
    return np.sqrt(sum((np.asarray(g, np.float64) ** 2).reshape(len(g), -1).sum(axis=1) for g in grads.values()))


def oracle(params, x, y, clip):
    grads = gradients(params, x, y)
    scale = np.minimum(1, clip / norms(grads))
    return {name: np.tensordot(scale, g, 1) for name, g in grads.items()}
