"""TensorFlow Datasets without TensorFlow: a builder for the built-in digits, and a reader of array_record folders.

Only this module imports tensorflow_datasets, and it is imported only when such a folder is read. Without TensorFlow,
`as_data_source` reads array_record and nothing else, and arrays are written as Tensor, never as Image.
"""

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from subspace_jax.data import digits as scikit
from subspace_jax.data.classes import Classes

MANY = 4096  # samples whose labels are read together


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """scikit-learn's digits in the library's split, each with its position in scikit-learn's order."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # serves checksums of downloads; tfds finds it by importlib_resources, which it does not declare

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
            "index": tfds.features.Scalar(dtype=np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,797 handwritten digits of 43 writers, 8x8 pixels of 0..16.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,  # tfds would store the samples in the order of a hash
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in scikit.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        columns = scikit.arrays(split)
        for row in range(len(columns["index"])):
            yield row, {key: column[row] for key, column in columns.items()}


def digits(split: str) -> dict[str, np.ndarray]:
    """One split of digits from the user's cache, which is filled at the first call.

    Raises:
      OSError: the cache cannot be written.
    """
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "subspace_jax" / "tfds"
    folder = cache / "digits" / str(Digits.VERSION)
    if not folder.is_dir():
        _prepare(folder)
    return _columns(folder, split)


def _prepare(folder: pathlib.Path) -> None:
    """Write to a temporary folder, then rename: safe for concurrent processes, none of which reads a partial folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as own:
        builder = Digits(data_dir=own, file_format="array_record")
        quiet = io.StringIO()  # tfds announces a download on stdout, which belongs to the caller's results
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            builder.download_and_prepare()
        try:
            os.rename(builder.data_path, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same bytes
                raise


def splits(folder: pathlib.Path) -> list[str]:
    """The splits of a prepared folder."""
    return sorted(_builder(folder).info.splits)


def classes(folder: pathlib.Path) -> Classes | None:
    """All classes of a ClassLabel feature, with the names it gives them; None where labels are only integers."""
    features: Any = _builder(folder).info.features
    label = dict(features.items()).get("label")  # `read` reports a missing label
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        return None
    numbers, names = np.arange(label.num_classes), tuple(label.names)
    return Classes(numbers, None if names == tuple(map(str, numbers.tolist())) else names)


def read(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    """One split of a prepared array_record folder, in the order of the original files.

    tfds shuffles when it writes, so a data set is usable only if it stores each sample's original position: an integer
    `index` or `id`, or a string `id` that ends in the position (`train_00017`, as tfds writes CIFAR).

    Raises:
      ValueError: damaged files, another file format, no such split, no `image` or `label`, images of several sizes, no
        position.
    """
    columns = _columns(folder, split)
    columns["index"] = _positions(columns, folder)
    order = np.argsort(columns["index"], kind="stable")
    return {key: column[order] for key, column in columns.items()}


def source(folder: pathlib.Path, split: str) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """The samples of a split as tfds gives them, one by one; label and index in original order; that order's places.

    Raises:
      ValueError: as `read`, and a format that cannot be read by place.
    """
    builder, kept = _opened(folder, split)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(f"{folder} is stored as {builder.info.file_format.value}; array_record can be read by place.")
    named = Rows(builder, split, folder, decoders={"image": tfds.decode.SkipDecoding()})
    columns = {key: [] for key in kept if key != "image"}
    for start in range(0, len(named), MANY):
        rows = named.__getitems__(list(range(start, min(start + MANY, len(named)))))
        for key, parts in columns.items():
            parts.append(np.array([row[key] for row in rows]))
    whole = {key: np.concatenate(parts) for key, parts in columns.items()}
    whole["index"] = _positions(whole, folder)
    order = np.argsort(whole["index"], kind="stable")
    return Rows(builder, split, folder), {key: whole[key][order] for key in ("label", "index")}, order


class Rows:
    """The samples of a split by place.

    Raises:
      NotImplementedError: another format than array_record.
      ValueError: also by each method, for files that cannot be read; the message names their folder.
    """

    def __init__(self, builder: Any, split: str, folder: pathlib.Path, **options: Any) -> None:
        self.folder = folder
        with _damaged(folder):
            self.source = builder.as_data_source(split, **options)

    def __len__(self) -> int:
        with _damaged(self.folder):
            return len(self.source)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """Several of them at once."""
        with _damaged(self.folder):
            found = self.source.__getitems__(places)
            if any(value is None for row in found for value in row.values()):  # behind the end of a cut file
                raise EOFError("samples are missing")
        return found


@contextlib.contextmanager
def _damaged(folder: pathlib.Path) -> Iterator[None]:
    """JSON, protocol buffers, tfds and array_record each raise their own."""
    try:
        yield
    except (ImportError, NotImplementedError):
        raise
    except Exception as error:
        said = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"{folder} is cut or damaged ({said}); get or prepare it again.") from error


def _builder(folder: pathlib.Path) -> Any:
    with _damaged(folder):
        return tfds.builder_from_directory(folder)


def _opened(folder: pathlib.Path, split: str) -> tuple[Any, list[str]]:
    """The builder of a folder, and the names of its columns."""
    builder = _builder(folder)
    features, splits = builder.info.features, builder.info.splits
    if split not in splits:
        raise ValueError(f"{folder} has the splits {', '.join(splits)}; got {split!r}.")
    kept = sorted(key for key in features if _is_column(key, features[key]))  # the file has them in any order
    absent = sorted({"image", "label"} - set(kept))
    if absent:
        raise ValueError(f"{folder} has no {' and no '.join(absent)} of one value a sample, only {', '.join(kept)}.")
    return builder, kept


def _columns(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    builder, kept = _opened(folder, split)
    rows = _rows(builder, split, folder)
    if len({row["image"].shape for row in rows}) > 1:
        raise ValueError(f"{folder} holds images of several sizes; resize them to one and save them as {split}.npz.")
    return {key: np.array([row[key] for row in rows]) for key in kept}


def _rows(builder: Any, split: str, folder: pathlib.Path) -> list[dict[str, Any]]:
    """All samples of a split; TensorFlow is loaded for the formats that only it reads, such as tfrecord."""
    try:
        source = Rows(builder, split, folder)
    except NotImplementedError:
        if importlib.util.find_spec("tensorflow") is None:
            raise ValueError(
                f"{folder} is stored as {builder.info.file_format.value}, which takes TensorFlow to read: install "
                'subspace_jax[tensorflow], or prepare the set again with file_format="array_record".'
            ) from None
        return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
    return source.__getitems__(list(range(len(source))))


def _is_column(key: str, feature: Any) -> bool:
    return key in ("image", "id") or (feature.shape == () and np.issubdtype(feature.np_dtype, np.integer))


def _positions(columns: dict[str, np.ndarray], folder: pathlib.Path) -> np.ndarray:
    stored = columns.get("index", columns.get("id"))
    if stored is None:
        raise ValueError(
            f"{folder} stores no original position and tfds shuffles when it writes, so its samples cannot be named; "
            "give it an integer feature 'index' (position in the original files) or use the original files."
        )
    if np.issubdtype(stored.dtype, np.integer):
        return stored
    ends = [re.fullmatch(r"\D*(\d+)", text.decode()) for text in stored.tolist()]
    if None in ends:
        raise ValueError(f"{folder} has ids such as {stored[ends.index(None)]!r}, which do not end in a position.")
    return np.array([int(end.group(1)) for end in ends if end])
