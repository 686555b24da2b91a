"""`<split>.npz`: arrays as `numpy.savez` writes them, no pickled objects."""

import pathlib

import numpy as np

from subspace_jax.data.classes import Classes, classes_of
from subspace_jax.data.sources.damage import seen

Columns = dict[str, np.ndarray]
OURS = "image", "x", "label", "index"
TOGETHER = "save the arrays together by numpy.savez(path, image=..., label=...)"


def splits(folder: pathlib.Path) -> list[str]:
    """Every npz file is a split."""
    return sorted(path.stem for path in folder.glob("*.npz") if path.is_file())


def read(folder: pathlib.Path, split: str) -> Columns:
    """`image` or `x`, `label`, optional `index` and further columns; columns of Python objects are left out."""
    path = folder / f"{split}.npz"
    columns = arrays(path)
    absent = [] if {"image", "x"} & set(columns) else ["image (or x)"]
    absent += [] if "label" in columns else ["label"]
    if absent:
        raise ValueError(f"{path} has no {' and no '.join(absent)}, only {', '.join(columns)}; rename the arrays.")
    return columns


def classes(folder: pathlib.Path) -> Classes:
    """Classes of `label` in train.npz."""
    path = folder / "train.npz"
    label = arrays(path, ("label",)).get("label")
    return classes_of(read(folder, "train")["label"] if label is None else label, f"{path}")


def arrays(path: pathlib.Path, keys: tuple[str, ...] | None = None) -> Columns:
    """The arrays of one file, or those of these names that it has; none with Python objects."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(b"PK"):  # npz is a zip; without this check NumPy's error advises allow_pickle=True
        page = start.lstrip().startswith(b"<")
        remedy = TOGETHER if start.startswith(b"\x93NUMPY") else "get it again" if page or not start else TOGETHER
        raise ValueError(f"{path} is no npz archive: {seen(start)}; {remedy}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: _array(archive, key, path) for key in archive.files if keys is None or key in keys}
    except _ObjectsError:
        raise
    except Exception as error:  # zip, zlib and NumPy's header parser each raise their own
        raise ValueError(f"{path} is cut or damaged ({error}); get or save it again.") from error
    return {key: array for key, array in found.items() if array is not None}


class _ObjectsError(ValueError):
    """A required column holds pickled objects, which could run code when loaded."""


def _array(archive: np.lib.npyio.NpzFile, key: str, path: pathlib.Path) -> np.ndarray | None:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        if key not in OURS:
            return None
        kind = "str" if key == "label" else "int or float"
        raise _ObjectsError(
            f"{path}: {key} holds Python objects, which are not read because they could run any code; save it as plain "
            f"values, by numpy.array({key}.tolist()) or {key}.astype(...) to {kind}."
        ) from None
