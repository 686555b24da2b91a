"""One trunk with several linear heads: one per task, where the task is known, or one per level of a class tree."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from subspace_jax.nn.build import description, linen_module
from subspace_jax.nn.layers.norm import at_least_float32
from subspace_jax.nn.model import Model, from_linen


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


class LevelHeads(nn.Module):
    """A linear head with bias on each of some stages of a trunk: "level1" ... in its parameters, beside "trunk".

    Attributes:
      trunk: a module whose call (x, train) gives a dict of stages.
      sizes: outputs of each head, coarse to fine.
      stages: what each head reads, see `level_heads`.
    """

    trunk: nn.Module
    sizes: tuple[int, ...]
    stages: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool = False) -> dict[str, Any]:
        """The stages of the trunk; "logits" is a tuple, one (b, size) a head."""
        found, heads = self.trunk(x, train), []
        for number, (size, stage) in enumerate(zip(self.sizes, self.read(list(found)), strict=True), start=1):
            features = at_least_float32(found[stage])
            pooled = features.mean(axis=tuple(range(1, features.ndim - 1)))
            heads.append(nn.Dense(size, name=f"level{number}")(pooled))
        return found | {"logits": tuple(heads)}

    def read(self, there: list[str]) -> tuple[str, ...]:
        """The stage of each head, of those that there are."""
        there = [name for name in there if name != "logits"]
        if unknown := [name for name in self.stages if name not in there]:
            raise ValueError(f"the trunk has no stage {unknown[0]!r}; it has {', '.join(there)}.")
        early = [name for name in there if name != "penultimate"][-2:-1][: len(self.sizes) - 1]
        return self.stages or (*early, *("penultimate",) * (len(self.sizes) - len(early)))


def level_heads(trunk: Model, *, sizes: Sequence[int], stages: Sequence[str] = ()) -> Model:
    """The trunk with one linear head per level of a class tree; its logits are a tuple, coarse to fine.

    A head reads the mean of its stage over all axes between the first and the last one. All heads always run, and
    nothing of one enters another: the last one is a classifier by itself, `model.apply(variables, x)[-1]`. Heads start
    LeCun normal with zero biases. The trunk's initial values do not depend on the heads, so that networks of several
    trees start alike from one key.

    Args:
      trunk: `build(name, classes=0)`.
      sizes: outputs of each head, `tree.sizes`.
      stages: names of the stages that the heads read, see `trunk.features`; when not given the first of several heads
        reads the last stage but one (stage3 of a ResNet-18), the others the penultimate features.

    Raises:
      ValueError: no head, one without an output, other than one stage a head; a network that `build` did not make, or
        that has a head already; at `init`, a stage that there is not.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"there is at least 1 head, each of at least 1 output; got {tuple(sizes)}.")
    if stages and len(stages) != len(sizes):
        raise ValueError(f"each head reads one stage; got {len(sizes)} heads and the stages {', '.join(stages)}.")
    name, arguments = description(trunk)
    if arguments.get("classes") != 0:
        raise ValueError(f"heads are put on features: build the trunk with classes=0, build({name!r}, classes=0).")
    return _with_levels(name, tuple(sorted(arguments.items())), tuple(map(int, sizes)), tuple(stages))


@lru_cache(maxsize=64)  # the same functions for the same network, and so one compilation of whatever uses them
def _with_levels(name: str, arguments: tuple, sizes: tuple[int, ...], stages: tuple[str, ...]) -> Model:
    return from_linen(LevelHeads(linen_module(name, arguments), sizes, stages))
