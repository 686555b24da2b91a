"""Low-precision layers: inputs, parameters and backward cotangents lie on grids of 2^bits values.

A low-precision network is simulated in float32, with a master copy of the parameters in float32 (Aketi et al. 2022,
after Banner et al. 2018). A layer trains where its collection `batch_stats` is mutable, as `Model.train_apply` has it:
then its ranges are those of the batch, its observers are updated, and its cotangent is rounded with a key of its own.
Otherwise the running ranges are used and nothing is random.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from subspace_jax.core.quantize import (
    Observer,
    batch_range,
    check_calibrated,
    observe,
    quantize,
    quantize_grad,
    tensor_range,
)


class Observed(nn.Module):
    """An activation quantised on its observed range.

    In training [lo, hi] are the batch means of each sample's minimum and maximum (outliers are clipped), and the
    running range <- 0.1 running + 0.9 [lo, hi]; inference takes the running range. It starts as [0, 0] and is kept in
    batch_stats. Under `jit` a range that is still [0, 0] cannot be refused: that of the current batch is used.

    Attributes:
      bits: of the grid; None gives the input itself.
      stochastic: rounds at random in training, instead of to the nearest value.

    Raises:
      ValueError: inference outside `jit` before any training step.
    """

    bits: int | None
    stochastic: bool = False

    @nn.compact
    def __call__(self, x):
        """(b, ...) -> the same shape."""
        if self.bits is None:
            return x
        x = jnp.asarray(x)
        lo, hi = (self.variable("batch_stats", name, jnp.zeros, ()) for name in ("lo", "hi"))
        running, current, key = Observer(lo.value, hi.value), Observer(*batch_range(x)), None
        if _trains(self):
            lo.value, hi.value = observe(running, *current)
            key = self.make_rng("rounding") if self.stochastic else None
        elif not self.is_initializing():
            current = self._calibrated(running, current)
        return quantize(x, self.bits, *current, key=key)

    def _calibrated(self, running: Observer, current: Observer) -> Observer:
        """The running range; before it has seen anything an error, or under `jit` the range at hand."""
        concrete = not any(isinstance(end, jax.core.Tracer) for end in (*running, *current))
        if concrete and any(current):  # [0, 0] is right for what is always 0: a dead layer, a branch whose gain is 0
            check_calibrated({"/".join(self.path): running})
        unseen = (running.lo == 0) & (running.hi == 0)
        return jax.tree.map(lambda run, now: jnp.where(unseen, now, run), running, current)


class Quantized(nn.Module):
    """A dense or convolutional layer of which input, kernel, bias and cotangent are quantised ("bifurcated").

    Kernel and bias are rounded to the nearest value between their own extremes at each call. The cotangent that
    reaches the layer before is rounded at random; the gradient of kernel and bias takes it as it is.

    Attributes:
      layer: the float layer, whose scope (and so the names and initial values of its parameters) this one takes.
      bits: of all grids.
      stochastic_act: rounds the input at random in training, instead of to the nearest value.
    """

    layer: nn.Module
    bits: int
    stochastic_act: bool = False

    def setup(self):
        """Parameters of the layer, beside the observer of its input."""
        nn.share_scope(self, self.layer)
        self.observer = Observed(self.bits, self.stochastic_act)

    def __call__(self, x):
        """What the layer gives."""
        x = self.observer(x)
        if self.is_initializing():
            return self.layer(x)
        params = {name: on_own_range(leaf, self.bits) for name, leaf in self.variables["params"].items()}
        layer = self.layer.clone(parent=None, name=None)

        def run(x, params):
            return layer.apply({"params": params}, x)

        return bifurcated(self.make_rng("rounding"), run, self.bits, x, params) if _trains(self) else run(x, params)


class QuantizedSum(nn.Module):
    """A residual sum of which both summands, each by an observer of its own, and the cotangent are quantised."""

    bits: int
    stochastic_act: bool = False

    @nn.compact
    def __call__(self, x, y):
        """The sum, of the same shape."""
        x, y = (Observed(self.bits, self.stochastic_act, name=f"observer{i}")(z) for i, z in enumerate((x, y)))
        return coarse_gradient(self, x + y, self.bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def bifurcated(key, layer: Callable, bits: int, x, params: Any):
    """layer(x, params), whose parameters see the cotangent in full precision and whose input sees it in few bits.

    Backwards, dparams = transpose(dy) and dx = transpose(Q(dy)), with Q the stochastic rounding of dy, by `key`,
    between its own extremes (Banner et al. 2018).
    """
    del bits, key
    return layer(x, params)


def _forward(key, layer, bits, x, params):
    del bits
    return layer(x, params), (x, params, key)


def _backward(layer, bits, saved, cotangent):
    x, params, key = saved
    _, transpose = jax.vjp(layer, x, params)
    coarse = quantize(cotangent, bits, *tensor_range(cotangent), key=key)
    return None, transpose(coarse)[0], transpose(cotangent)[1]


bifurcated.defvjp(_forward, _backward)


def on_own_range(x, bits: int | None):
    """A tensor on the grid between its own extremes, to the nearest value."""
    return quantize(x, bits, *tensor_range(x))


def coarse_gradient(module: nn.Module, x, bits: int | None):
    """x; where the module trains, its cotangent is rounded at random between its own extremes."""
    return x if bits is None or not _trains(module) else quantize_grad(module.make_rng("rounding"), x, bits)


def _trains(module: nn.Module) -> bool:
    return module.is_mutable_collection("batch_stats") and not module.is_initializing()
