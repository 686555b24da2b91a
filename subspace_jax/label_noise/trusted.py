"""Class-balanced selection of the trusted samples that a correction is based on.

Samples are given and returned as positions in `y`. The choice matters: on digits, training samples with correct labels
work best, then training samples of lowest curvature, unseen samples, and training samples with any label.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from subspace_jax.core import checks, keys, shares
from subspace_jax.typing import Array, Int, Key, Num

Positions = Int[np.ndarray, " chosen"]


@checks.on_host
def select_trusted(
    curvature: Num[Any, " n"], y: Int[Any, " m"], *, per_class: int, skip: float | int = 0.0
) -> Positions:
    """The samples of lowest curvature in each class: those the network did not have to memorize.

    The paper takes floor(1000 / classes) + 1 per class (arXiv 2403.08618).

    Args:
      curvature: a score of each sample, high = memorized, such as `memorization.scores.score`.
      y: the given labels, one per sample.
      per_class: samples to take of each class in y.
      skip: share of each class, in [0, 1), to leave out first: int(skip * n_c) samples of lowest curvature.

    Returns:
      Positions, class by class, lowest first; the earlier position wins ties.

    Raises:
      ValueError: lengths that differ, a curvature that is not finite, per_class below 1, skip outside [0, 1), a class
        with fewer than per_class samples left.
    """
    checks.check_labels(y)
    checks.check_lengths(curvature=curvature, labels=y)
    checks.check_finite("curvature", curvature, remedy="it has no rank: score these samples again, or leave them out")
    curvature, y = np.asarray(curvature), np.asarray(y)
    if per_class < 1 or not 0 <= skip < 1:
        raise ValueError(f"per_class is at least 1 and skip in [0, 1); got {per_class} and {skip}.")
    order = np.argsort(curvature, stable=True)
    chosen = [np.zeros(0, order.dtype)]
    for label in np.unique(y):
        own = order[y[order] == label]
        left = own[shares.at_most(len(own), skip) :]
        if len(left) < per_class:
            raise ValueError(f"class {label} has {len(left)} samples to choose from; {per_class} are asked for.")
        chosen.append(left[:per_class])
    return np.concatenate(chosen)


@checks.on_host
def select_members(key: Key[Array, ""], members: Int[Any, " m"], y: Int[Any, " n"], *, per_class: int) -> Positions:
    """A random choice among given samples, the same number of each class that occurs among them.

    Args:
      key: same key, same choice, whatever the order of the members.
      members: positions to choose from: training samples whose label was verified, samples never trained on, ...
      y: labels to balance by.
      per_class: samples to take of each class.

    Returns:
      Positions, class by class.

    Raises:
      ValueError: per_class below 1, a class with fewer members, members that are not positions in y.
    """
    checks.check_labels(y)
    checks.check_positions("members", members, len(y))
    members = np.unique(np.asarray(members))
    draws = jax.vmap(jax.random.uniform)(keys.sample_keys(key, members))
    return members[select_trusted(draws, np.asarray(y)[members], per_class=per_class)]


@checks.on_host
def check_trusted(
    trusted: Int[Any, " m"],
    y: Int[Any, " n"],
    *,
    classes: int | Sequence[int] | Int[np.ndarray, " c"],
    selection: Int[Any, " s"] | None = None,
) -> None:
    """Refuse a trusted set that leaves out a class: the correction would suppress its features.

    Args:
      trusted: positions of the trusted samples.
      y: their labels, verified or given.
      classes: number of classes of the network, or those it was trained on where they are fewer than its outputs.
      selection: positions of the samples on which alpha is chosen; warns where some are trusted too.

    Raises:
      ValueError: fewer trusted samples than classes, a class without any (named), a label outside [0, classes),
        invalid positions.
    """
    checks.check_labels(y)
    checks.check_positions("trusted", trusted, len(y))
    if selection is not None:
        checks.check_positions("selection", selection, len(y))
    trusted = np.unique(np.asarray(trusted))
    labels = np.asarray(y)[trusted]
    known = np.arange(classes) if isinstance(classes, int) else np.unique(classes)
    checks.check_labels(labels, int(known.max(initial=0)) + 1)
    if len(trusted) < len(known):
        raise ValueError(f"{len(trusted)} trusted samples for {len(known)} classes: each class needs one, better ten.")
    if len(missing := np.setdiff1d(known, labels)):
        raise ValueError(f"class {missing[0]} has no trusted sample: its features will be suppressed.")
    both = np.intersect1d(trusted, [] if selection is None else np.asarray(selection))
    if len(both):
        warnings.warn(
            f"{len(both)} samples are trusted and choose alpha too: choose it on others, the edit keeps these.",
            stacklevel=2,
        )
