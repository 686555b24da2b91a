"""Gaussians fitted to what several models say of one sample: the arithmetic of likelihood-ratio attacks.

Every function takes NumPy or JAX arrays and returns the same kind: float64 on the host for an audit, or inside `jit`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.typing import Bool, Float, Int

STD_FLOOR = 1e-3  # of logits and logarithms; models that agree exactly would divide by zero

Values = Float[Any, "..."]  # NumPy or JAX


class Gaussian(NamedTuple):
    """Mean and standard deviation, of any shape."""

    mean: Values
    std: Values


def fit(values: Values, mask: Bool[Any, "..."], *, axis: int) -> Gaussian:
    """Mean and standard deviation (dividing by the count) of the masked values along an axis, for each of the others.

    Args:
      values: any shape.
      mask: of the same rank, broadcast where an axis is 1; NaN where nothing is masked.
      axis: over the models.
    """
    return Gaussian(values.mean(axis=axis, where=mask), values.std(axis=axis, where=mask))


def floored(gaussian: Gaussian, floor: float = STD_FLOOR) -> Gaussian:
    """The Gaussian with a standard deviation of at least `floor`."""
    xp = _namespace(gaussian.std)
    return gaussian._replace(std=xp.maximum(gaussian.std, floor))


def log_density(values: Values, gaussian: Gaussian) -> Values:
    """Log N(values; mean, std), in nats; shapes as NumPy broadcasts them."""
    xp = _namespace(values)
    variance = xp.square(gaussian.std)
    return (xp.log(2 * np.pi * variance) + xp.square(values - gaussian.mean) / variance) / -2


def log_ratio(values: Values, inside: Gaussian, outside: Gaussian) -> Values:
    """Log N(values; inside) - log N(values; outside): positive where the first explains the values better."""
    return log_density(values, inside) - log_density(values, outside)


def label_logit(logits: Float[Any, "*rows classes"], y: Int[Any, "..."]) -> Values:
    """log(p_y / (1 - p_y)) = z_y - log sum_{k != y} exp z_k, without rounding where p_y is near 1.

    Logits and log-probabilities give the same. +inf where all other classes have probability 0.

    Args:
      logits: class scores; labels are not checked to lie in [0, classes): NaN or nonsense follows.
      y: classes, one per row, or (n,) for rows (..., n).
    """
    xp = _namespace(logits)
    y = xp.asarray(y)[..., None]
    own = xp.arange(logits.shape[-1]).reshape((1,) * (y.ndim - 1) + (-1,)) == y
    own = own.reshape((1,) * (logits.ndim - own.ndim) + own.shape)
    rest = xp.where(own, -np.inf, logits)
    top = xp.max(rest, axis=-1, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # inf - inf would be NaN
    others = xp.log(xp.sum(xp.exp(rest - top), axis=-1)) + top[..., 0]
    return xp.sum(logits, axis=-1, where=own) - others


def _namespace(values: Any) -> Any:
    """`numpy` or `jax.numpy`, whichever made the array."""
    return jnp if isinstance(values, jax.Array) else np
