"""Augmentation and scaling of raw pixels, on the device inside the training step."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax.core.checks import check_axes, check_count
from subspace_jax.core.keys import as_key
from subspace_jax.data import Scaling, scale
from subspace_jax.typing import Array, Key, Shaped


def prepare(scaling: Scaling, *, augment: bool = False) -> Callable:
    """(key, raw pixels) -> network inputs: random crops and flips if asked for, then the scaling of the data set.

    The same arguments give the same function object, so that training steps with it are compiled once.
    """
    return _prepared(Scaling(scaling.divisor, tuple(scaling.mean), tuple(scaling.std)), augment)


@lru_cache
def _prepared(scaling: Scaling, augment: bool) -> Callable:
    def run(key, x):
        return scale(crop_flip(key, x) if augment else x, scaling)

    return run


def crop_flip(key: Key[Array, ""], x: Shaped[Array, "b h w c"], *, pad: int = 4) -> Shaped[Array, "b h w c"]:
    """Zero-pad by `pad` pixels, crop a random window of the old size, flip each image left-right with probability 1/2.

    Works on raw uint8 pixels as on floats: apply it before scaling, so that the padding is black.
    """
    key = as_key(key)
    check_count("pad", pad, 0)
    check_axes("images (b, h, w, c)", x, 4)
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corner_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(corner_key, (batch, 2), 0, 2 * pad + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    cropped = jax.vmap(cut)(padded, corners)
    flip = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)
