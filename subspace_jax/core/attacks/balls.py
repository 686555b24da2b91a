"""Balls around images, in the largest (linf) and the Euclidean (l2) change, cut to pixels in [0, 1]."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from subspace_jax.typing import Array, Float, Shaped

Norm = Literal["linf", "l2"]
TINY = 1e-12  # a gradient of zeros has no direction: it stays zero


def lift(values: Shaped[Array, " b"], x: Float[Array, "b *image"]) -> Array:
    """One value an image, to stand beside pixels: (b, 1, ..., 1)."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def lengths(x: Float[Array, "b *image"]) -> Float[Array, " b"]:
    """Euclidean length of each image."""
    return jnp.sqrt((x.reshape(len(x), -1) ** 2).sum(1))


def check_norm(norm: str) -> None:
    """Refuse a norm that has no ball here.

    Raises:
      ValueError: names both norms.
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm is one of {', '.join(get_args(Norm))}; got {norm!r}.")


def project(norm: Norm, x: Float[Array, "b *image"], around: Float[Array, "b *image"], eps: Array) -> Array:
    """The nearest image of the ball; cutting to [0, 1] afterwards moves no pixel away from `around`."""
    change = x - around
    if norm == "linf":
        change = jnp.clip(change, -eps, eps)
    else:
        change *= lift(jnp.minimum(1, eps / jnp.maximum(lengths(change), TINY)), x)
    return jnp.clip(around + change, 0, 1)


def direction(norm: Norm, gradient: Float[Array, "b *image"]) -> Array:
    """Steepest direction of length 1: the sign, 0 where the gradient is 0, or the normalised gradient."""
    if norm == "linf":
        return jnp.sign(gradient)
    largest = jnp.abs(gradient).reshape(len(gradient), -1).max(1)
    gradient /= lift(jnp.where(largest > 0, largest, 1), gradient)  # squares of 1e-20 would vanish
    return gradient / lift(jnp.maximum(lengths(gradient), TINY), gradient)


def uniform(norm: Norm, keys: Array, x: Float[Array, "b *image"], eps: Array) -> Array:
    """An image drawn uniformly from the ball, before it is cut to [0, 1]."""

    def cube(key):
        return jax.random.uniform(key, x.shape[1:], x.dtype, -1, 1)

    def inside(key):
        ways, far = jax.random.split(key)
        drawn = jax.random.normal(ways, x.shape[1:], x.dtype)
        radius = jax.random.uniform(far, (), x.dtype) ** (1 / x[0].size)
        return drawn * radius / jnp.sqrt((drawn**2).sum())

    return jnp.clip(x + eps * jax.vmap(cube if norm == "linf" else inside)(keys), 0, 1)
