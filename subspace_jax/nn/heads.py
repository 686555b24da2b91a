"""One trunk with a linear head per task, for settings where the task is known (task-incremental learning)."""

import math
from collections import OrderedDict

import jax
import jax.numpy as jnp

from subspace_jax.nn.model import Model


def multi_head(trunk: Model, *, tasks: int, classes: int) -> Model:
    """The trunk with one bias-free linear classifier per task on its output.

    Logits are (batch, tasks, classes); the heads are one leaf `heads/kernel` (tasks, features, classes), LeCun normal,
    beside the trunk's own parameters. A loss that reads one head leaves the others without gradient; weight decay
    would still shrink them.

    Args:
      trunk: a network whose output is features (batch, d), such as `build(name, classes=0)`.
      tasks: at least 1.
      classes: of each task, at least 1.

    Raises:
      ValueError: tasks or classes below 1; at `init`, a trunk whose output is not (batch, d).
    """
    if tasks < 1 or classes < 1:
        raise ValueError(f"there is at least 1 task of at least 1 class; got {tasks} and {classes}.")

    def init(key, x):
        variables = trunk.init(key, x)
        features = jax.eval_shape(trunk.apply, variables, x)
        if features.ndim != 2:
            raise ValueError(f"heads read features (batch, d); the trunk gives {features.shape}.")
        shape = (tasks, features.shape[1], classes)
        kernel = jax.random.normal(jax.random.fold_in(key, tasks), shape) / math.sqrt(shape[1])
        return variables | {"params": variables["params"] | {"heads": {"kernel": kernel}}}

    def logits(variables, features):
        return jnp.einsum("bd,tdc->btc", features, variables["params"]["heads"]["kernel"])

    def own(variables):
        return variables | {"params": {name: leaf for name, leaf in variables["params"].items() if name != "heads"}}

    def apply(variables, x):
        return logits(variables, trunk.apply(own(variables), x))

    def train_apply(variables, x, key):
        features, batch_stats = trunk.train_apply(own(variables), x, key)
        return logits(variables, features), batch_stats

    def features(variables, x):
        stages = trunk.features(own(variables), x)
        return OrderedDict(stages, logits=logits(variables, stages["logits"]))

    return Model(init, apply, train_apply, features)
