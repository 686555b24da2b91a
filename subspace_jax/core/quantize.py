"""Values on a uniform grid of 2^bits levels, with straight-through gradients.

Q(x; lo, hi) = s k + lo, s = max((hi - lo) / (2^bits - 1), 1e-8), k = clip(round((x - lo) / s), 0, 2^bits - 1): the
"fake quantization" of low-precision training (Aketi et al., 2021, arXiv 2111.09389). Zero is in general not on the
grid. One range per tensor; NaN or infinity in a range makes every value NaN: nothing is lost silently.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_real
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Float, Key, Num, PyTree

MAX_BITS = 16
SMALLEST_SCALE = 1e-8  # step of a constant tensor, whose range is zero: it keeps its value
KEPT = 0.1  # weight of the old running range in an update

Scalar = Num[Array | np.ndarray, ""] | float | int


class Observer(NamedTuple):
    """Running range of the input of one quantized operation; not trained, but averaged where parameters are.

    Attributes:
      lo: lower end, ().
      hi: upper end, ().
    """

    lo: Float[Array, "..."]
    hi: Float[Array, "..."]


def quantize(
    x: Float[Array, "*shape"], bits: int | None, lo: Scalar, hi: Scalar, *, key: Key[Array, ""] | None = None
) -> Float[Array, "*shape"]:
    """Q(x) with the straight-through estimator: dQ/dx is one everywhere, dQ/dlo and dQ/dhi are zero.

    Inside [lo, hi] within s / 2 of x (s with stochastic rounding); outside clipped to lo or hi; Q(Q(x)) = Q(x).

    Args:
      x: any shape, one range for all of it.
      bits: per value, 1 to 16; None returns x unchanged.
      lo: lower end of the range, such as that of `tensor_range`, `batch_range` or an observer.
      hi: upper end of the range.
      key: rounds to nearest (half to even) when None, else stochastically, so that E[Q(x)] = x inside the range.

    Raises:
      ValueError: bits outside 1..16.
    """
    if bits is None:
        return x
    return _straight_through(x, dequantize(*codes(x, bits, lo, hi, key=key)).astype(x.dtype))


def codes(
    x: Float[Array, "*shape"], bits: int, lo: Scalar, hi: Scalar, *, key: Key[Array, ""] | None = None
) -> tuple[Num[Array, "*shape"], Float[Array, ""], Float[Array, ""]]:
    """The integers k of `quantize` (uint8 up to 8 bits, else uint16), the scale s and lo, in float32 or wider.

    Raises:
      ValueError: bits outside 1..16; complex values.
    """
    check_bits(bits)
    check_real("quantization", {"x": x.dtype})
    wide = jnp.promote_types(x.dtype, jnp.float32)
    lo, hi = jnp.asarray(lo, wide), jnp.asarray(hi, wide)
    scale = jnp.maximum((hi - lo) / (2**bits - 1), SMALLEST_SCALE)
    level = (x.astype(wide) - lo) / scale
    level = jnp.round(level) if key is None else stochastic_round(key, level)
    return jnp.clip(level, 0, 2**bits - 1).astype(code_dtype(bits)), scale, lo


def dequantize(codes: Num[Array, "*shape"], scale: Float[Array, ""], lo: Float[Array, ""]) -> Float[Array, "*shape"]:
    """The values s k + lo, in the dtype of the scale."""
    return codes.astype(scale.dtype) * scale + lo


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def quantize_grad(key: Key[Array, ""], x: Float[Array, "*shape"], bits: int | None) -> Float[Array, "*shape"]:
    """The identity; its cotangent is quantised to `bits` bits, from its minimum to its maximum, rounded stochastically.

    bits = None leaves the cotangent alone. Reverse mode only.

    Raises:
      ValueError: bits outside 1..16.
    """
    if bits is not None:
        check_bits(bits)
        as_key(key)
    return x


def tensor_range(x: Float[Array, "..."]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Exact minimum and maximum: the range of parameters and of cotangents."""
    return x.min(), x.max()


def batch_range(x: Float[Array, "b *shape"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Batch means of each sample's minimum and maximum: the range of activations; outliers are clipped."""
    rows = x.reshape(len(x), -1)
    return rows.min(1).mean(), rows.max(1).mean()


def observer(dtype: jax.typing.DTypeLike = jnp.float32) -> Observer:
    """An observer that has seen nothing: (0, 0)."""
    return Observer(jnp.zeros((), dtype), jnp.zeros((), dtype))


def observe(running: Observer, lo: Float[Array, "..."], hi: Float[Array, "..."]) -> Observer:
    """The next running range, 0.1 running + 0.9 (lo, hi), from the `batch_range` of one training step."""
    return jax.tree.map(lambda old, new: KEPT * old + (1 - KEPT) * new, running, Observer(lo, hi))


def check_calibrated(observers: PyTree) -> None:
    """Refuse observers that saw no training step, whose range is (0, 0); call it outside `jit`.

    Raises:
      ValueError: names the first one.
    """
    found = jax.tree_util.tree_leaves_with_path(observers, is_leaf=lambda node: isinstance(node, Observer))
    for path, seen in found:
        if not np.any(seen.lo) and not np.any(seen.hi):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"observer {name!r} is not calibrated, its range is (0, 0): run a training step first.")


def check_bits(bits: int, least: int = 1) -> None:
    """ValueError unless bits is one of least..16."""
    if bits not in range(least, MAX_BITS + 1):
        raise ValueError(f"bits of one value must be an integer in [{least}, {MAX_BITS}]; got {bits}.")


def code_dtype(bits: int) -> np.dtype:
    """The narrowest unsigned integer that holds a code."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16)


def stochastic_round(key: Key[Array, ""], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Round x down or up at random, with mean x; an integer stays."""
    key = as_key(key)
    below = jnp.floor(x)
    return below + (jax.random.uniform(key, x.shape, x.dtype) < x - below)  # floor(x + u) rounds up at large x


@jax.custom_jvp
def _straight_through(x: Array, value: Array) -> Array:
    return value


_straight_through.defjvps(lambda tangent, out, x, value: tangent, None)


def _forward(key, x, bits):
    return quantize_grad(key, x, bits), key


def _backward(bits, key, cotangent):
    return None, quantize(cotangent, bits, *tensor_range(cotangent), key=key)


quantize_grad.defvjp(_forward, _backward)
