"""CIFAR-10 (`data_batch_1` to 5, `test_batch`) and CIFAR-100 (`train`, `test`; fine labels) python batches."""

import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from subspace_jax.data.classes import Classes, classes_of
from subspace_jax.data.sources.damage import seen

Columns = dict[str, np.ndarray]
FILES = {
    "train": (tuple(f"data_batch_{i}" for i in range(1, 6)), ("train",)),
    "test": (("test_batch",), ("test",)),
}
LABELS = {"labels": "label", "fine_labels": "label", "coarse_labels": "coarse_label"}


def splits(folder: pathlib.Path) -> list[str]:
    """The splits of which at least one batch file exists."""
    return [split for split, ways in FILES.items() if any((folder / n).is_file() for names in ways for n in names)]


def read(folder: pathlib.Path, split: str) -> Columns:
    """All batches of a split, concatenated in order."""
    names = next(names for names in FILES[split] if any((folder / name).is_file() for name in names))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)} of {len(names)} batches; unpack the archive again.")
    batches = [_batch(folder / name) for name in names]
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def classes(folder: pathlib.Path) -> Classes:
    """Classes of the training labels."""
    return classes_of(read(folder, "train")["label"], f"train in {folder}")


def _batch(path: pathlib.Path) -> Columns:
    try:
        with path.open("rb") as file:
            raw = _NumpyOnly(file, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in raw.items()}
        planes = batch["data"].reshape(-1, 3, 32, 32)
        labels = {name: np.asarray(batch[key]) for key, name in LABELS.items() if key in batch}
    except Exception as error:  # a damaged pickle raises anything; the refusal of a foreign one arrives here too
        start = path.read_bytes()[:64]
        raise ValueError(
            f"{path} is no CIFAR python batch ({error}; {seen(start)}); get the original archive again."
        ) from error
    if "label" not in labels:
        raise ValueError(f"{path} has neither labels nor fine_labels, only {', '.join(map(str, batch))}.")
    return {"image": np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), **labels}


def _latin1(text: str, encoding: str) -> bytes:
    """Stands in for `codecs.encode`, by which pickle protocol 2 stores bytes; the original would admit every codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


class _NumpyOnly(pickle.Unpickler):
    """Admits only NumPy arrays and built-in types: dict, list, bytes, str, numbers."""

    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., Any]:
        """The object for a global named in the file, if admitted; plain pickle would import and call any."""
        admitted: dict[str, Any] = {
            "multiarray._reconstruct": np.empty(0).__reduce_ex__(2)[0],
            "numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": _latin1,
        }
        name = re.sub(r"^numpy\._?core\.", "", f"{module_name}.{global_name}")
        if name not in admitted:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, and only NumPy arrays are admitted")
        return admitted[name]
