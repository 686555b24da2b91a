"""Readers of files as their authors published them: each takes (folder, split) and gives columns, or None if not here.

Positions are not read here: files in their original order need none, `load` counts them.
"""

import gzip
import lzma
import math
import pathlib
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]
IDX_STEMS = {"test": "t10k"}  # other splits are called what they are
IDX_UINT8 = 8  # the format's code for unsigned bytes
OPENERS = {".gz": gzip.open, ".xz": lzma.open}
CIFAR_FILES = {
    "train": (tuple(f"data_batch_{i}" for i in range(1, 6)), ("train",)),
    "test": (("test_batch",), ("test",)),
}
CIFAR_LABELS = {"labels": "label", "fine_labels": "label", "coarse_labels": "coarse_label"}


def npz(folder: pathlib.Path, split: str) -> Columns | None:
    """`<split>.npz` with `image`, `label`, optional `index` and further columns; no pickled objects."""
    path = folder / f"{split}.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = dict(archive)
    except Exception as error:  # zip, zlib, NumPy's header parser and the ban on pickles each raise their own
        raise ValueError(f"{path} is no archive of plain arrays ({error}); save it by numpy.savez.") from error
    absent = [key for key in ("image", "label") if key not in columns]
    if absent:
        raise ValueError(f"{path} has no {' and no '.join(absent)}, only {', '.join(columns)}; rename the arrays.")
    return columns


def tfds_folder(folder: pathlib.Path, split: str) -> Columns | None:
    """A TFDS data set: `folder` itself or the newest version folder (1.0.0, ...) in it."""
    versions = [f for f in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", f.name)]
    newest = sorted(versions, key=lambda f: [int(part) for part in f.name.split(".")])[-1:]
    prepared = next((f for f in (folder, *newest) if (f / "dataset_info.json").is_file()), None)
    if prepared is None:
        return None
    from subspace_jax.data import builder

    return builder.read(prepared, split)


def idx(folder: pathlib.Path, split: str) -> Columns | None:
    """MNIST and its kin: `train-images-idx3-ubyte` or `train-images.idx3-ubyte`, plain, .gz or .xz; test is `t10k`."""
    stem = IDX_STEMS.get(split, split)
    image, label = _idx_path(folder, f"{stem}-images", 3), _idx_path(folder, f"{stem}-labels", 1)
    if image is None and label is None:
        return None
    if image is None or label is None:
        raise ValueError(f"{folder} has {image or label} alone; put the file of {'labels' if image else 'images'} by.")
    return {"image": _read_idx(image), "label": _read_idx(label)}


def _idx_path(folder: pathlib.Path, stem: str, rank: int) -> pathlib.Path | None:
    names = [f"{stem}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", *OPENERS)]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_idx(path: pathlib.Path) -> np.ndarray:
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            raw = file.read()
        zero, kind, rank = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{rank}I", raw, 4)
    except (OSError, EOFError, lzma.LZMAError, struct.error) as error:
        raise ValueError(f"{path} is damaged ({error}); get it again.") from error
    pixels = np.frombuffer(raw, np.uint8)[4 + 4 * rank :]
    if zero or kind != IDX_UINT8:
        raise ValueError(f"{path} is no idx file of unsigned bytes (it starts with {raw[:4]!r}); get it again.")
    if pixels.size != math.prod(shape):
        raise ValueError(f"{path} announces {math.prod(shape)} bytes {shape} and holds {pixels.size}; get it again.")
    return pixels.reshape(shape).copy()  # a buffer's view is read-only


def cifar(folder: pathlib.Path, split: str) -> Columns | None:
    """CIFAR-10 (`data_batch_1` to 5, `test_batch`) or CIFAR-100 (`train`, `test`; fine labels) python batches."""
    for names in CIFAR_FILES.get(split, ()):
        missing = [name for name in names if not (folder / name).is_file()]
        if 0 < len(missing) < len(names):
            raise ValueError(f"{folder} lacks {', '.join(missing)} of {len(names)} batches; unpack the archive again.")
        if not missing:
            batches = [_read_batch(folder / name) for name in names]
            return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return None


def _read_batch(path: pathlib.Path) -> Columns:
    try:
        with path.open("rb") as file:
            raw = _NumpyOnly(file, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in raw.items()}
        planes = batch["data"].reshape(-1, 3, 32, 32)
        labels = {name: np.asarray(batch[key]) for key, name in CIFAR_LABELS.items() if key in batch}
    except Exception as error:  # a damaged pickle raises anything; the refusal of a foreign one arrives here too
        raise ValueError(f"{path} is no CIFAR python batch ({error}); get the original archive again.") from error
    if "label" not in labels:
        raise ValueError(f"{path} has neither labels nor fine_labels, only {', '.join(map(str, batch))}.")
    return {"image": np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), **labels}


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old protocol; `codecs.encode` itself would reach every codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


class _NumpyOnly(pickle.Unpickler):
    """Admits NumPy arrays and what pickle writes without naming a class: dict, list, bytes, str, numbers."""

    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., Any]:
        """A name from the file; pickle would call whatever it stands for, so that a foreign file could run anything."""
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


ALL = (npz, tfds_folder, idx, cifar)
