"""Identical images with different labels, which a network can fit only by memorizing."""

import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Int, Shaped


def conflicting_copies(image: Shaped[np.ndarray, "n ..."], label: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " k"]]:
    """Groups of samples with identical pixels and at least two labels, each group ascending.

    Sorts the rows once as byte strings: O(n log n) comparisons, one copy of the images.

    >>> conflicting_copies(np.array([[1], [2], [1], [2]]), np.array([0, 1, 3, 1]))
    [array([0, 2])]

    Raises:
      ValueError: labels that are no integers (n,), or another number of them than images.
    """
    checks.check_host("conflicting_copies", image, label)
    checks.check_labels(label)
    checks.check_lengths(image=image, label=label)
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    rows = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, group = np.unique(rows, return_inverse=True)
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [members for members in groups if len(np.unique(label[members])) > 1]
