"""The convolution of our networks: the one of JAX, with a derivative that XLA runs fast on a CPU.

Values and derivatives of every order are those of `lax.conv_general_dilated`; only their program is another one. What
profiles on a CPU showed (XLA of JAX 0.10), and what is done about it:

- A window larger than the image: XLA lets image and kernel change roles, and what results runs without a library, 57
  times slower at 2x2 images with 512 channels. Here the image is padded first.
- Few input channels, or such an image: the gradient in the input is a matrix product, 2 to 5 times sooner.
- A kernel gradient transposes its input, and XLA computes that anew, in a ResNet with all blocks before it: `kept`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from subspace_jax.typing import Array, Float

NUMBERS = "NHWC", "HWIO", "NHWC"
FEW_CHANNELS = 8  # up to which a product with patches gives the gradient of the input sooner: 2 to 5 times at 1 to 6
Pads = tuple[tuple[int, int], ...]


def convolve(
    x: Float[Array, "b *space c"],
    kernel: Float[Array, "*window c_in o"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "b *out o"]:
    """`lax.conv_general_dilated` of images, channels last, as `flax.linen.Conv` calls it.

    Args:
      x: images.
      kernel: HWIO.
      strides: steps between windows.
      padding: "SAME", "VALID" or (low, high) per axis.
      **options: of `lax.conv_general_dilated`. With groups or dilation, more than FEW_CHANNELS channels of an image
        no smaller than the window, and on anything but a CPU, the call is passed on as it is.
    """
    dilations = [step for name in ("lhs_dilation", "rhs_dilation") for step in options.get(name) or ()]
    ordinary = x.ndim == 4 and options.get("feature_group_count", 1) == 1 and all(step == 1 for step in dilations)
    special = _small(x, kernel) or x.shape[-1] <= FEW_CHANNELS
    if jax.default_backend() != "cpu" or not (ordinary and special):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    return _convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)), options.get("precision"))


def kept(x: Array) -> Array:
    """The same numbers, which XLA on a CPU computes once: it repeats what is cheap for every reader, but no division.

    The one is behind a barrier until that is decided; then the division goes. x itself on other devices.
    """
    return x / lax.optimization_barrier(jnp.ones((), x.dtype)) if jax.default_backend() == "cpu" else x


def derives_plainly(equation: Any) -> bool:
    """Whether an equation of a jaxpr is ours: its own derivative is that of the product it holds."""
    inner = equation.params.get("call_jaxpr")
    return inner is not None and inner.jaxpr.debug_info.func_name == _convolve.__name__


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, precision: Any) -> Array:
    if _small(x, kernel):  # explicit zeros, behind a barrier: XLA would fold them into the convolution again
        x, pads = lax.optimization_barrier(_padded(x, pads)), ((0, 0),) * 2
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=NUMBERS, precision=precision)


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _tangent(strides: tuple[int, ...], pads: Pads, precision: Any, primals: tuple, tangents: tuple) -> tuple:
    (x, kernel), (dx, dkernel) = primals, tangents
    y, change = _convolve(x, kernel, strides, pads, precision), []
    if not isinstance(dkernel, SymbolicZero):
        change.append(_convolve.fun(x, dkernel, strides, pads, precision))
    if not isinstance(dx, SymbolicZero):
        change.append(_by_patches(dx, kernel, strides, pads, precision))
    return y, sum(change[1:], change[0]) if change else jnp.zeros_like(y)


def _by_patches(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, precision: Any) -> Array:
    """The convolution as one matrix product; its transpose is a product and a sum of shifted images."""
    x, (kh, kw, c, o) = _padded(x, pads), kernel.shape
    oh, ow = ((size - k) // step + 1 for size, k, step in zip(x.shape[1:3], (kh, kw), strides, strict=True))
    last = (oh - 1) * strides[0] + 1, (ow - 1) * strides[1] + 1
    shifted = [
        lax.slice(x, (0, i, j, 0), (len(x), i + last[0], j + last[1], c), (1, *strides, 1))
        for i in range(kh)
        for j in range(kw)
    ]
    return lax.dot_general(
        jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, o), (((3,), (0,)), ((), ())), precision=precision
    )


def _small(x: Array, kernel: Array) -> bool:
    """Whether the window has more positions than the image, which is when XLA lets them change roles."""
    return math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3])


def _padded(x: Array, pads: Pads) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))
