"""Sequences of tasks from one data set: permuted or rotated pixels, classes a few at a time, or what a user brings."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from subspace_jax.core.checks import as_real, check_finite, check_lengths, check_number, on_host
from subspace_jax.core.keys import as_key
from subspace_jax.core.losses import check_labels
from subspace_jax.typing import Array, Float, Int, Key


class Task(NamedTuple):
    """Training and test samples as the network sees them; labels count from 0 in every task that has its own head."""

    x: Float[np.ndarray, "n ..."]
    y: Int[np.ndarray, " n"]
    test_x: Float[np.ndarray, "m ..."]
    test_y: Int[np.ndarray, " m"]


@on_host
def permuted(key: Key[Array, ""], data: Task, *, tasks: int) -> list[Task]:
    """The same images with a fixed random permutation of the pixels per task; the first task is not permuted.

    Args:
      key: of the permutations.
      data: images (n, h, w, c), channels stay together.
      tasks: at least 1.

    Raises:
      ValueError: fewer than 1 task.
    """
    key = as_key(key)
    _at_least_one(tasks)
    pixels = int(np.prod(data.x.shape[1:3]))
    orders = [np.arange(pixels), *(np.asarray(jax.random.permutation(k, pixels)) for k in jax.random.split(key, tasks))]

    def mixed(x: np.ndarray, order: np.ndarray) -> np.ndarray:
        return np.asarray(x).reshape(len(x), pixels, -1)[:, order].reshape(x.shape)

    return [data._replace(x=mixed(data.x, order), test_x=mixed(data.test_x, order)) for order in orders[:tasks]]


@on_host
def rotated(data: Task, *, tasks: int, degrees: float = 180.0) -> list[Task]:
    """The same images, task k turned by k degrees / tasks: bilinear, black outside.

    Raises:
      ValueError: fewer than 1 task.
    """
    from scipy.ndimage import rotate

    _at_least_one(tasks)
    check_number("degrees", degrees)

    def turned(x: np.ndarray, angle: float) -> np.ndarray:
        return rotate(as_real("images", x, np.float32), angle, axes=(1, 2), reshape=False, order=1)

    angles = [k * degrees / tasks for k in range(tasks)]
    return [data._replace(x=turned(data.x, angle), test_x=turned(data.test_x, angle)) for angle in angles]


@on_host
def split(data: Task, *, groups: Sequence[Sequence[int]]) -> list[Task]:
    """One task per group of classes, such as consecutive classes or superclasses; labels count from 0 in each.

    Args:
      data: all classes.
      groups: classes of each task, the same number in each; the first of a group becomes label 0.

    Raises:
      ValueError: no group, groups of different sizes, a class that is in two groups or without samples; labels that
        are no integers, one a sample.
    """
    flat = [label for group in groups for label in group]
    sizes = {len(group) for group in groups}
    if len(sizes) != 1 or 0 in sizes or len(set(flat)) != len(flat):
        raise ValueError(f"groups are disjoint and of one size of at least 1; got {[list(g) for g in groups]}.")
    check_lengths(x=data.x, y=data.y)
    check_lengths(test_x=data.test_x, test_y=data.test_y)
    for labels in (data.y, data.test_y):
        check_labels(labels)
        if len(missing := np.setdiff1d(flat, labels)):
            raise ValueError(f"class {missing[0]} has no sample; there are {np.unique(labels).tolist()}.")
    return [_only(data, np.asarray(group)) for group in groups]


def check_tasks(tasks: Sequence[Task], *, classes: int) -> None:
    """Refuse a sequence that one network cannot learn.

    Args:
      tasks: any list of tasks.
      classes: outputs of the network, or of each of its heads.

    Raises:
      ValueError: no task; a task without samples; inputs that are not finite, or of another shape than the first
        task's; labels outside [0, classes): those of a task with its own head count from 0.
    """
    _at_least_one(len(tasks))
    for number, task in enumerate(tasks):
        if not len(task.x) or not len(task.test_x):
            raise ValueError(f"task {number} has {len(task.x)} training and {len(task.test_x)} test samples.")
        if task.x.shape[1:] != tasks[0].x.shape[1:]:
            raise ValueError(f"task {number} has inputs {task.x.shape[1:]}, task 0 {tasks[0].x.shape[1:]}: use one.")
        for inputs, labels in ((task.x, task.y), (task.test_x, task.test_y)):
            try:
                check_lengths(x=inputs, y=labels)
                check_finite("x", inputs)
                check_labels(labels, classes)
            except ValueError as error:
                raise ValueError(f"task {number}: {error} Labels of a task with its own head count from 0.") from error


def _at_least_one(tasks: int) -> None:
    if tasks < 1:
        raise ValueError(f"a sequence has at least 1 task; got {tasks}.")


def _only(data: Task, group: np.ndarray) -> Task:
    """The samples of some classes, labelled by their place in the group."""

    def chosen(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        where = np.isin(y, group)
        return x[where], (y[where][:, None] == group).argmax(1)

    return Task(*chosen(data.x, data.y), *chosen(data.test_x, data.test_y))
