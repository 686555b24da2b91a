"""Joint training on all tasks at once: the accuracy that no sequence of tasks is expected to exceed."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import numpy as np
import optax

from subspace_jax import training
from subspace_jax.continual.protocol import own_head
from subspace_jax.continual.tasks import Task, check_tasks
from subspace_jax.core import losses
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Key, Variables


def multitask(
    key: Key[Array, ""],
    model: Model,
    tx: optax.GradientTransformation,
    tasks: Sequence[Task],
    *,
    classes: int,
    steps: int,
    batch: int,
) -> tuple[Variables, Float[np.ndarray, " tasks"]]:
    """Joint training on the samples of all tasks, and the test accuracy on each.

    Args:
      key: of the network and the order.
      model: with a single head, or one head per task.
      tx: any optax chain.
      tasks: see `tasks.check_tasks`.
      classes: outputs of the network, or of each head.
      steps: in all; give it several passes over all tasks.
      batch: samples a step.

    Raises:
      ValueError: as `check_tasks` and `training.minimise`.
    """
    key = as_key(key)
    check_tasks(tasks, classes=classes)
    x, y = (np.concatenate([getattr(task, name) for task in tasks]) for name in ("x", "y"))
    owner = np.repeat(np.arange(len(tasks)), [len(task.x) for task in tasks])
    variables = jax.jit(model.init)(jax.random.fold_in(key, 0), x[:1])
    variables = training.minimise(
        jax.random.fold_in(key, 1), _objective(model), tx, variables, [(x, y, owner)], steps=steps, batch=batch,
        label="all tasks",
    )  # fmt: skip
    rows = [own_head(training.predict(model.apply, variables, task.test_x), t) for t, task in enumerate(tasks)]
    return variables, np.array([np.mean(z.argmax(-1) == k.test_y) for z, k in zip(rows, tasks, strict=True)])


@lru_cache(maxsize=64)
def _objective(model: Model):
    def objective(params, batch_stats, batches, constants, key):
        x, y, t = batches[0]
        logits, batch_stats = model.train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        return losses.mean(losses.softmax_cross_entropy(own_head(logits, t), y)), batch_stats

    return objective
