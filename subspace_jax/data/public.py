"""Unlabelled samples that several parties hold in common: read from a file, moved copies, noise, leaks from a test set.

All are raw, as `load` gives them, and pure functions of a key and the samples.
"""

import pathlib

import jax
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.data.columns import checked
from subspace_jax.data.sources import npz
from subspace_jax.typing import Array, Bool, Float, Key, Shaped


def read(path: str | pathlib.Path) -> Shaped[np.ndarray, "n ..."]:
    """`image` uint8 (n, h, w, channels), else `x` float32 (n, d), of one npz file; labels in it are not looked at.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is damaged or has neither, images that are not pixels 0..255, rows that are not finite.
    """
    found = npz.arrays(pathlib.Path(path), ("image", "x"))
    if not found:
        raise ValueError(f"{path} has no image and no x: save the samples as numpy.savez(path, image=...).")
    name = "image" if "image" in found else "x"
    labels = np.zeros(len(np.atleast_1d(found[name])), np.int32)
    return checked({name: found[name], "label": labels}, None, str(path))[name]


@checks.on_host
def moved(key: Key[Array, ""], image: Shaped[np.ndarray, "n h w c"], *, by: int = 1) -> Shaped[np.ndarray, "n h w c"]:
    """Each image moved by -by..by pixels in both directions, all shifts with the same chance, filled up with zeros.

    Raises:
      ValueError: samples that are no images; a negative distance.
    """
    if by < 0 or image.ndim != 4:
        raise ValueError(f"images (n, h, w, channels) are moved by 0 pixels or more; got {image.shape} and {by}.")
    count, height, width, _ = image.shape
    corner = _generator(key).integers(0, 2 * by + 1, (2, count))
    padded = np.pad(image, ((0, 0), (by, by), (by, by), (0, 0)))
    rows, columns = (start[:, None] + np.arange(size) for start, size in zip(corner, (height, width), strict=True))
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


@checks.on_host
def noise(key: Key[Array, ""], like: Shaped[np.ndarray, "n ..."], *, count: int) -> Float[np.ndarray, "count ..."]:
    """Samples whose numbers are all drawn uniformly between the smallest and the largest number of `like`, float32.

    Raises:
      ValueError: a negative count, or nothing to be like.
    """
    if count < 0 or not like.size:
        raise ValueError(f"0 samples or more, like those given; got {count}, like {len(like)}.")
    drawn = _generator(key).random((count, *like.shape[1:]), np.float32)
    low, high = (checks.as_real("like", end, np.float32) for end in (like.min(), like.max()))
    return low + (high - low) * drawn


@checks.on_host
def among(samples: Shaped[np.ndarray, "n ..."], others: Shaped[np.ndarray, "m ..."]) -> Bool[np.ndarray, " n"]:
    """Which samples are, number for number, also one of the others; by sorting their bytes.

    Raises:
      ValueError: samples of another shape.
    """
    if samples.shape[1:] != others.shape[1:]:
        raise ValueError(f"samples are compared with those of their shape; got {samples.shape} and {others.shape}.")
    both = np.concatenate([others, samples])
    rows = np.ascontiguousarray(both).reshape(len(both), -1)
    rows = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    first, group = np.unique(rows, return_index=True, return_inverse=True)[1:]
    return (first[group] < len(others))[len(others) :]


def _generator(key: Key[Array, ""]) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
