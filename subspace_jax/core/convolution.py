"""Convolutions as matrix products; the only place that defines the feature order (kh, kw, c).

A convolution is `patches(x) @ kernel_matrix(kernel)`: images are channels-last (batch, *space, c), kernels HWIO
(*window, c_in, c_out), for any number of spatial axes. `lax.conv_general_dilated_patches` orders features channel-major
(c, kh, kw) and computes them by a convolution; here they are gathered, so that they are exact in every precision.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from subspace_jax.core import checks
from subspace_jax.typing import Array, Bool, Num

Padding = str | Sequence[tuple[int, int]]


def patches(
    x: Num[Array, "b *space c"],
    window: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    padding: Padding = "SAME",
    dilation: Sequence[int] | None = None,
    input_dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Num[Array, "..."]:
    """Input window of each output position of a convolution, as one row of features (*window, c).

    Args:
      x: images, channels last; any number of spatial axes.
      window: kernel size per spatial axis.
      strides: steps between windows; 1 when None.
      padding: "SAME", "VALID" or (low, high) per spatial axis; padded features are zero, negative values crop.
      dilation: steps inside a window; 1 when None.
      input_dilation: steps between pixels (transposed convolution); 1 when None. Needs explicit padding.
      groups: channel groups, as `feature_group_count`.

    Returns:
      (b, *out, prod(window) * c); with groups > 1 (groups, b, *out, prod(window) * c / groups).

    Raises:
      ValueError: channels that do not divide into the groups, or a window larger than the padded image.
    """
    ones = (1,) * len(window)
    strides, dilation, input_dilation = strides or ones, dilation or ones, input_dilation or ones
    checks.check_shape("a window", window)
    checks.check_filled("the images", x)
    if x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels do not divide into {groups} groups.")
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:-1], reach, strides, padding)
    pads = [(low, high, step - 1) for (low, high), step in zip(padding, input_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    for axis, (size, stride, step) in enumerate(zip(window, strides, dilation, strict=True)):
        x = _windows(x, 1 + 2 * axis, size, stride, step)  # (b, out, k, out, k, ..., c)
    last = x.ndim - 1
    x = x.transpose(0, *range(1, last, 2), *range(2, last, 2), last)
    outs, c = x.shape[: 1 + len(window)], x.shape[-1]
    x = x.reshape(*outs, math.prod(window), groups, c // groups)
    x = jnp.moveaxis(x, -2, 0).reshape(groups, *outs, -1)
    return x if groups > 1 else x[0]


def kernel_matrix(kernel: Num[Array, "*window c_in c_out"], *, groups: int = 1) -> Num[Array, "..."]:
    """HWIO kernel as the matrix that multiplies `patches`.

    Returns:
      (prod(window) * c_in, c_out); with groups > 1 (groups, prod(window) * c_in, c_out / groups).
    """
    matrix = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    return jnp.moveaxis(matrix, 1, 0) if groups > 1 else matrix[:, 0]


def matrix_kernel(matrix: Num[Array, "..."], window: Sequence[int], *, groups: int = 1) -> Num[Array, "..."]:
    """The HWIO kernel of a matrix (inverse of `kernel_matrix`); it may have any number of columns."""
    checks.check_shape("a window", window)
    columns = jnp.moveaxis(matrix, 0, 1) if groups > 1 else matrix[:, None]
    return columns.reshape(*window, -1, groups * matrix.shape[-1])


def tiles(
    kernel: Num[Array | np.ndarray, "*window c_in c_out"], rows: int
) -> tuple[Any, Bool[np.ndarray, "down across rows rows"]]:
    """A kernel cut as crossbars of rows x rows weights hold it, and which of the entries are there.

    Crossbars take inputs channel by channel: entry (i, j, p, q) belongs to output channel i rows + p and to number
    j rows + q of its inputs in the order (c, *window), which is another one than that of `patches`. What the edges lack
    is filled up with zeros.

    Args:
      kernel: HWIO, or (d_in, d_out) of a dense layer; NumPy stays NumPy.
      rows: inputs of one crossbar, and as many outputs.

    Returns:
      The blocks (down, across, rows, rows) and the mask of what is there, of the same shape.

    Raises:
      ValueError: rows below 1.
    """
    if rows < 1:
        raise ValueError(f"a crossbar has at least 1 row; got {rows}.")
    xp = np if isinstance(kernel, np.ndarray) else jnp
    matrix = _channel_first(xp, kernel)
    sizes = [-(-size // rows) for size in matrix.shape]
    pads = [(0, count * rows - size) for count, size in zip(sizes, matrix.shape, strict=True)]

    def cut(values: Any, xp: Any) -> Any:
        return xp.pad(values, pads).reshape(sizes[0], rows, sizes[1], rows).transpose(0, 2, 1, 3)

    return cut(matrix, xp), cut(np.ones(matrix.shape, bool), np)


def untile(blocks: Num[Array | np.ndarray, "down across rows rows"], shape: Sequence[int]) -> Any:
    """The kernel of this shape that `tiles` cut: its inverse."""
    xp: Any = np if isinstance(blocks, np.ndarray) else jnp
    down, across, rows, _ = blocks.shape
    whole = blocks.transpose(0, 2, 1, 3).reshape(down * rows, across * rows)
    *window, c_in, c_out = shape
    matrix = whole[:c_out, : c_in * math.prod(window)]
    return xp.moveaxis(matrix.reshape(c_out, c_in, *window), (0, 1), (-1, -2))


def _channel_first(xp: Any, kernel: Any) -> Any:
    """(c_out, c_in * prod(window)), a channel's window in one piece."""
    return xp.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1)


def _windows(x: Array, axis: int, size: int, stride: int, step: int) -> Array:
    """Split one axis in (positions, size)."""
    reach = (size - 1) * step + 1
    if x.shape[axis] < reach:
        raise ValueError(f"a window that reaches {reach} does not fit in {x.shape[axis]} padded pixels.")
    if size == 1:
        return jnp.expand_dims(lax.slice_in_dim(x, 0, None, stride, axis), axis + 1)
    starts = np.arange(0, x.shape[axis] - reach + 1, stride)
    return x.take(starts[:, None] + step * np.arange(size), axis=axis, mode="clip")
