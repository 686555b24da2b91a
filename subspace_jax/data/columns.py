"""Validation behind `load`: columns of a source are converted to its types and shapes, or refused with a message."""

import numpy as np

from subspace_jax.data.classes import INT32, Classes, numbered, plain

Columns = dict[str, np.ndarray]
BYTE = 255


def checked(found: Columns, known: Classes | None, where: str) -> Columns:
    """Validate and convert the columns of a source: `image` or `x`, `label`, `index`, then the other integer columns.

    Args:
      found: the columns of a source.
      known: the classes of the data set; None where it has no training split.
      where: data set, split and folder, for messages.

    Raises:
      ValueError: as `load`.
    """
    key = "image" if "image" in found else "x"
    inputs = (_image if key == "image" else _features)(found[key], where)
    n = len(inputs)
    for name in ("label", "index"):
        if name in found and (length := len(np.atleast_1d(found[name]))) != n:
            raise ValueError(f"{where}: {key} has {n} samples and {name} has {length}; select the same in both.")
    label = numbered(found["label"], known, where)
    index = _index(found["index"], where) if "index" in found else np.arange(n)
    more = {k: v for k, v in found.items() if k not in ("image", "x", "label", "index")}
    more = {k: _same_classes(k, v, found["label"], known) for k, v in more.items()}
    more = {k: v.astype(np.int32) for k, v in more.items() if _fits(v, n)}
    return {key: inputs, "label": label, "index": index.astype(np.int64), **more}


def _image(image: np.ndarray, where: str) -> np.ndarray:
    image = _bytes(image, where)
    shaped = image[..., None] if image.ndim == 3 else image
    if shaped.ndim != 4 or 0 in shaped.shape:
        raise ValueError(
            f"{where}: image has the shape (n, height, width, channels) or (n, height, width) and is not empty, got "
            f"{image.shape}; reshape it, or save rows of numbers as x."
        )
    if shaped.shape[1] <= 4 < shaped.shape[3]:
        raise ValueError(f"{where}: channels come last, got {image.shape}; save image.transpose(0, 2, 3, 1).")
    return shaped


def _bytes(image: np.ndarray, where: str) -> np.ndarray:
    """Pixels 0..255 of any number type as uint8."""
    if image.dtype == np.uint8 or not image.size:
        return image.astype(np.uint8)
    if image.dtype.kind not in "biuf":
        raise ValueError(f"{where}: image holds pixels 0..255, got {image.dtype}; save it as uint8.")
    if image.dtype.kind == "f" and (fractions := image[image != np.floor(image)]).size:
        raise ValueError(
            f"{where}: image holds whole pixels 0..255, got {image.dtype} such as {fractions[0]:.4g}; save them "
            "before any scaling, as uint8."
        )
    low, high = image.min(), image.max()
    if low < 0 or high > BYTE:
        raise ValueError(
            f"{where}: image holds pixels 0..255, got {image.dtype} from {low:g} to {high:g}; bring them to 0..255 "
            "(16 bits: image // 256) and save them as uint8."
        )
    return image.astype(np.uint8)


def _features(x: np.ndarray, where: str) -> np.ndarray:
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{where}: x holds numbers, got {x.dtype}; save it as float32.")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{where}: x is one row of numbers for each sample, (n, d), got {x.shape}; reshape it.")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{where}: x holds finite numbers, but row {row}, column {column} is {x[row, column]} ({len(bad)} in all); "
            "fill them, or drop the rows."
        )
    return x


def _index(index: np.ndarray, where: str) -> np.ndarray:
    if index.dtype.kind not in "iu" or index.ndim != 1:
        raise ValueError(
            f"{where}: index is one integer for each sample, shape (n,), got {index.dtype} {index.shape}; leave it out "
            "where the samples are in their original order."
        )
    if index.min() < 0:
        raise ValueError(f"{where}: index starts at 0, got {index.min()}; give each sample its original position.")
    values, counts = np.unique(index, return_counts=True)
    if len(values) < len(index):
        raise ValueError(
            f"{where}: index names each sample once, but {values[counts > 1][0]} stands {counts[counts > 1][0]} times; "
            "give each sample its position in the original files, or leave index out."
        )
    return index


def _same_classes(key: str, values: np.ndarray, label: np.ndarray, known: Classes | None) -> np.ndarray:
    """Number a further label column (human annotations) as `label` is, if it has no other classes; else leave it."""
    if known is None or values.shape != label.shape or not key.endswith("label") or values.dtype.kind not in "iuUS":
        return values
    if values.dtype.kind in "iu" and values.size and values.min() < 0:
        return values
    values = plain(values, key)
    alike = (values.dtype.kind == "U") == (known.values.dtype.kind == "U") and np.isin(values, known.values).all()
    return numbered(values, known, key) if alike else values


def _fits(values: np.ndarray, n: int) -> bool:
    """Whether a further column holds one integer per sample that fits int32."""
    if values.dtype.kind not in "iu" or values.shape != (n,):
        return False
    return INT32.min <= int(values.min()) <= int(values.max()) <= INT32.max
