"""Find, read and validate a data set, whatever its file format.

Every data set becomes the same three arrays; `index` is the position in the ORIGINAL files: label noise, subsets,
memorization scores and unlearning requests all identify samples by it.
"""

import os
import pathlib
import warnings
from types import ModuleType
from typing import NamedTuple

import numpy as np

from subspace_jax.data import digits, sources
from subspace_jax.data.classes import Classes, renumbered, warn_renumbered
from subspace_jax.data.columns import Columns, checked

ARCHIVES = {"cifar10": ("cifar-10-batches-py",), "cifar100": ("cifar-100-python",)}  # what the originals unpack to
LISTED = 5  # files that a message names
Folder = str | os.PathLike | None


class DataSet(NamedTuple):
    """Training and test split of a data set, with the same class numbers in both."""

    train: Columns
    test: Columns
    """The same columns as `train`; zero rows where the data set has no test split."""
    classes: int
    """Number of classes in the training split, and so of outputs of a network."""
    names: tuple[str, ...] | None
    """Name of each class: its string label, its folder, or its number in the files if these have gaps; None if
    the labels are just 0..k-1."""


def load(name: str, split: str, data_dir: Folder = None, *, image_size: int | None = None) -> Columns:
    """Load one split of a data set.

    `digits` (scikit-learn's 1,797 real 8x8 images, pixels 0..16) is built in: 1,437 train and 360 test images, in
    one fixed stratified split; `data_dir` is ignored. Every other data set is read from files in DIR/<name>, else
    in DIR itself (whose content is not checked against `name`). The first of these folders that holds any split is
    used, and in it the first of these formats that has the requested split:

    1. `<split>.npz` with `image`, or `x` for rows of numbers, `label` and, where the file is a subset, `index`;
    2. a TFDS folder (or its newest version folder) in array_record format, or with TensorFlow in any, with an `index`,
       or an `id` that ends in the position; rows are sorted by it;
    3. original idx files, such as `train-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, plain, gzip or xz;
    4. CIFAR-10 or CIFAR-100 python batches, also inside `cifar-10-batches-py` or `cifar-100-python`;
    5. what Hugging Face `datasets` saved to disk, one `<split>/` with `state.json` and arrow files each;
    6. folders of images, `<split>/<class>/*.png` (or .jpg, .jpeg); `index` is the position in the sorted list of all
       files of the split. Rows come in a fixed shuffled order, so that the first N are a random sample.

    Labels of every split are numbered by the classes of the training split: strings and integers with gaps in sorted
    order, the latter with a warning; `class_names` gives the originals. Without a training split integers stay as is.

    Args:
      name: "digits" or the name of a set in `data_dir`.
      split: "train", "test", or any other split the source has.
      data_dir: DIR above; the environment's SUBSPACE_DATA_DIR when None.
      image_size: height and width of the images, in pixels. Images of files (5, 6) are centre-cropped to a square and
        scaled to it; other sources must have it already. None keeps the size of the files.

    Returns:
      `image` uint8 (n, h, w, channels) or `x` float32 (n, d), `label` int32 (n,), `index` int64 (n,), and every further
      integer column of the source under its own name as int32 (n,), such as `coarse_label` or human labels (those
      called `..._label` are numbered as `label` where they name its classes only). The caller may modify the arrays.

    Raises:
      FileNotFoundError: no folder holds the data set, or it lacks the split.
      ValueError: a damaged file, images that are not pixels 0..255 in NHWC, `x` that is not finite (n, d), lengths that
        differ, labels below 0, floats, or of a class that no training sample has, an index that is negative or not
        unique.
    """
    if name == "digits":
        return _sized(checked(_digits(split), None, "digits"), image_size, "digits")
    home = _home(name, data_dir)
    return _load(name, split, home, _classes(name, home), image_size)


def load_splits(name: str, data_dir: Folder = None, *, image_size: int | None = None) -> DataSet:
    """Training and test split of a data set (the test split may be missing); arguments and errors as `load`.

    Raises:
      ValueError: also where test images differ in size, or test rows in number of columns, from training ones.
    """
    if name == "digits":
        train, test = (load(name, split, image_size=image_size) for split in ("train", "test"))
        return DataSet(train, test, 10, None)
    home = _home(name, data_dir)
    known = _classes(name, home)
    if known is None:
        raise FileNotFoundError(_lacks(name, "train", home))
    train = _load(name, "train", home, known, image_size)
    if "test" not in _splits(home):
        test = {key: column[:0] for key, column in train.items()}
    else:
        test = _load(name, "test", home, known, image_size)
        _check_alike(f"{name} in {home}", train, test)
    return DataSet(train, test, len(known.values), known.names)


def splits(name: str, data_dir: Folder = None) -> tuple[str, ...]:
    """The splits that a set has, sorted; arguments and errors as `load`."""
    if name == "digits":
        return tuple(sorted(digits.SPLITS))
    return _splits(_home(name, data_dir))


def class_names(name: str, data_dir: Folder = None) -> tuple[str, ...] | None:
    """As `DataSet.names`, without reading the images; arguments and errors as `load`."""
    if name == "digits":
        return None
    known = _classes(name, _home(name, data_dir))
    return None if known is None else known.names


def inputs(columns: Columns) -> np.ndarray:
    """The unscaled network inputs of a data set: `image`, or `x` where it has no images."""
    return columns["image" if "image" in columns else "x"]


def _load(name: str, split: str, home: pathlib.Path, known: Classes | None, image_size: int | None) -> Columns:
    where, source = f"{name} {split} in {home}", _source(split, home)
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is the height and width of the images, at least 1; got {image_size}.")
    if source is None:
        raise FileNotFoundError(_lacks(name, split, home))
    scales = source in sources.SCALING
    found = source.read(home, split, image_size) if scales else source.read(home, split)
    return _sized(checked(found, known, where), image_size, where)


def _classes(name: str, home: pathlib.Path) -> Classes | None:
    """Classes of the training split; None where there is none."""
    source = _source("train", home)
    known = None if source is None else source.classes(home)
    if known is not None and renumbered(known):
        warn_renumbered(known, f"{name} in {home}")
    return known


def _source(split: str, home: pathlib.Path) -> ModuleType | None:
    return next((source for source in sources.ALL if split in source.splits(home)), None)


def _splits(home: pathlib.Path) -> tuple[str, ...]:
    return tuple(sorted({split for source in sources.ALL for split in source.splits(home)}))


def _home(name: str, data_dir: Folder) -> pathlib.Path:
    """The first folder that holds any split; all splits are read from this one folder."""
    asked = data_dir if data_dir is not None else os.environ.get("SUBSPACE_DATA_DIR")
    places = [] if asked is None else [pathlib.Path(asked).expanduser() / name, pathlib.Path(asked).expanduser()]
    for folder in (place / inner for place in places for inner in ("", *ARCHIVES.get(name, ()))):
        if folder.is_dir() and any(source.splits(folder) for source in sources.ALL):
            return folder
    raise FileNotFoundError(_missing(name, places))


def _digits(split: str) -> Columns:
    if split not in digits.SPLITS:
        raise ValueError(f"digits has the splits {' and '.join(digits.SPLITS)}; got {split!r}.")
    try:
        from subspace_jax.data import builder

        return builder.digits(split)
    except (ImportError, OSError, RuntimeError):  # no tfds or no writable cache: the same arrays, slower
        return digits.arrays(split)
    except ValueError as error:
        warnings.warn(f"{error} Until it is removed, digits are taken from scikit-learn: the same.", stacklevel=4)
        return digits.arrays(split)


def _sized(columns: Columns, image_size: int | None, where: str) -> Columns:
    shape = inputs(columns).shape[1:]
    if image_size is not None and shape[:2] != (image_size, image_size):
        has = f"images of {shape[0]} x {shape[1]} pixels" if "image" in columns else "rows of numbers"
        raise ValueError(f"{where} has {has}; image_size {image_size} scales folders of images only: leave it out.")
    return columns


def _check_alike(where: str, train: Columns, test: Columns) -> None:
    """Refuse a test split whose inputs differ in kind or shape from those of the training split."""
    kinds = ["image" if "image" in columns else "x" for columns in (train, test)]
    shapes = [inputs(columns).shape[1:] for columns in (train, test)]
    if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
        one, other = (f"{kind} {' x '.join(map(str, shape))}" for kind, shape in zip(kinds, shapes, strict=True))
        remedy = "; a folder of images is scaled by image_size (--image-size)" if kinds == ["image", "image"] else ""
        raise ValueError(f"{where}: training samples are {one}, test samples {other}; bring both to one size{remedy}.")


def _missing(name: str, places: list[pathlib.Path]) -> str:
    tried = " and ".join(f"{place} {_content(place)}" for place in places) or "no data folder was named"
    return (
        f"Data set {name!r} was not found ({tried}): set data_dir (--data-dir) or SUBSPACE_DATA_DIR to a folder that "
        f"holds, itself or in its sub-folder {name!r}, (1) train.npz with image (or x) and label, (2) a TFDS "
        "array_record data set, (3) original idx files (train-images-idx3-ubyte ..., plain, .gz or .xz), (4) CIFAR "
        "python batches, (5) a Hugging Face set saved to disk or (6) images as train/<class>/*.png, .jpg or .jpeg; "
        "only 'digits' is built in."
    )


def _content(folder: pathlib.Path) -> str:
    if not folder.is_dir():
        return "is no folder" if folder.exists() else "does not exist"
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"holds {', '.join(names[:LISTED])}{more}" if names else "is empty"


def _lacks(name: str, split: str, home: pathlib.Path) -> str:
    found = _splits(home)
    return (
        f"{name} in {home} has no split {split!r}, only {' and '.join(map(repr, found))}: put {split} beside it in the "
        "same format, or rename what you mean by it."
    )
