"""A split that stays on disk: its images are read a batch at a time, for data sets larger than memory."""

import os
import pathlib
from typing import Any, Literal

import numpy as np

from subspace_jax.data.columns import checked


class Numbers:
    """Rows of numbers in a mapped file; one that is not finite is refused when it is asked for."""

    def __init__(self, values: np.ndarray, path: pathlib.Path) -> None:
        self.values, self.path = values, path
        self.shape, self.dtype = values.shape, values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = self.values[rows]
        bad = ~np.isfinite(found).all(axis=-1)
        if bad.any():
            row = np.arange(len(self.values))[rows][bad].flat[0]
            raise ValueError(f"{self.path} holds finite numbers, but not in row {row}; fill them, or drop the row.")
        return found


class Records:
    """Images of an array_record folder by row, decoded when they are asked for: `records[rows] -> (b, h, w, c)`."""

    def __init__(self, source: Any, order: np.ndarray) -> None:
        self.source, self.order = source, order
        first = source[int(order[0])]["image"]
        self.shape, self.dtype = (len(order), *first.shape), first.dtype

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        places = self.order[rows].tolist()
        return np.stack([row["image"] for row in self.source.__getitems__(places)])


def mapped(folder: str | os.PathLike, split: str = "train") -> dict[str, Any]:
    """Columns of one split, of which the inputs stay on disk until rows of them are asked for.

    Two forms are read: `<folder>/<split>/` with `image.npy` (uint8) or `x.npy` (float32), `label.npy` and, where the
    rows are a part of a set, `index.npy`, as `numpy.save` writes them (an npz cannot be mapped); or a TFDS folder in
    array_record format with an `index` or an `id`, in the order of the original files.

    Args:
      folder: of the data set itself.
      split: its name.

    Returns:
      `image` or `x`, an object with a length that gives the rows of an index array, for `training.score_dataset`; and
      `label` int32, `index` int64 in memory. Labels stay as they are: 0 to k - 1.

    Raises:
      FileNotFoundError: neither form is there.
      ValueError: a damaged file, another dtype or shape than `data.load` gives, lengths that differ, an index that
        repeats. Rows of `x` that are not finite are refused when they are read.
    """
    home = pathlib.Path(folder).expanduser()
    if (home / split / "label.npy").is_file():
        return _arrays(home / split)
    if (home / "dataset_info.json").is_file():
        return _records(home, split)
    raise FileNotFoundError(
        f"{home} has neither {split}/label.npy beside {split}/image.npy (or x.npy), saved by numpy.save, nor a TFDS "
        "set in array_record format (dataset_info.json)."
    )


def _arrays(home: pathlib.Path) -> dict[str, Any]:
    found = {path.stem: path for path in home.glob("*.npy")}
    kind = next((name for name in ("image", "x") if name in found), None)
    if kind is None:
        raise FileNotFoundError(f"{home} has label.npy, but no image.npy or x.npy beside it.")
    inputs = _npy(found[kind], mmap_mode="r")
    wanted = np.uint8 if kind == "image" else np.float32
    if inputs.dtype != wanted:
        raise ValueError(f"{found[kind]} is read as it lies there: save it as {np.dtype(wanted)}, not {inputs.dtype}.")
    inputs = inputs[..., None] if kind == "image" and inputs.ndim == 3 else inputs
    columns = {name: _npy(found[name]) for name in ("label", "index") if name in found}
    rows = inputs if kind == "image" else Numbers(inputs, found[kind])
    return {kind: rows} | _named(inputs[:1], len(inputs), kind, columns, str(home))


def _npy(path: pathlib.Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception as error:  # NumPy's header parser raises anything
        said = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"{path} is cut or damaged ({said}); get it again, or save it by numpy.save.") from error


def _records(home: pathlib.Path, split: str) -> dict[str, Any]:
    from subspace_jax.data import builder

    source, columns, order = builder.source(home, split)
    images = Records(source, order)
    return {"image": images} | _named(images[np.zeros(1, int)], len(images), "image", columns, f"{split} in {home}")


def _named(first: np.ndarray, count: int, kind: str, columns: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    """Label and index, checked as `load` checks them; of the inputs only their first row."""
    checked({kind: first, "label": np.zeros(len(first), np.int32)}, None, where)
    found = checked({"image": np.zeros((count, 1, 1, 1), np.uint8), **columns}, None, where)
    return {name: found[name] for name in ("label", "index")}
