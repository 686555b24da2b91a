"""Class numbers 0..k-1 for the labels found in files: strings, integers with gaps, or 0..k-1 already."""

import warnings
from typing import NamedTuple

import numpy as np

INT32 = np.iinfo(np.int32)
LISTED = 8  # classes that a message names


class Classes(NamedTuple):
    """The classes of a data set: their labels in the files and their names."""

    values: np.ndarray
    """(k,) ascending: class number i has the label values[i] in the files."""
    names: tuple[str, ...] | None
    """(k,) names for reports; None where the labels are just the numbers 0..k-1."""


def classes_of(label: np.ndarray, where: str) -> Classes:
    """The classes of a data set, from its training labels; strings and integers with gaps are numbered in sorted order.

    Raises:
      ValueError: as `plain`.
    """
    values = np.unique(plain(label, where))
    found = Classes(values, None)
    named = values.dtype.kind == "U" or renumbered(found)
    return found._replace(names=tuple(map(str, values.tolist()))) if named else found


def plain(label: np.ndarray, where: str) -> np.ndarray:
    """Labels as strings or as integers from 0 up, (n,); anything else is refused with a message that says what it is.

    Raises:
      ValueError: labels that are floats, one-hot, negative or of another type.
    """
    if label.ndim == 2 and label.shape[1] > 1:
        raise ValueError(f"{where}: label has shape {label.shape}; one-hot labels become numbers by argmax(axis=1).")
    if label.ndim != 1:
        raise ValueError(f"{where}: label is one class for each sample, shape (n,), got {label.shape}; use ravel().")
    if label.dtype.kind == "S":
        return np.char.decode(label, "utf-8", "replace")
    if label.dtype.kind == "b":
        return label.astype(np.int64)
    if label.dtype.kind == "f":
        whole = bool(np.all(label == np.floor(label)))
        remedy = "cast them by label.astype(int)" if whole else "number the classes, or cut a quantity into some"
        raise ValueError(f"{where}: labels are class numbers or names, got {label.dtype}; {remedy}.")
    if label.dtype.kind not in "iuU":
        raise ValueError(f"{where}: labels are class numbers or names, got {label.dtype}; save them as integers.")
    if label.dtype.kind != "U" and label.size and label.min() < 0:
        raise ValueError(f"{where}: label starts at 0, got {label.min()}; drop or renumber the samples below 0.")
    return label


def numbered(label: np.ndarray, known: Classes | None, where: str) -> np.ndarray:
    """int32 class numbers; if `known` is None, integers stay as they are and strings are numbered in sorted order.

    Raises:
      ValueError: labels that no training sample has, or numbers beyond int32.
    """
    label = plain(label, where)
    if known is None and label.dtype.kind == "U":
        known = classes_of(label, where)
    if known is None:
        if label.size and label.max() > INT32.max:
            raise ValueError(f"{where}: labels are class numbers from 0 up, got {label.max()}; number the classes.")
        return label.astype(np.int32)
    if (label.dtype.kind == "U") != (known.values.dtype.kind == "U"):
        raise ValueError(
            f"{where}: label is {label.dtype}, in training {known.values.dtype}; save both as names or as numbers."
        )
    unknown = label[~np.isin(label, known.values)]
    if len(unknown):
        raise ValueError(
            f"{where}: no training sample has the label {unknown[0]!s}, only {_listed(known)}; drop its "
            "samples here, or put some into the training split."
        )
    return np.searchsorted(known.values, label).astype(np.int32)


def renumbered(known: Classes) -> bool:
    """Whether the class numbers differ from the integer labels in the files."""
    values = known.values
    return bool(len(values)) and values.dtype.kind != "U" and bool(values[-1] >= len(values))


def warn_renumbered(known: Classes, where: str) -> None:
    """Warn that integer labels with gaps have been renumbered to 0..k-1."""
    k = len(known.values)
    warnings.warn(
        f"{where}: {k} classes with the numbers {_listed(known)} are numbered 0 to {k - 1} without gaps; reports call "
        "them by their old numbers.",
        stacklevel=4,
    )


def _listed(known: Classes) -> str:
    names = [str(value) for value in known.values[:LISTED]]
    return ", ".join([*names, f"... {known.values[-1]}"] if len(known.values) > LISTED else names)
