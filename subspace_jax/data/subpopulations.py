"""Kinds inside a class that no label names, and the shift between those that were trained on and those that were not.

A kind is known by its number inside its class. Numbers are pure functions of inputs and labels, so that a run is
described by the indices of its samples.
"""

from typing import Any, NamedTuple

import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Bool, Float, Int, Num

Labels = Num[np.ndarray, "..."]  # other shapes are refused by a message here, not by the type check
STARTS = 10  # of k-means; the best one counts


class Subpopulations(NamedTuple):
    """Clusters of every class.

    Attributes:
      number: of each sample its cluster inside its class, 0 the largest.
      centres: of the clusters, in the order of their numbers.
    """

    number: Int[np.ndarray, " n"]
    centres: Float[np.ndarray, "classes kinds d"]


@checks.on_host
def subpopulations(
    inputs: Any, labels: Labels, *, per_class: int = 4, index: Int[Any, " n"] | None = None
) -> Subpopulations:
    """The k-means clusters of each class by itself, numbered by falling size, ties as k-means numbered them.

    Scikit-learn's k-means on flattened inputs in float64, ten starts from a fixed seed.

    Args:
      inputs: raw pixels or rows of numbers (n, ...).
      labels: classes (n,), 0, 1, ... without gaps.
      per_class: clusters of each class, at least 2.
      index: of the samples in their original files. The starts of k-means depend on the order of the samples; with
        the index, samples are taken in its order, and the clusters are the same for any order of the rows.

    Raises:
      ValueError: per_class below 2, with which nothing can shift; a class with fewer samples than clusters; inputs
        that are not finite.
    """
    if per_class < 2:
        raise ValueError(f"a shift inside a class takes at least 2 subpopulations of each; got {per_class}.")
    checks.check_data(inputs, labels)
    order = np.arange(len(labels)) if index is None else np.argsort(index, kind="stable")
    checks.check_lengths(labels=labels, index=order)
    labels, rows = np.asarray(labels), _rows(inputs)
    count = np.bincount(labels)
    if count.min() < per_class:
        raise ValueError(
            f"class {count.argmin()} has {count.min()} samples for {per_class} subpopulations: take more samples or "
            "fewer subpopulations."
        )
    number, centres = np.zeros(len(labels), np.int64), []
    for k in range(len(count)):
        members = order[labels[order] == k]
        number[members], own = _clusters(rows[members], per_class)
        centres.append(own)
    return Subpopulations(number, np.stack(centres))


@checks.on_host
def nearest(found: Subpopulations, inputs: Any, labels: Labels) -> Int[np.ndarray, " m"]:
    """The number of the nearest cluster of a sample's class, for samples that were not clustered.

    Raises:
      ValueError: labels of other classes, inputs of another size.
    """
    checks.check_data(inputs, labels, len(found.centres))
    rows, labels = _rows(inputs), np.asarray(labels)
    if rows.shape[1] != found.centres.shape[2]:
        raise ValueError(f"clusters are of {found.centres.shape[2]} numbers a sample; got {rows.shape[1]}.")
    number = np.zeros(len(rows), np.int64)
    for k, centres in enumerate(found.centres):
        members = np.flatnonzero(labels == k)
        far = np.square(rows[members, None] - centres[None]).sum(axis=2)
        number[members] = far.argmin(axis=1)
    return number


def numbered(fine: Labels, labels: Labels) -> Int[np.ndarray, " n"]:
    """The number of each sample's fine class inside its class, in ascending order of the fine classes.

    Raises:
      ValueError: a fine class that belongs to two classes; a class of fewer than two fine ones.
    """
    checks.check_labels(fine, name="fine labels")
    checks.check_labels(labels)
    checks.check_lengths(fine=fine, labels=labels)
    pairs = np.unique(np.stack([np.asarray(labels), np.asarray(fine)], axis=1), axis=0)
    several = np.flatnonzero(np.bincount(pairs[:, 1]) > 1)
    if len(several):
        raise ValueError(f"fine class {several[0]} has samples of two classes: each belongs to one.")
    kinds = np.bincount(pairs[:, 0])
    if (few := np.flatnonzero(kinds == 1)).size:
        raise ValueError(f"class {few[0]} has one fine class: a shift inside a class takes at least 2.")
    place = np.full(pairs[:, 1].max() + 1, -1)
    for k in range(len(kinds)):
        own = pairs[pairs[:, 0] == k, 1]
        place[own] = np.arange(len(own))
    return place[np.asarray(fine)]


def targets(kinds: int, split: int) -> tuple[int, ...]:
    """The kinds of three fixed shifts: the first half of them, the second half, the last one with the first ones.

    Of 4: (0, 1), (2, 3), (3, 0). Of 5: (0, 1), (2, 3), (4, 0). Of an odd number the half is rounded down.

    Raises:
      ValueError: fewer than 2 kinds, a split outside [0, 2].
    """
    if kinds < 2 or split not in range(3):
        raise ValueError(f"there are splits 0, 1 and 2 of at least 2 kinds; got split {split} of {kinds}.")
    half = kinds // 2
    first = (0, half, kinds - 1)[split]
    return tuple((first + i) % kinds for i in range(half))


def shifted(
    number: Int[np.ndarray, " n"], *, source: tuple[int, ...], target: tuple[int, ...]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Which samples are of the source's kinds, and which of the target's.

    Raises:
      ValueError: a kind that is in both, or none in one of them.
    """
    if both := sorted(set(source) & set(target)):
        raise ValueError(f"kind {both[0]} is in source and target: nothing of the target may be trained on.")
    if not source or not target:
        raise ValueError(f"source and target have at least one kind each; got {source} and {target}.")
    return np.isin(number, source), np.isin(number, target)


def _rows(inputs: Any) -> np.ndarray:
    return checks.as_real("inputs", inputs).reshape(len(inputs), -1)


def _clusters(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers by falling size, and the centres in that order."""
    from sklearn.cluster import KMeans  # here: it takes longer to load than the rest of this package

    fitted = KMeans(count, n_init=STARTS, random_state=0).fit(rows)
    order = np.argsort(-np.bincount(fitted.labels_, minlength=count), kind="stable")
    return np.argsort(order)[fitted.labels_], fitted.cluster_centers_[order]
