"""Choose the training samples that represent the classes to keep and those to forget."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Int, Key

Classes = Sequence[int] | int | Int[np.ndarray, " classes"]


class Samples(NamedTuple):
    """Positions in the labels array: the retain set and the forget set."""

    retain: Int[np.ndarray, " n_r"]
    forget: Int[np.ndarray, " n_f"]


@checks.on_host
def select_samples(
    key: Key[Array, ""],
    labels: Int[Any, " n"],
    *,
    forget: Classes,
    retain_count: int = 900,
    forget_count: int = 900,
) -> Samples:
    """Random samples, spread evenly over the classes that stay, and over those to forget.

    Class counts differ by at most one, unless a class has too few samples: then all of them are taken, and more of the
    others. If fewer samples exist than requested, all are taken.

    Args:
      key: same key, same samples.
      labels: classes of the training set (not of the test set).
      forget: classes to forget, or the one class.
      retain_count: samples that stay; 900 on CIFAR-10, 990 on CIFAR-100, 999 on ImageNet in the paper.
      forget_count: samples to forget; the same numbers in the paper.

    Raises:
      ValueError: labels that are no integers (n,); a count below 2; as `check_samples`.
    """
    key = as_key(key)
    checks.check_labels(labels)
    labels, classes = np.asarray(labels), as_classes(forget)
    if min(retain_count, forget_count) < 2:
        raise ValueError(f"each set takes at least 2 samples; asked for {retain_count} and {forget_count}.")
    if forget_count < len(classes):
        raise ValueError(f"{len(classes)} classes to forget take as many samples at least; got {forget_count}.")
    order = np.asarray(jax.random.permutation(key, len(labels)))
    gone = np.isin(labels[order], classes)
    samples = Samples(_evenly(order[~gone], labels, retain_count), _evenly(order[gone], labels, forget_count))
    check_samples(labels[samples.retain], labels[samples.forget], forget=classes)
    return samples


@checks.on_host
def check_samples(retain_labels: Int[Any, " n_r"], forget_labels: Int[Any, " n_f"], *, forget: Classes) -> None:
    """Refuse retain and forget sets that mix up or miss classes; for sets chosen by hand.

    Args:
      retain_labels: of the retain set.
      forget_labels: of the forget set.
      forget: classes to forget, or the one class.

    Raises:
      ValueError: labels that are no integers (n,); a class to forget without samples; fewer than 2 samples to forget;
        no class that stays; a class to forget in the retain set; a class that stays in
        the forget set.
    """
    checks.check_labels(retain_labels, name="retain_labels")
    checks.check_labels(forget_labels, name="forget_labels")
    classes = as_classes(forget)
    if len(missing := np.setdiff1d(classes, forget_labels)):
        there = ", ".join(map(str, np.union1d(retain_labels, forget_labels)))
        raise ValueError(f"class {missing[0]} is to be forgotten but has no sample; there are {there}.")
    if len(forget_labels) < 2:
        raise ValueError(f"a forget set has at least 2 samples; got {len(forget_labels)}.")
    if not len(retain_labels):
        raise ValueError("no class stays: the retain set is empty; forget fewer classes.")
    if len(kept := np.intersect1d(retain_labels, classes)):
        raise ValueError(f"class {kept[0]} is to be forgotten but is in the retain set: leave its samples out.")
    if len(stray := np.setdiff1d(forget_labels, classes)):
        raise ValueError(f"class {stray[0]} stays but is in the forget set: leave its samples out.")


def as_classes(forget: Classes) -> Int[np.ndarray, " classes"]:
    """The classes to forget, unique and ascending; a single class may be an int.

    Raises:
      ValueError: no class, or something that is not a class number.
    """
    classes = np.atleast_1d(np.asarray(forget))
    if not classes.size or classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError(f"forget names the classes to forget by number, such as (3, 5); got {forget!r}.")
    return np.unique(classes)


def _evenly(order: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of `order` when classes take turns (round robin)."""
    y = labels[order]
    by_class = np.argsort(y, kind="stable")
    turn = np.empty(len(y), int)
    turn[by_class] = np.arange(len(y)) - np.searchsorted(y[by_class], y[by_class])
    return order[np.argsort(turn, kind="stable")[:count]]
