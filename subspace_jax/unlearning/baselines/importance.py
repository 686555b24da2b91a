"""Weight importances on a set of samples: sums of gradients and of squared gradients, in batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from subspace_jax import data, trees
from subspace_jax.core import checks
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Params, Variables
from subspace_jax.unlearning.baselines.engine import Samples, summed_loss

BATCH = 32  # samples whose gradients are held at a time


def gradient_sum(model: Model, variables: Variables, samples: Samples) -> Params:
    """sum_i grad CE(x_i, y_i) with respect to the parameters, in inference mode."""
    return _stream(_summed, model, variables, samples)


def mean_squared_gradient(model: Model, variables: Variables, samples: Samples) -> Params:
    """1/n sum_i (grad CE(x_i, y_i))^2, sample by sample: the diagonal of the empirical Fisher information.

    Raises:
      ValueError: complex parameters.
    """
    leaves = trees.flatten(variables["params"])
    checks.check_real("a squared gradient", {path: jnp.result_type(leaf) for path, leaf in leaves.items()})
    total = _stream(_squared, model, variables, samples)
    return jax.tree.map(lambda leaf: leaf / len(samples[0]), total)


def _stream(step: Callable, model: Model, variables: Variables, samples: Samples) -> Params:
    """Sums over batches of one shape; padding has weight 0."""
    checks.check_data(*samples)
    loss, total = summed_loss(model.apply), jax.tree.map(jnp.zeros_like, variables["params"])
    for (x, y), mask in data.padded(jax.device_get(samples), min(BATCH, len(samples[0]))):
        total = step(loss, total, variables, x, y, mask.astype("float32"))
    return total


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _summed(loss: Callable, total: Params, variables: Variables, x: Any, y: Any, weight: Any) -> Params:
    new = jax.grad(loss)(variables["params"], variables["batch_stats"], x, y, weight)
    return jax.tree.map(jnp.add, total, new)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _squared(loss: Callable, total: Params, variables: Variables, x: Any, y: Any, weight: Any) -> Params:
    def one(x: Array, y: Array, weight: Array) -> Params:
        return jax.grad(loss)(variables["params"], variables["batch_stats"], x[None], y[None], weight[None])

    each = jax.vmap(one)(x, y, weight)
    return jax.tree.map(lambda old, new: old + (new**2).sum(0), total, each)
