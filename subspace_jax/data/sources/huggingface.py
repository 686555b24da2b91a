"""A folder that `save_to_disk` of Hugging Face `datasets` wrote, read by pyarrow: `<split>/state.json` and arrow files.

A set that was saved alone, without splits, is the split "train". `image` is also found as `img`, `label` as
`fine_label`. Rows keep their order in the files; a set that was shuffled before it was saved needs an integer column
`index`, as any other whose samples shall keep their original numbers.
"""

import io
import json
import pathlib
from typing import Any

import numpy as np

from subspace_jax.data.classes import Classes, classes_of
from subspace_jax.data.sources import images

Columns = dict[str, np.ndarray]
STATE, INFO = "state.json", "dataset_info.json"
NAMES = {"img": "image", "fine_label": "label"}  # in the copies of CIFAR


def splits(folder: pathlib.Path) -> list[str]:
    """Every sub-folder with a state, or "train" where the folder is one itself."""
    if (folder / STATE).is_file():
        return ["train"]
    return sorted(path.parent.name for path in folder.glob(f"*/{STATE}"))


def read(folder: pathlib.Path, split: str, image_size: int | None = None) -> Columns:
    """The columns of numbers, texts, lists of numbers and images; all others are left out.

    Args:
      folder: holds the split's folder.
      split: its name.
      image_size: as in `sources.images.read`.

    Raises:
      ValueError: damaged files, no `image` (or `x`) or no `label`, images that lie elsewhere or have several sizes.
    """
    home = _home(folder, split)
    table = _table(home)
    found = {name: _column(table.column(name), f"{home}: {name}", image_size) for name in table.column_names}
    columns = {name: column for name, column in found.items() if column is not None}
    for name, ours in NAMES.items():
        if name in columns and ours not in columns:
            columns[ours] = columns.pop(name)
    absent = [] if {"image", "x"} & set(columns) else ["image (or x)"]
    absent += [] if "label" in columns else ["label"]
    if absent:
        raise ValueError(f"{home} has no {' and no '.join(absent)}, only {', '.join(table.column_names)}; rename them.")
    return columns


def classes(folder: pathlib.Path) -> Classes:
    """Classes from the ClassLabel feature; where there is none, from the labels of the training split."""
    home = _home(folder, "train")
    features = _json(home / INFO).get("features", {})
    feature = features.get("label") or features.get("fine_label") or {}
    if not feature.get("names"):
        return classes_of(_labels(folder), f"train in {folder}")
    numbers, names = np.arange(len(feature["names"])), tuple(feature["names"])
    return Classes(numbers, None if names == tuple(map(str, numbers.tolist())) else names)


def _labels(folder: pathlib.Path) -> np.ndarray:
    """The labels of the training split, without its images."""
    home = _home(folder, "train")
    table = _table(home)
    name = next((name for name in ("label", "fine_label") if name in table.column_names), None)
    found = None if name is None else _column(table.column(name), f"{home}: {name}", None)
    return read(folder, "train")["label"] if found is None else found


def _home(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder if (folder / STATE).is_file() else folder / split


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); save the set to disk again.") from error


def _table(home: pathlib.Path) -> Any:
    """The rows of all files in their order; a permutation that `datasets` kept beside them is applied."""
    try:
        import pyarrow as arrow
    except ImportError:
        raise ValueError(f"{home} holds arrow files: install pyarrow to read them.") from None
    state = _json(home / STATE)
    try:
        found = arrow.concat_tables([_stream(home / part["filename"]) for part in state["_data_files"]])
        kept = state.get("_indices_data_files") or []
        if kept:  # as older versions save a selection
            order = arrow.concat_tables([_stream(home / part["filename"]) for part in kept])
            found = found.take(order.column(0))
    except (arrow.ArrowInvalid, OSError, KeyError) as error:
        raise ValueError(f"{home} is cut or damaged ({error}); save the set to disk again.") from error
    return found


def _stream(path: pathlib.Path) -> Any:
    import pyarrow as arrow

    with arrow.OSFile(str(path)) as file:
        return arrow.ipc.open_stream(file).read_all()


def _column(column: Any, where: str, image_size: int | None) -> np.ndarray | None:
    """One array of all rows; None for what is neither numbers nor texts nor images."""
    import pyarrow as arrow

    kind = column.type.storage_type if isinstance(column.type, arrow.BaseExtensionType) else column.type
    if arrow.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
        return _images(column.to_pylist(), where, image_size)
    inner = kind
    while arrow.types.is_list(inner) or arrow.types.is_large_list(inner) or arrow.types.is_fixed_size_list(inner):
        inner = inner.value_type
    texts = arrow.types.is_string(inner) or arrow.types.is_large_string(inner)
    if not texts and not arrow.types.is_integer(inner) and not arrow.types.is_floating(inner):
        return None
    if column.null_count:
        raise ValueError(f"{where} lacks a value in {column.null_count} rows; fill them, or drop the rows.")
    dtype = None if texts else inner.to_pandas_dtype()
    try:
        return np.array(column.to_pylist(), dtype)
    except (ValueError, TypeError):
        raise ValueError(f"{where} holds rows of several sizes; bring them to one.") from None


def _images(rows: list[dict[str, Any]], where: str, image_size: int | None) -> np.ndarray:
    """uint8 (n, h, w, channels): one channel where all are grey, else three."""
    found = []
    for i, row in enumerate(rows):
        if row is None or not row["bytes"]:
            place = f" but the path {row['path']}" if row and row["path"] else ""
            raise ValueError(f"{where} of row {i} holds no image{place}; save the set with its images in it.")
        found.append(images.pixels(io.BytesIO(row["bytes"]), f"{where} of row {i}", image_size))
    other = next((i for i, array in enumerate(found) if array.shape[:2] != found[0].shape[:2]), None)
    if other is not None:
        one, two = (" x ".join(map(str, array.shape[:2])) for array in (found[0], found[other]))
        sizes = f"row 0 is {one}, row {other} is {two}"
        raise ValueError(f"{where} has images of several sizes ({sizes}); give image_size (--image-size).")
    if any(array.ndim == 3 for array in found):
        found = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in found]
    return np.stack(found)
