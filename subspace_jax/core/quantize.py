"""Values on a uniform grid of 2^bits levels, with straight-through gradients.

Q(x; lo, hi) = s k + lo, s = max((hi - lo) / (2^bits - 1), 1e-8), k = clip(round((x - lo) / s), 0, 2^bits - 1): the
"fake quantization" of low-precision training (Aketi et al., 2021, arXiv 2111.09389). Zero is in general not on the
grid. One range per tensor; NaN or infinity in a range makes every value NaN: nothing is lost silently.

`quantize_input` and `halftone` change the images a network reads: their values are centres of bins. `dorefa_weight` and
`dorefa_activation` are the grids of DoReFa-Net (Zhou et al., 2016, arXiv 1606.06160).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_filled, check_real, is_known
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Float, Key, Num, PyTree

MAX_BITS = 16
SMALLEST_SCALE = 1e-8  # step of a constant tensor, whose range is zero: it keeps its value
KEPT = 0.1  # weight of the old running range in an update
INPUT_BITS = 8  # of an image
DOTS = ((-1, -2, -1), (-2, 16, -2), (-1, -2, -1))  # the kernel of `halftone`; its sum is 4
NUDGE = 1e-3  # where the kernel gives 0, as on a black plane, a dot is set

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
    NaN stays NaN.

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


def magnitude(x: Float[Array, "*shape"], bits: int, maximum: Scalar) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
    """Sign and magnitude in `bits` bits: whole numbers in [-(2^bits - 1), 2^bits - 1], and the scale of one unit.

    Q(x) = codes scale, scale = maximum / (2^bits - 1), rounded to nearest (half to even) and clipped at +-maximum. Zero
    is on the grid, and so are both ends. Codes are float32 or wider, so that products of them are exact up to 2^24.

    Args:
      x: any shape, one range for all of it.
      bits: of the magnitude, 1 to 16; the sign is one more.
      maximum: largest magnitude, that of the tensor or of calibration data.

    Raises:
      ValueError: bits outside 1..16; a maximum that is not above zero, where it is known.
    """
    check_bits(bits)
    if is_known(maximum) and not float(maximum) > 0:
        raise ValueError(f"the largest magnitude must be above 0, or nothing can be scaled; got {maximum}.")
    wide = jnp.promote_types(x.dtype, jnp.float32)
    most = 2**bits - 1
    scale = jnp.asarray(maximum, wide) / most
    return jnp.clip(jnp.round(x.astype(wide) / scale), -most, most), scale


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


def quantize_input(
    x: Float[Array | np.ndarray, "*shape"], bits: int | Num[Array, ""], lo: Scalar | Array, hi: Scalar | Array
) -> Float[Array, "*shape"]:
    """The centre of the bin of each value, 2^bits bins of equal width w between lo and hi; dQ/dx is one everywhere.

    q = lo + w (floor((x - lo) / w) + 1/2), w = (hi - lo) / 2^bits, bins clipped at both ends: at most 2^bits values,
    within w / 2 of x inside the range; Q(Q(x)) = Q(x). The range should be that of the data set, not of a batch, of
    which every image would change the others.

    Args:
      x: images, after their normalisation.
      bits: 1 to 8; an array serves networks of several bits in one program.
      lo: lower end: what black becomes by the normalisation, one number or one per channel with x's number of axes.
      hi: upper end.

    Raises:
      ValueError: bits outside 1..8, where they are known; hi not above lo.
    """
    if is_known(bits) and not (float(bits).is_integer() and 1 <= int(bits) <= INPUT_BITS):
        raise ValueError(f"bits of an input are an integer in [1, {INPUT_BITS}]; got {bits}.")
    if is_known(lo) and is_known(hi) and not np.all(np.asarray(hi) > np.asarray(lo)):
        raise ValueError(f"the range of inputs goes from lo up to hi; got {lo} and {hi}.")
    x = jnp.asarray(x)
    bins = jnp.exp2(jnp.asarray(bits, x.dtype)).round()
    lo = jnp.asarray(lo, x.dtype)
    width = (jnp.asarray(hi, x.dtype) - lo) / bins
    number = jnp.clip(jnp.floor((x - lo) / width), 0, bins - 1)
    return _straight_through(x, lo + width * (number + 0.5))


@jax.custom_vjp
def halftone(x: Float[Array | np.ndarray, "b h w c"]) -> Float[Array, "b h w c"]:
    """Dots of 0 and 1: (sign(K u + 1e-3) + 1) / 2 with u = (x - mean) / (max - min) of each image, K 3x3, padded by 0.

    Backward its derivative is that of sigmoid(K u + 1e-3) / 2 + 1/2, with mean and range constant. Reverse mode only.
    A plane image has u = 0.
    """
    return (jnp.sign(_dots(_spread(x)[0]) + NUDGE) + 1) / 2


def dorefa_weight(w: Float[Array, "*shape"], bits: int | None) -> Float[Array, "*shape"]:
    """S (2 R(t / 2s + 1/2) - 1), t = tanh(w), s = max |t| held constant, R of 2^bits levels on [0, 1].

    Straight-through in R; None leaves w as it is, and weights of zeros stay 0 up to half a level.
    """
    if bits is None:
        return w
    squashed = jnp.tanh(w)
    most = jax.lax.stop_gradient(jnp.maximum(jnp.abs(squashed).max(), SMALLEST_SCALE))
    return most * (2 * quantize(squashed / (2 * most) + 0.5, bits, 0, 1) - 1)


def dorefa_activation(x: Float[Array, "*shape"], bits: int | None) -> Float[Array, "*shape"]:
    """R(clip(x, 0, 1)) of 2^bits levels on [0, 1], straight-through in R; None leaves x as it is."""
    return x if bits is None else quantize(jnp.clip(x, 0, 1), bits, 0, 1)


def tensor_range(x: Float[Array, "..."]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Exact minimum and maximum: the range of parameters and of cotangents."""
    return x.min(), x.max()


def batch_range(x: Float[Array, "b *shape"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Batch means of each sample's minimum and maximum: the range of activations; outliers are clipped."""
    check_filled("the batch", x)
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
    check_bits(bits)
    return np.dtype(np.uint8 if bits <= 8 else np.uint16)


def stochastic_round(key: Key[Array, ""], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Round x down or up at random, with mean x; an integer stays."""
    key = as_key(key)
    below = jnp.floor(x)
    return below + (jax.random.uniform(key, x.shape, x.dtype) < x - below)  # floor(x + u) rounds up at large x


@jax.custom_jvp
def _straight_through(x: Array, value: Array) -> Array:
    return jnp.where(jnp.isnan(x), x, value)  # a code has no NaN


_straight_through.defjvps(lambda tangent, out, x, value: tangent, None)


def _forward(key, x, bits):
    return quantize_grad(key, x, bits), key


def _backward(bits, key, cotangent):
    return None, quantize(cotangent, bits, *tensor_range(cotangent), key=key)


quantize_grad.defvjp(_forward, _backward)


def _spread(x: Array | np.ndarray) -> tuple[Array, Array]:
    """(x - mean) / (max - min) of each image, and the range."""
    x = jnp.asarray(x)
    axes = tuple(range(1, x.ndim))
    span = x.max(axes, keepdims=True) - x.min(axes, keepdims=True)
    return (x - x.mean(axes, keepdims=True)) / jnp.maximum(span, SMALLEST_SCALE), span


def _dots(u: Array) -> Array:
    """Each channel convolved with K, which is symmetric: by shifts, since XLA on CPU is slow at a channel a group."""
    height, width = u.shape[1:3]
    padded = jnp.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = ((i, j, weight) for i, row in enumerate(DOTS) for j, weight in enumerate(row))
    return sum((weight * padded[:, i : i + height, j : j + width] for i, j, weight in taps), jnp.zeros_like(u))


def _halftone_forward(x):
    u, span = _spread(x)
    return halftone(x), (_dots(u) + NUDGE, span)


def _halftone_backward(kept, cotangent):
    dots, span = kept
    slope = jax.nn.sigmoid(dots) * (1 - jax.nn.sigmoid(dots)) / 2
    return (_dots(slope * cotangent) / jnp.maximum(span, SMALLEST_SCALE),)


halftone.defvjp(_halftone_forward, _halftone_backward)
