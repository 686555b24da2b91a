"""The local step of a worker: SGD on samples of its own, drawn by worker and iteration alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from subspace_jax import nn
from subspace_jax.core import losses
from subspace_jax.core.keys import as_key
from subspace_jax.parallel.asap.worker import Step
from subspace_jax.typing import ApplyFn, Array, Key, PyTree


def sgd_step(
    key: Key[Array, ""], apply: ApplyFn, params: PyTree, sets: tuple[Any, Any], *, batch: int, lr: float
) -> Step:
    """U = x - lr g, with g the gradient of the mean cross-entropy over a batch drawn with replacement.

    The batch depends on key, worker and iteration, and not on when the step is taken: every policy sees the same ones.

    Args:
      key: of the draws.
      apply: (params, x) -> logits; one object for all calls, and so one compilation.
      params: a tree of the parameters, for their shapes and types; a model is `ravel_pytree` of such a tree.
      sets: (x, y) of all workers, (N, samples, ...) and (N, samples).
      batch: samples of a step.
      lr: learning rate.

    Returns:
      (worker, iteration, model) -> model, in NumPy.
    """
    key, unravel = as_key(key), ravel_pytree(params)[1]
    x, y = jax.device_put(sets)

    def step(worker: int, iteration: int, model: np.ndarray) -> np.ndarray:
        place = np.array([worker, iteration], np.uint32)
        return np.asarray(_step(apply, unravel, batch, key, x, y, place, model, lr))

    return step


def classifier_step(
    key: Key[Array, ""], name: str, settings: dict[str, Any], sets: tuple[Any, Any], *, batch: int, lr: float
) -> Step:
    """`sgd_step` of a network by its name: of arguments that pickle, for a process that has none of its parent's.

    Args:
      key: of the draws; one of `PRNGKey` or `key_data`, which pickle.
      name: of the network, see `nn.build`.
      settings: its arguments.
      sets: as in `sgd_step`.
      batch: samples of a step.
      lr: learning rate.

    Raises:
      ValueError: a network with running statistics, which a model has no place for.
    """
    apply, params = classifier(name, settings, sets[0][0, :1])
    return sgd_step(key, apply, params, sets, batch=batch, lr=lr)


def classifier(name: str, settings: dict[str, Any], x: np.ndarray) -> tuple[Callable, PyTree]:
    """(params, x) -> logits of a network by its name, and zeros in the shapes of its parameters for inputs like x.

    Raises:
      ValueError: a network with running statistics.
    """
    model = nn.build(name, **settings)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    if shapes["batch_stats"]:
        raise ValueError(f"{name} keeps running statistics, which workers do not average: take norm=group or none.")
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, settings.get("dtype", leaf.dtype)), shapes["params"])
    return lambda params, x: model.apply({"params": params, "batch_stats": {}}, x), zeros


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    apply: Callable, unravel: Callable, batch: int, key: Array, x: Array, y: Array, place: Array, model: Array, lr: Any
) -> Array:
    own = jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])
    rows = jax.random.randint(own, (batch,), 0, y.shape[1])

    def loss(model):
        return losses.softmax_cross_entropy(apply(unravel(model), x[place[0], rows]), y[place[0], rows]).mean()

    return model - lr * jax.grad(loss)(model)
