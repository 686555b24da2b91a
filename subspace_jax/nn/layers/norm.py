"""Norms that Flax does not have: minibatch norm, and EvoNorms, which need no batch and include the activation."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from subspace_jax.nn.layers.quantized import Observed, coarse_gradient, on_own_range


class MinibatchNorm(nn.Module):
    """Batch normalisation with the batch's own statistics in training AND at test: no running ones.

    No statistics of earlier tasks can drift, but a sample's output depends on its batch: test with a fixed batch, and
    record it with the result.
    """

    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """(..., channels) -> the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = at_least_float32(x)
        axes = tuple(range(x.ndim - 1))
        mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        shape = (1,) * (x.ndim - 1) + (-1,)
        out = (wide - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale.reshape(shape) + bias.reshape(shape)
        return out.astype(self.dtype)


class EvoNorm(nn.Module):
    """EvoNorm-S0 (Liu et al. 2020): norm and activation in one, per sample, without running statistics.

    y = x sigmoid(v x) / sqrt(var + epsilon) * scale + bias, with the biased variance of a sample's values in one group
    of channels, at all positions; v, scale and bias one a channel, 1, 1 and 0 at first.

    Attributes:
      groups: of channels; at least two values a group.
      hard: numerator x clip(x / 6 + 1/2, 0, 1), without v, as the code of Aketi et al. 2022 (NGC) has it.
      gain: the initial scale.

    Raises:
      ValueError: groups that do not divide the channels, or of a single value.
    """

    groups: int = 8
    hard: bool = False
    gain: float = 1.0
    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """(b, ..., channels) -> the same shape."""
        wide = at_least_float32(x)
        variance = _grouped(self, wide).var((2, 3))
        root = _channelwise(jnp.sqrt(variance + self.epsilon), wide)
        active = jax.nn.hard_silu(wide) if self.hard else wide * jax.nn.sigmoid(_vector(self, "v", 1.0, x) * wide)
        scale, bias = _vector(self, "scale", self.gain, x), _vector(self, "bias", 0.0, x)
        return (active / root * scale + bias).astype(self.dtype)


class RangeEvoNorm(nn.Module):
    """Range-EvoNorm (Aketi et al. 2022): an EvoNorm for low precision, with a range instead of the deviation.

    y = x hardsigmoid(v x) / (R C(n) + epsilon) * scale + bias. R is the mean of the maxima less the mean of the minima
    of the `chunks` equal pieces, of n values each, into which the values of a sample's group are cut, channel by
    channel; C(n) is `range_factor`. As the authors have it, there is no mean to subtract.

    In few bits the input (by an observer), v, scale, bias and the inverse ranges (b, groups) are rounded to the
    nearest value, the inverse ranges between the extremes of the WHOLE BATCH: a sample then depends a little on its
    batch. The cotangent is rounded at random.

    Attributes:
      bits: None for the float layer.
      stochastic_act: rounds the input at random in training, instead of to the nearest value.

    Raises:
      ValueError: groups that do not divide the channels, or do not cut into chunks of two values or more.
    """

    groups: int = 8
    chunks: int = 16
    bits: int | None = None
    stochastic_act: bool = False
    gain: float = 1.0
    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """(b, ..., channels) -> the same shape."""
        wide = Observed(self.bits, self.stochastic_act, name="observer")(at_least_float32(x))
        starts = {"v": 1.0, "scale": self.gain, "bias": 0.0}
        v, scale, bias = (on_own_range(_vector(self, name, at, x), self.bits) for name, at in starts.items())
        inverse = on_own_range(1 / (self._deviation(wide) + self.epsilon), self.bits)
        out = wide * jax.nn.hard_sigmoid(v * wide) * _channelwise(inverse, wide) * scale + bias
        return coarse_gradient(self, out, self.bits).astype(self.dtype)

    def _deviation(self, x):
        """R C(n), (b, groups)."""
        grouped = _grouped(self, x).swapaxes(2, 3)
        values = grouped.shape[2] * grouped.shape[3]
        each, left = divmod(values, self.chunks)
        if left or each < 2:
            raise ValueError(
                f"{_path(self)}: {values} values a group do not cut into {self.chunks} chunks of two or more; "
                "take chunks=1, or the norm 'evonorm'."
            )
        pieces = grouped.reshape(*grouped.shape[:2], self.chunks, each)
        return (pieces.max(-1).mean(-1) - pieces.min(-1).mean(-1)) * range_factor(each)


def range_factor(n: int) -> float:
    """C(n) = 0.175 (1 + sqrt(pi ln 4)) / sqrt(2 ln n), estimating a deviation by range * C(n).

    For n normal values about 0.88 (n = 64), 0.92 (256), 0.94 (1024) of theirs (Banner et al. 2018); n is at least 2.
    """
    return 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(2 * math.log(n))


def _vector(module: nn.Module, name: str, start: float, x):
    """A parameter with one entry a channel of x, shaped to multiply x."""
    leaf = module.param(name, nn.initializers.constant(start), x.shape[-1:])
    return leaf.reshape((1,) * (x.ndim - 1) + (-1,))


def _grouped(module: nn.Module, x):
    """(b, ..., channels) -> (b, groups, positions, channels of a group)."""
    if x.shape[-1] % module.groups:
        raise ValueError(f"{_path(module)}: groups divide the channels; {module.groups} does not divide {x.shape[-1]}.")
    positions = math.prod(x.shape[1:-1])
    if positions * x.shape[-1] == module.groups:
        raise ValueError(
            f"{_path(module)}: a group of one value has no deviation; take fewer groups than {module.groups}."
        )
    return x.reshape(len(x), positions, module.groups, x.shape[-1] // module.groups).swapaxes(1, 2)


def _channelwise(groups, x):
    """One number a sample and group, (b, groups), shaped to multiply x (b, ..., channels)."""
    spread = jnp.repeat(groups, x.shape[-1] // groups.shape[-1], axis=-1)
    return spread.reshape(len(x), *(1,) * (x.ndim - 2), x.shape[-1])


def _path(module: nn.Module) -> str:
    return "/".join(module.path) or type(module).__name__


def at_least_float32(x):
    """Statistics are not taken in half precision; float64 stays."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))
