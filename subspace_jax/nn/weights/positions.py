"""Position tables of a ViT for images of another size."""

import math

import numpy as np

from subspace_jax.typing import Float


def grid(count: int) -> int:
    """Side of the square of patches that a table of so many entries describes, its first one the class token's.

    Raises:
      ValueError: no square.
    """
    side = math.isqrt(max(count - 1, 0))
    if side < 1 or side**2 != count - 1:
        raise ValueError(f"a position table has a class token and a square of patches; {count} entries are neither.")
    return side


def resize(table: Float[np.ndarray, "1 old d"], height: int, width: int) -> Float[np.ndarray, "1 new d"]:
    """The table for height x width patches: bilinear between the outermost patches, the class token as it is.

    As the original ViT does it (`scipy.ndimage.zoom`, order 1): the four corners stay, so that a table of the same size
    stays as a whole. Others interpolate otherwise (PyTorch: bicubic, by pixel centres).

    Raises:
      ValueError: a table that is not a class token and a square.
    """
    side = grid(table.shape[1])
    square = table[0, 1:].reshape(side, side, -1).astype(np.float64)
    rows = _between(side, height)
    columns = _between(side, width)
    patches = np.einsum("ai,ijd,bj->abd", rows, square, columns).reshape(1, height * width, -1)
    return np.concatenate([table[:, :1], patches.astype(table.dtype)], axis=1)


def _between(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of linear interpolation from `old` places to `new` ones, ends on ends."""
    place = np.linspace(0, old - 1, new)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)
