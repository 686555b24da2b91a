"""What the tests of Verifix compare with: the SVD formula of the paper, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from subspace_jax.core import capture


def soft_projector(rows, alpha):
    """U diag(alpha p / ((alpha - 1) p + 1)) U' for rows (..., n, d)."""
    _, s, vt = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    p = s**2 / (s**2).sum(-1, keepdims=True)
    return np.einsum("...rd,...r,...re->...de", vt, alpha * p / ((alpha - 1) * p + 1), vt)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)


def mlp(params, x):
    h = x
    for name in ("first", "second"):
        h = jax.nn.relu(h @ params[name]["kernel"] + params[name]["bias"])
    return h @ params["head"]["kernel"] + params["head"]["bias"]


def mlp_case(seed):
    sizes = {"first": (6, 9), "second": (9, 8), "head": (8, 3)}
    params = {
        name: {"kernel": draw(seed + i, *size), "bias": draw(seed + 9 + i, 1, size[1])}
        for i, (name, size) in enumerate(sizes.items())
    }
    return params, draw(seed + 20, 40, 6)


def conv(x, kernel, **options):
    return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def conv_net(params, x):
    """A strided, padded 3x2 convolution, a grouped one, a scanned stack, a transposed dense layer and a head."""
    h = jax.nn.relu(conv(x, params["conv"], window_strides=(2, 1), padding="SAME") + params["bias"])
    h = jnp.tanh(conv(h, params["grouped"], window_strides=(1, 1), padding="VALID", feature_group_count=2))
    h = h.mean((1, 2)) + params["scale"]
    h = lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), h, params["scanned"])[0]
    return jax.nn.relu(h @ params["turned"].T) @ params["head"]


def conv_case(seed):
    shapes = {
        "conv": (3, 2, 2, 4), "bias": (1, 1, 1, 4), "grouped": (2, 2, 2, 6), "scale": (1, 6),
        "scanned": (3, 6, 6), "turned": (5, 6), "head": (5, 3),
    }  # fmt: skip
    params = {name: draw(seed + i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    return params, draw(seed + 20, 12, 6, 6, 2)


NETWORKS = {"mlp": (mlp, mlp_case), "conv_net": (conv_net, conv_case)}


def measured(fn, params, x):
    """Table and moments of a network on trusted samples."""
    return capture.layers(fn, params, x), capture.collect(fn, params, [x], dtype="float64")
