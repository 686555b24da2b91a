"""Rows of tasks, the formulas of the papers by SVD of the rows themselves, and a network with every kind of layer."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from subspace_jax.continual import gpm
from subspace_jax.core import capture
from subspace_jax.core.moments import Moments

FLOAT32 = 1e-6  # bases are stored in float32
WIDTHS = (4, 4, 4, 3)  # one size of kernels, small: each size and each eighth of it is compiled


def host(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def draw(seed, *shape, size=1.0):
    return jnp.asarray(size * host(seed, *shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1), jnp.float32)


def noise(seed, tree):
    """Normal numbers of the shapes of a tree, by NumPy: nothing is compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), tree)


def rows(seed, n, d):
    """Rows with a decaying spectrum."""
    return host(seed, n, d) * 0.7 ** np.arange(d) @ np.linalg.qr(host(seed + 1, d, d))[0]


def moments_of(x):
    return {"w": Moments(x.mT @ x, x.sum(-2), float(x.shape[-2]))}


def empty(d, *lead):
    return {"w": gpm.Subspace(jnp.zeros((*lead, d, d)), jnp.zeros(lead, jnp.int32))}


def learned(tasks, **options):
    """Bases after each task, of one layer with these rows."""
    found = [empty(tasks[0].shape[-1], *tasks[0].shape[:-2])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="full:")
        for x in tasks:
            found.append(gpm.update(found[-1], moments_of(x), **options))
    return [bases["w"] for bases in found]


def basis_by_svd(tasks, energy, rule="paper"):
    """Equations 5, 8 and 9 on the activation matrix R (d, n) of each task; "released" leaves the last of eq. 5 out."""
    basis = None
    for x in tasks:
        total = (x**2).sum()
        if basis is None or not basis.size:  # as long as nothing is stored the next task is the first
            u, s, _ = np.linalg.svd(x.T, full_matrices=False)
            k = (np.cumsum(s**2) / total < energy).sum() + (rule == "paper" and energy > 0)
            basis = u[:, :k]
            continue
        inside = basis @ (basis.T @ x.T)
        u, s, _ = np.linalg.svd(x.T - inside, full_matrices=False)
        share, k = (inside**2).sum() / total, 0
        while k < len(s) and share + (s[:k] ** 2).sum() / total < energy:
            k += 1
        basis = np.concatenate([basis, u[:, :k]], 1)[:, : x.shape[1]]
    return basis


def projector(space):
    basis = np.asarray(space.basis, np.float64)
    return basis @ basis.mT


def plain(params, x):
    for name in ("first", "second"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None])
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]


def plain_case(seed):
    sizes = enumerate(zip(("first", "second", "head"), WIDTHS, WIDTHS[1:], strict=False), 10 * seed)
    return {
        name: {"kernel": draw(i, a, b, size=2), "bias": draw(i + 5, b, size=0.1)} for i, (name, a, b) in sizes
    }  # fmt: skip


def many_kinds(params, x):
    """A strided convolution, a grouped one, scanned layers, a packed kernel, a transposed one: images (n, 4, 4, 3)."""

    def conv(h, kernel, groups):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(h, kernel, (2, 2), "VALID", None, None, numbers, groups)

    h = jax.nn.relu(conv(x, params["conv"], 1) + params["bias"])
    h = jnp.tanh(conv(h, params["grouped"], 2)).reshape(len(x), 8)
    h = lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), h, params["scanned"])[0]
    left, right = jnp.split(params["packed"], 2, axis=1)
    return (jnp.tanh(h @ left) * jnp.tanh(h @ right)) @ params["turned"].T


def many_kinds_case(seed):
    shapes = {
        "conv": (2, 2, 3, 4), "bias": (1, 1, 1, 4), "grouped": (2, 2, 2, 8), "scanned": (2, 8, 8), "packed": (8, 16),
        "turned": (3, 8),
    }  # fmt: skip
    return {name: draw(seed + i, *shape) for i, (name, shape) in enumerate(shapes.items())}


def measured(fn, params, x):
    """Table and float64 moments of one task."""
    return capture.layers(fn, params, x), capture.collect(fn, params, [x], dtype="float64")
