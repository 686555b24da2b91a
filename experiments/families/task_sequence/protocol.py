"""Flags and data of a sequence of tasks: one data set whose pixels or classes differ from task to task."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from experiments.harness import runner, sets
from subspace_jax import data
from subspace_jax.continual import tasks

HEADS = "split", "superclass"  # benchmarks in which a task has classes of its own, and so a head


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """Flags of the experiments that train one network on task after task."""

    benchmark: str = "permuted"
    """What differs from task to task."""
    tasks: int = 5
    """Tasks in the sequence."""
    samples: int | None = None
    """Number of training samples to use, the first ones; all when not given."""
    model: str = "mlp"
    """Network: mlp, lenet5, ..., see nn.build."""
    widths: tuple[int, ...] = (100, 100)
    """Hidden layers of an mlp."""


class Source(NamedTuple):
    """What the tasks of all seeds are made of."""

    whole: tasks.Task
    classes: int  # of the network, or of each of its heads
    groups: tuple[tuple[int, ...], ...]  # classes of each superclass


def source(config: Config) -> Source:
    """Load the data.

    Raises:
      ValueError: a number of tasks that the classes, or the superclasses, cannot be split into.
    """
    found = sets.load(config, config.samples, pixels=config.benchmark == "rotated")
    train, test, scaling = found.train, found.test, data.scaling(config.data, data.inputs(found.train))
    x, test_x = (np.asarray(data.scale(data.inputs(part), scaling)) for part in (train, test))
    whole = tasks.Task(x, train["label"], test_x, test["label"])
    classes, heads = found.classes, config.benchmark in HEADS
    if config.tasks < 1 or (heads and classes % config.tasks):
        raise ValueError(f"--tasks is at least 1, and with heads a divisor of {classes} classes; got {config.tasks}.")
    groups = superclasses(config, train) if config.benchmark == "superclass" else ()
    return Source(whole, classes // config.tasks if heads else classes, groups)


def superclasses(config: Config, train: dict[str, np.ndarray]) -> tuple[tuple[int, ...], ...]:
    """The classes of each superclass; one task a superclass."""
    if "coarse_label" not in train:
        raise ValueError(f"--benchmark superclass reads a column coarse_label, which {config.data} lacks.")
    pairs = sorted(set(zip(train["coarse_label"].tolist(), train["label"].tolist(), strict=True)))
    count = len({coarse for coarse, _ in pairs})
    if config.tasks != count:
        raise ValueError(f"{config.data} has {count} superclasses, one a task; got --tasks {config.tasks}.")
    return tuple(tuple(fine for coarse, fine in pairs if coarse == c) for c in range(count))


def sequence(config: Config, found: Source, seed: int) -> list[tasks.Task]:
    """The tasks of one seed: its permutations, its angles, or its order of classes."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    if config.benchmark == "permuted":
        return tasks.permuted(key, found.whole, tasks=config.tasks)
    if config.benchmark == "rotated":
        return tasks.rotated(found.whole, tasks=config.tasks)
    if config.benchmark == "superclass":
        order = np.asarray(jax.random.permutation(key, config.tasks))
        return tasks.split(found.whole, groups=[found.groups[i] for i in order])
    order = np.asarray(jax.random.permutation(key, config.tasks * found.classes))
    return tasks.split(found.whole, groups=order.reshape(config.tasks, -1).tolist())
