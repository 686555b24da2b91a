"""Three clouds of points as tasks that a network learns in sixty steps, and parameters that need no compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import nn
from subspace_jax.continual import tasks
from subspace_jax.core import capture

KEY = jax.random.key(0)
CENTRES = np.random.default_rng(0).normal(size=(3, 6)) * 3
SGD = optax.sgd(0.05)
SHORT = {"classes": 3, "length": 60, "batch": 10}
IMAGE = jnp.zeros((1, 1, 6, 1))


def blobs(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (CENTRES[y] + rng.normal(size=(n, 6))).astype(np.float32).reshape(n, 1, 6, 1), y


DATA = tasks.Task(*blobs(90, 1), *blobs(60, 2))
# the labels of DATA turned round: a network with one head forgets DATA when it learns them
TURNED = DATA._replace(y=(DATA.y + 1) % 3, test_y=(DATA.test_y + 1) % 3)
PERMUTED = tasks.permuted(jax.random.key(3), DATA, tasks=3)


def with_heads(**options):
    """An MLP with a head for each of three tasks, and its table."""
    model = nn.multi_head(nn.build("mlp", classes=0, **options), tasks=3, classes=3)
    return model, table_of(model)


def table_of(model, x=IMAGE):
    return capture.layers(model.apply, jax.eval_shape(model.init, KEY, x), x)


def drawn(model, x=IMAGE, seed=0):
    """Variables of a network in which nothing is 0 by chance, drawn by NumPy: nothing is compiled."""
    rng = np.random.default_rng(seed)

    def normal(leaf):
        scale = np.sqrt(np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1)
        return jnp.asarray(rng.normal(size=leaf.shape) / scale, leaf.dtype)

    return jax.tree.map(normal, jax.eval_shape(model.init, KEY, x))
