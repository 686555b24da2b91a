"""Two small classifiers of plain functions, and data in which every class has directions of its own."""

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 4


def mlp(params, x):
    x = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]


def conv(params, x):
    size = (2, 2), "SAME"
    order = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, params["first"]["kernel"], *size, dimension_numbers=order))
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, params["second"]["kernel"], *size, dimension_numbers=order))
    return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"][None]


SHAPES = {
    mlp: {"first": (16, 24), "head": (24, CLASSES)},
    conv: {"first": (3, 3, 1, 8), "second": (3, 3, 8, 8), "head": (32, CLASSES)},
}


def draw(net, seed):
    """He-normal kernels, zero biases; drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])), jnp.float32),
            "bias": jnp.zeros(shape[-1]),
        }
        for name, shape in SHAPES[net].items()
    }


def samples(net, seed, count):
    """`count` samples of each class: a pattern of its own and noise; for `conv` images (8, 8, 1)."""
    shape = (16,) if net is mlp else (8, 8, 1)
    orthogonal = np.linalg.qr(np.random.default_rng(7).normal(size=(np.prod(shape), CLASSES)))[0]
    patterns = (np.sqrt(len(orthogonal)) * orthogonal.T).reshape(CLASSES, *shape)
    y = np.repeat(np.arange(CLASSES), count)
    return (patterns[y] + 0.4 * np.random.default_rng(seed).normal(size=(len(y), *shape))).astype(np.float32), y


def train(net, params, x, y):
    """Full-batch gradient descent, compiled once."""

    def loss(params):
        return -jnp.take_along_axis(jax.nn.log_softmax(net(params, x)), y[:, None], 1).mean()

    def step(_, params):
        return jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, jax.grad(loss)(params))

    return jax.jit(lambda params: jax.lax.fori_loop(0, 60, step, params))(params)
