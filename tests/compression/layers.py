"""One layer with rows of a chosen rank, in float64, and the networks the end-to-end tests run."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture
from subspace_jax.core.moments import Moments


def fn(params, x):
    return x @ params["w"]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def moments_of(rows):
    rows = np.asarray(rows, np.float64)
    return {"w": Moments(rows.mT @ rows, rows.sum(-2), float(rows.shape[-2]))}


def layer(seed, rows=64, d_in=8, d_out=6, rank=8):
    """Rows (n, d_in) with a decaying spectrum of this rank, kernel, table, params, moments."""
    x = draw(seed, rows, rank) * 0.5 ** np.arange(rank) @ draw(seed + 1, rank, d_in)
    params = {"w": jnp.asarray(draw(seed + 2, d_in, d_out), jnp.float32)}
    return x, np.asarray(params["w"], np.float64), table(d_in, d_out), params, moments_of(x)


@functools.cache
def table(d_in, d_out):
    sizes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((d_in, d_out), (2, d_in))]
    return capture.layers(fn, {"w": sizes[0]}, sizes[1])


def count(rows, energy):
    """The oracle: singular values of the rows themselves."""
    values = np.linalg.svd(rows, compute_uv=False) ** 2
    values = values[values > 1e-12 * values[0]]
    return len(values) if energy == 1 else int(np.searchsorted(values.cumsum() / values.sum(), energy) + 1)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (12, 12):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(6)(x)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(12, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1)))(x))
        x = nn.relu(nn.Conv(12, (2, 2))(x))
        return nn.Dense(6)(x.mean((1, 2)))
