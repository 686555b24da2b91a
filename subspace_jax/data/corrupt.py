"""Synthetic label noise and duplicates, as pure functions of a key and the labels.

Which samples are corrupted is known exactly, so that a score can be judged by how well it finds them. The samples are
chosen independently of their wrong labels: with one key, `symmetric` and `pair` corrupt the same samples.
"""

from typing import NamedTuple

import jax
import numpy as np

from subspace_jax.core import checks, shares
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Int, Key

Labels = Int[np.ndarray, " n"]


@checks.on_host
def symmetric(key: Key[Array, ""], labels: np.ndarray, *, fraction: float, classes: int) -> Labels:
    """The nearest count to fraction * n (half to even) of samples get a uniformly random OTHER class.

    Args:
      key: same key, same noise.
      labels: integers in [0, classes), (n,).
      fraction: share of wrong labels, in [0, 1].
      classes: number of classes, at least 2; with two, the chosen labels flip.

    Returns:
      int32 labels (n,); where they differ from `labels` is where the noise is.

    Raises:
      ValueError: labels that are no integers in [0, classes), fraction outside [0, 1], fewer than 2 classes.
    """
    labels = _valid(labels, classes)
    chosen = _chosen(key, len(labels), fraction)
    labels[chosen] = _other(key, labels, classes)[chosen]
    return labels


@checks.on_host
def pair(key: Key[Array, ""], labels: np.ndarray, *, fraction: float, classes: int) -> Labels:
    """Asymmetric noise: a share of the samples, as in `symmetric`, go from class y to (y + 1) mod classes.

    Arguments, result and errors as `symmetric`. Pair flipping of Han et al., "Co-teaching", NeurIPS 2018.
    """
    labels = _valid(labels, classes)
    chosen = _chosen(key, len(labels), fraction)
    labels[chosen] = (labels[chosen] + 1) % classes
    return labels


@checks.on_host
def given(labels: np.ndarray, other: np.ndarray, *, classes: int) -> Labels:
    """Labels that people gave (CIFAR-10N's `aggre_label`, `worse_label`), checked against the true ones.

    Args:
      labels: true classes in [0, classes), (n,).
      other: the labels to train on, same samples in the same order.
      classes: number of classes, at least 2.

    Returns:
      `other` as int32.

    Raises:
      ValueError: labels as in `symmetric`, or another number of them.
    """
    _valid(labels, classes)
    other = _valid(other, classes)
    checks.check_lengths(labels=labels, other=other)
    return other


class Planted(NamedTuple):
    """A data set with planted duplicates."""

    image: np.ndarray
    label: Labels
    pairs: Int[np.ndarray, "pairs 2"]
    """Positions (a, b) in the arrays: image a is now a copy of image b, under a wrong label."""


@checks.on_host
def duplicates(
    key: Key[Array, ""],
    image: np.ndarray,
    label: np.ndarray,
    *,
    pairs: int,
    classes: int,
    avoid: np.ndarray | None = None,
) -> Planted:
    """Plant conflicting duplicates: image a is replaced by a copy of image b, with a random class that is not b's.

    A network can fit both only by memorizing, so a memorization score should rank both high.

    Args:
      key: same key, same pairs.
      image: (n, ...), any dtype; not changed, a copy is returned.
      label: integers in [0, classes), (n,).
      pairs: number of pairs; no sample is in two.
      classes: number of classes, at least 2.
      avoid: boolean (n,), samples to leave alone, such as those with noisy labels.

    Returns:
      image, label int32 and pairs int64 (pairs, 2).

    Raises:
      ValueError: labels as in `symmetric`, lengths that differ, pairs below 0 or more than the free samples allow.
    """
    label = _valid(label, classes)
    avoid = np.zeros(len(label), bool) if avoid is None else np.asarray(avoid)
    if avoid.dtype != bool:
        raise ValueError(f"avoid marks samples to leave alone, booleans (n,); got {avoid.dtype}.")
    checks.check_lengths(label=label, image=image, avoid=avoid)
    order = _order(key, len(label))
    free = order[~avoid[order]]
    if not 0 <= pairs <= len(free) // 2:
        raise ValueError(f"pairs is in [0, {len(free) // 2}], two of {len(free)} free samples each; got {pairs}.")
    positions = free[: 2 * pairs].astype(np.int64).reshape(pairs, 2)
    a, b = positions.T
    image = image.copy()
    image[a] = image[b]
    label[a] = _other(key, label, classes)[b]
    return Planted(image, label, positions)


def _valid(labels: np.ndarray, classes: int) -> Labels:
    """An int32 copy of the labels, after they are checked."""
    if classes < 2:
        raise ValueError(f"a wrong label takes at least 2 classes, got {classes}.")
    checks.check_labels(labels, classes)
    return np.array(labels, np.int32)


def _chosen(key: Key[Array, ""], n: int, fraction: float) -> np.ndarray:
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is the share of wrong labels, in [0, 1]; got {fraction}.")
    return _order(key, n)[: shares.nearest(n, fraction)]


def _order(key: Key[Array, ""], n: int) -> np.ndarray:
    return np.asarray(jax.random.permutation(jax.random.fold_in(as_key(key), 0), n))


def _other(key: Key[Array, ""], labels: np.ndarray, classes: int) -> np.ndarray:
    """A uniformly random other class for each label: label + step mod classes, step uniform in 1..classes - 1."""
    step = jax.random.randint(jax.random.fold_in(as_key(key), 1), labels.shape, 1, classes, np.int32)
    return (labels + np.asarray(step)) % classes
