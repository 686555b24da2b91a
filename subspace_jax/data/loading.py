"""One door to every data set: find it, read it, check it.

Whatever the source, a set is the same three arrays, and `index` is the position in the ORIGINAL files: label noise,
subsets, memorization scores and unlearning requests all name samples by it.
"""

import os
import pathlib

import numpy as np

from subspace_jax.data import digits, sources

ARCHIVES = {"cifar10": ("cifar-10-batches-py",), "cifar100": ("cifar-100-python",)}  # what the originals unpack to
INT32 = np.iinfo(np.int32)


def load(name: str, split: str, data_dir: str | os.PathLike | None = None) -> dict[str, np.ndarray]:
    """Load one split of a data set.

    `digits` (scikit-learn's 1,797 real 8x8 images, pixels 0..16) is built in: 1,437 train and 360 test images, one
    stratified split for ever; `data_dir` is not asked. Every other set comes from files, looked for in DIR/<name>,
    then in DIR itself (which is taken at its word: `name` is then only a label). The first of these is read:

    1. `<split>.npz` with `image`, `label` and, where the file is a selection, `index`;
    2. a TFDS array_record folder (or version folders in it: the newest) with an `index`, or an `id` that ends in it;
       sorted by it;
    3. original idx files, such as `train-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, plain, .gz or .xz;
    4. CIFAR-10 or CIFAR-100 python batches, also inside `cifar-10-batches-py` or `cifar-100-python`.

    Args:
      name: "digits" or the name of a set in `data_dir`.
      split: "train", "test", or any other split the source has.
      data_dir: DIR above; the environment's SUBSPACE_DATA_DIR when None.

    Returns:
      `image` uint8 (n, h, w, channels), `label` int32 (n,), `index` int64 (n,), and every further integer column of
      the source under its own name as int32 (n,), such as `coarse_label` or human labels. Arrays are the caller's own.

    Raises:
      FileNotFoundError: the set is in none of the places.
      ValueError: a damaged file, images that are not uint8 NHWC, lengths that differ, labels that are no integers from
        0 up, an index that is negative or not unique.
    """
    if name == "digits":
        return _checked(_digits(split), "digits")
    asked = data_dir if data_dir is not None else os.environ.get("SUBSPACE_DATA_DIR")
    places = [] if asked is None else [pathlib.Path(asked).expanduser() / name, pathlib.Path(asked).expanduser()]
    for folder in (place / inner for place in places for inner in ("", *ARCHIVES.get(name, ()))):
        for source in sources.ALL if folder.is_dir() else ():
            found = source(folder, split)
            if found is not None:
                return _checked(found, f"{name} {split} in {folder}")
    raise FileNotFoundError(_missing(name, split, places))


def _digits(split: str) -> dict[str, np.ndarray]:
    if split not in digits.SPLITS:
        raise ValueError(f"digits has the splits {' and '.join(digits.SPLITS)}; got {split!r}.")
    try:
        from subspace_jax.data import builder

        return builder.digits(split)
    except (ImportError, OSError, RuntimeError):  # no tfds, no home or no room for a cache: the same arrays, slower
        return digits.arrays(split)


def _missing(name: str, split: str, places: list[pathlib.Path]) -> str:
    tried = f"nothing in {' or '.join(map(str, places))}" if places else "no data folder was named"
    return (
        f"Data set {name!r}, split {split!r}, was not found ({tried}): set data_dir or SUBSPACE_DATA_DIR to a folder "
        f"that holds, itself or in its sub-folder {name!r}, (1) {split}.npz with image and label, (2) a TFDS "
        "array_record data set, (3) original idx files (train-images-idx3-ubyte ..., plain, .gz or .xz) or (4) CIFAR "
        "python batches; only 'digits' is built in."
    )


def _checked(found: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The contract of `load`, or one sentence that says what breaks it."""
    image = _image(found["image"], where)
    n = len(image)
    label = _column(found["label"], "label", n, where)
    index = _column(found.get("index", np.arange(n)), "index", n, where)
    if label.max() > INT32.max:
        raise ValueError(f"{where}: labels are class numbers from 0 up, got {label.max()}; number the classes.")
    values, counts = np.unique(index, return_counts=True)
    if len(values) < n:
        raise ValueError(
            f"{where}: index names each sample once, but {values[counts > 1][0]} stands {counts[counts > 1][0]} times; "
            "give each sample its position in the original files, or leave index out."
        )
    more = {k: v.astype(np.int32) for k, v in found.items() if k not in ("image", "label", "index") and _fits(v, n)}
    return {"image": image, "label": label.astype(np.int32), "index": index.astype(np.int64), **more}


def _image(image: np.ndarray, where: str) -> np.ndarray:
    if image.dtype != np.uint8:
        raise ValueError(f"{where}: image holds raw pixels as uint8, got {image.dtype}; save them before any scaling.")
    shaped = image[..., None] if image.ndim == 3 else image
    if shaped.ndim != 4 or 0 in shaped.shape:
        raise ValueError(
            f"{where}: image has the shape (n, height, width, channels) or (n, height, width) and is not empty, got "
            f"{image.shape}; reshape it."
        )
    if shaped.shape[1] <= 4 < shaped.shape[3]:
        raise ValueError(f"{where}: channels come last, got {image.shape}; save image.transpose(0, 2, 3, 1).")
    return shaped


def _column(values: np.ndarray, key: str, n: int, where: str) -> np.ndarray:
    if values.dtype.kind not in "iu" or values.shape != (n,):
        raise ValueError(
            f"{where}: {key} is one integer for each of the {n} images, shape ({n},), got {values.dtype} "
            f"{values.shape}; convert it (one-hot labels by argmax)."
        )
    if values.min() < 0:
        raise ValueError(f"{where}: {key} starts at 0, got {values.min()}; drop or renumber the samples below 0.")
    return values


def _fits(values: np.ndarray, n: int) -> bool:
    """Whether a further column names one int32 per sample."""
    if values.dtype.kind not in "iu" or values.shape != (n,):
        return False
    return INT32.min <= int(values.min()) <= int(values.max()) <= INT32.max
