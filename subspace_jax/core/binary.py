"""Weights and activations of one or a few bits on [-1, 1], with the straight-through gradients of XNOR networks.

q_k(x) = 2 round((clip(x) + 1) / 2 (2^k - 1)) / (2^k - 1) - 1: 2^k levels from -1 to 1, for one bit sign(x), with
sign(0) = 1. Activations are levels; the weights of output filter o are alpha_o times levels, alpha_o = mean |W|. The
real weights are what an optimiser moves; they stay centred and in [-1, 1] (`recentred`). Last axis of a kernel:
filters; the one before: input channels. Rastegari et al. 2016 (XNOR-Net); Chakraborty et al. 2020, arXiv 1906.01493.

>>> import jax.numpy as jnp
>>> [round(float(level), 2) for level in quantize(jnp.array([-2.0, -0.4, 0.1, 0.9]), 2)]
[-1.0, -0.33, 0.33, 1.0]
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_axes, check_filled
from subspace_jax.core.quantize import check_bits
from subspace_jax.typing import Array, Float, Int

Values = Float[Array | np.ndarray, "*shape"]
Kernel = Float[Array | np.ndarray, "*window c_in c_out"]
Scale = Literal["mean", "least_squares"]
MOST = 8  # bits of a level: products of two levels, summed, are then exact in float32


@jax.custom_jvp
def sign(x: Values) -> Float[Array, "*shape"]:
    """1 for x >= 0, else -1, NaN of NaN; the gradient passes where |x| < 1 and is zero elsewhere."""
    return jnp.where(jnp.isnan(x), x, jnp.where(x >= 0, 1, -1).astype(x.dtype))


@sign.defjvp
def _sign_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return sign(x), jnp.where(jnp.abs(x) < 1, tangent, 0)


def quantize(x: Values, bits: int, *, clip: bool = True) -> Float[Array, "*shape"]:
    """q_k(x), within 1 / (2^k - 1) of x on [-1, 1]; half-way values go to the even level.

    Args:
      x: any shape.
      bits: 1 to 8.
      clip: to [-1, 1] first; the gradient then passes where |x| < 1. Without it, as the authors' code has it, values
        outside get levels of their own, more than `bits` can hold, and the gradient passes everywhere. One bit: sign.

    Raises:
      ValueError: bits outside 1..8.
    """
    check_levels(bits)
    x = jnp.asarray(x)
    if bits == 1:
        return sign(x)
    return _masked(x, bits) if clip else x + jax.lax.stop_gradient(_levels(x, bits) - x)


def codes(x: Values, bits: int) -> Int[Array, "*shape"]:
    """The odd integers n q_k(x), n = 2^k - 1, from -n to n, int32: sums of their products are exact.

    Raises:
      ValueError: bits outside 1..8.
    """
    check_levels(bits)
    if bits == 1:
        return jnp.where(x >= 0, 1, -1)
    steps = 2**bits - 1
    return 2 * jnp.round((jnp.clip(x, -1, 1) + 1) / 2 * steps).astype(jnp.int32) - steps


def binary_weight(w: Kernel) -> Array:
    """alpha_o sign(W): two values a filter; `kbit_weight` with one bit."""
    return kbit_weight(w, 1)


def kbit_weight(w: Kernel, bits: int, *, scale: Scale = "mean") -> Array:
    """alpha_o q_k(W), with the authors' gradient, whatever the bits and the scale.

    g <- [alpha_o 1{|W| <= 1} g + sign(W) mean(sign(W) g)] (1 - 1 / c_in) n, the mean over the n weights of a filter.

    Args:
      w: real weights, (*window, c_in, c_out), or (d_in, d_out).
      bits: 1 to 8.
      scale: as in `filter_scale`.

    Raises:
      ValueError: bits outside 1..8; a single input channel, which centring makes 0.
    """
    check_levels(bits)
    if w.ndim < 2 or w.shape[-2] == 1:
        raise ValueError(f"a quantised kernel reads 2 channels or more, since it is centred over them; got {w.shape}.")
    return _kbit(w, bits, scale)


def filter_scale(w: Kernel, bits: int, *, scale: Scale = "mean") -> Float[Array, " c_out"]:
    """The scale alpha_o of each filter.

    "mean" is mean |W|: the best for one bit, about half of the best for more, which is harmless before a norm and wrong
    before a sum. "least_squares" is <W, q> / <q, q>, which minimises ||W - alpha q|| for any bits.

    Raises:
      ValueError: bits outside 1..8, no weights, another scale.
    """
    check_levels(bits)
    check_filled("a kernel", w)
    if scale not in get_args(Scale):
        raise ValueError(f"scale is one of {', '.join(get_args(Scale))}; got {scale!r}.")
    w, axes = jnp.asarray(w), tuple(range(w.ndim - 1))
    if scale == "mean":
        return jnp.abs(w).mean(axes)
    levels = codes(w, bits).astype(w.dtype) / (2**bits - 1)
    return (w * levels).sum(axes) / (levels**2).sum(axes)


def recentred(w: Kernel) -> Array:
    """Real weights minus their mean over input channels, one at each tap and filter, then clipped to [-1, 1].

    Clipping moves the mean again: twice is not once.
    """
    check_axes("a kernel", w, 2)
    return jnp.clip(jnp.asarray(w) - w.mean(-2, keepdims=True), -1, 1)


def check_levels(bits: int) -> None:
    """ValueError unless bits is one of 1..8."""
    check_bits(bits)
    if bits > MOST:
        raise ValueError(f"levels of one value take 1 to {MOST} bits; got {bits}: 32 keeps a layer as it is.")


def _levels(x: Array, bits: int) -> Array:
    steps = 2**bits - 1
    return 2 * jnp.round((x + 1) / 2 * steps) / steps - 1


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _masked(x: Array, bits: int) -> Array:
    return _levels(jnp.clip(x, -1, 1), bits)


@_masked.defjvp
def _masked_jvp(bits, primals, tangents):
    (x,), (tangent,) = primals, tangents
    return _masked(x, bits), jnp.where(jnp.abs(x) < 1, tangent, 0)


def _each_filter(w: Kernel, bits: int, scale: Scale) -> Array:
    return filter_scale(w, bits, scale=scale).reshape(*(1,) * (w.ndim - 1), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _kbit(w: Array, bits: int, scale: Scale) -> Array:
    return _each_filter(w, bits, scale) * (codes(w, bits).astype(w.dtype) / (2**bits - 1))


def _kbit_backward(bits, scale, w, g):
    axes, signs = tuple(range(w.ndim - 1)), jnp.where(w >= 0, 1, -1).astype(w.dtype)
    passed = _each_filter(w, bits, scale) * (jnp.abs(w) <= 1) * g
    shared = signs * (signs * g).mean(axes, keepdims=True)
    return ((passed + shared) * (1 - 1 / w.shape[-2]) * (w.size // w.shape[-1]),)


_kbit.defvjp(lambda w, bits, scale: (_kbit(w, bits, scale), w), _kbit_backward)
