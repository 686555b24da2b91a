"""Scaling of raw pixels to network inputs, per channel; its numbers are saved with a checkpoint.

scaled = (pixel / divisor - mean) / std
"""

from typing import NamedTuple

import numpy as np

from subspace_jax.core.checks import check_real
from subspace_jax.typing import Array

DIGITS_DIVISOR = 16.0  # their pixels count the dark points of a 4x4 block; no further scaling
BLOCK = 2**18  # pixels widened to int64 at a time: 6 MB of RGB


class Scaling(NamedTuple):
    """How raw pixels are scaled; `Scaling(**config)` restores it from JSON of `_asdict()` (`scale` takes lists)."""

    divisor: float
    mean: tuple[float, ...]
    """Per channel, of pixels already divided."""
    std: tuple[float, ...]
    """Per channel, of pixels already divided; 1 for a constant channel."""


def scaling(name: str, image: np.ndarray) -> Scaling:
    """The scaling of a data set, from its training images.

    `digits`: divisor 16, mean 0, deviation 1. Any other set: divisor 255, then mean and deviation over all pixels of
    each channel, from exact integer sums a block at a time, so that only a block is widened. Rows of numbers
    stay as they are: divisor 1, mean 0, deviation 1.

    Args:
      name: of the data set, as given to `load`.
      image: raw training pixels, uint8 (n, h, w, channels), or rows of numbers, float (n, d).

    Raises:
      ValueError: images that are not uint8.
    """
    if image.ndim == 2 and image.dtype.kind == "f":
        return Scaling(1.0, (0.0,) * image.shape[1], (1.0,) * image.shape[1])
    if image.dtype != np.uint8:
        raise ValueError(f"scaling is measured on raw uint8 pixels, got {image.dtype}; pass the image that load gave.")
    channels = image.shape[-1]
    if name == "digits":
        return Scaling(DIGITS_DIVISOR, (0.0,) * channels, (1.0,) * channels)
    total = np.zeros((2, channels), np.int64)
    flat = image.reshape(-1, channels)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK].astype(np.int64)
        total += [block.sum(axis=0), np.square(block).sum(axis=0)]
    mean, power = total / len(flat)
    std = np.sqrt(power - mean**2) / 255
    return Scaling(255.0, tuple((mean / 255).tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))


def scale(image: np.ndarray | Array, scaling: Scaling) -> np.ndarray | Array:
    """(image / divisor - mean) / std as float32, in NumPy or JAX as `image` is, also under `jit` and `grad`.

    Args:
      image: raw pixels or rows of any real dtype, (..., channels): one sample, a batch, or more axes.
      scaling: of the training set.

    Raises:
      ValueError: another number of channels.
    """
    channels = len(scaling.mean)
    if image.shape[-1] != channels:
        raise ValueError(f"scaling has {channels} channels, image has {image.shape[-1]} (last of {image.shape}).")
    check_real("a scaling", {"image": image.dtype})
    shape = (1,) * (image.ndim - 1) + (channels,)
    mean, std = (np.reshape(np.asarray(part, np.float32), shape) for part in scaling[1:])
    return (image.astype(np.float32) / np.float32(scaling.divisor) - mean) / std
