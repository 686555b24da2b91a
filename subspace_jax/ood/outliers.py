"""Inputs that no data set holds, and images of another set brought to the shape of the known ones.

Pixels are in [0, 1]: multiply by the divisor of the data set, then scale as in training. A network may have learnt the
noise it was trained on: test an auxiliary class that was trained on Gaussian noise with the others.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_shape, on_host
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Float, Key

COARSE = 3  # pixels a side of the noise that blur enlarges
LUMA = 0.299, 0.587, 0.114  # of red, green and blue: ITU-R BT.601


def gaussian(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
    """Normal noise of mean .5 and deviation .25, cut to [0, 1]."""
    check_shape("a shape of images", shape)
    return jnp.clip(0.5 + 0.25 * jax.random.normal(as_key(key), shape), 0, 1)


def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
    """Every pixel and channel uniform."""
    check_shape("a shape of images", shape)
    return jax.random.uniform(as_key(key), shape)


def salt_pepper(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
    """Every pixel and channel 0 or 1."""
    check_shape("a shape of images", shape)
    return jax.random.bernoulli(as_key(key), 0.5, shape).astype(jnp.float32)


def blur(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
    """3x3 uniform noise, enlarged bilinearly: smooth, unlike all noise a pixel at a time."""
    check_shape("a shape of images", shape)
    coarse = jax.random.uniform(as_key(key), (shape[0], COARSE, COARSE, shape[-1]))
    return jax.image.resize(coarse, shape, "bilinear")


def constant(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
    """One value for all pixels of an image, uniform, for each channel its own."""
    check_shape("a shape of images", shape)
    return jnp.broadcast_to(jax.random.uniform(as_key(key), (shape[0], 1, 1, shape[-1])), shape)


@on_host
def inverted(image: Float[Any, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
    """1 - x of known images."""
    return 1 - np.asarray(image)


@on_host
def permuted(key: Key[Array, ""], image: Float[Any, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
    """Known images with their pixels in another order, the same for all."""
    image = np.asarray(image)
    n, height, width, channels = image.shape
    order = np.asarray(jax.random.permutation(as_key(key), height * width))
    return image.reshape(n, -1, channels)[:, order].reshape(image.shape)


NOISES: dict[str, Callable] = {
    "gaussian": gaussian, "uniform": uniform, "salt_pepper": salt_pepper, "blur": blur, "constant": constant,
}  # fmt: skip


@on_host
def fitted(image: Any, shape: tuple[int, int, int], *, grey: bool = False) -> Any:
    """Images (n, h, w, c) of another set at the height, width and channels of the known ones.

    Larger ones are cropped at the centre, smaller ones padded with 0. Colour becomes grey by its luma, grey is repeated
    over the channels.

    Args:
      image: pixels of any dtype.
      shape: height, width and channels wanted.
      grey: take the luma in any case.

    Raises:
      ValueError: images that are none, or of other than 1 or 3 channels.
    """
    image = np.asarray(image)
    if image.ndim != 4 or image.shape[-1] not in (1, 3) or shape[2] not in (1, 3):
        raise ValueError(f"images are (n, h, w, 1 or 3), for {shape}; got shape {image.shape}.")
    if image.shape[-1] == 3 and (grey or shape[2] == 1):
        luma = (image @ np.array(LUMA))[..., None]
        image = (np.rint(luma) if image.dtype.kind in "iu" else luma).astype(image.dtype)
    for axis, wanted in ((1, shape[0]), (2, shape[1])):
        more = image.shape[axis] - wanted
        pads = [(0, 0)] * 4
        pads[axis] = (max(-more, 0) // 2, max(-more, 0) - max(-more, 0) // 2)
        first = max(more, 0) // 2
        image = np.pad(np.take(image, np.arange(first, first + min(wanted, image.shape[axis])), axis), pads)
    return np.repeat(image, shape[2] // image.shape[-1], axis=-1)
