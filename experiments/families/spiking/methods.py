"""The encoders by name, and the programs that tune and evaluate a spiking network with each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core import losses
from subspace_jax.nn.layers.spiking import Order, Surrogate
from subspace_jax.spiking import encode, network
from subspace_jax.spiking.network import Layer, Spiking
from subspace_jax.typing import ApplyFn, Array

ENCODERS = "dct", "poisson", "direct"


class Setting(NamedTuple):
    """How a network spikes: one compiled program each."""

    encoder: str
    steps: int
    order: Order
    leak: float
    block: int
    surrogate: Surrogate
    dropout: float
    dtype: str
    keep: int | None = None
    per_batch: bool = False

    @property
    def hold(self) -> int | None:
        """Steps for which an image that is no spikes is held."""
        return self.steps if self.encoder == "direct" else None


def encoded(setting: Setting, key: Any, x: Any, index: Any, limits: Array) -> Array:
    """Frames of a batch; `limits` are the thresholds of the DCT's accumulators, unless each batch has its own."""
    if setting.encoder == "dct":
        frames = encode.dct_frames(x, block=setting.block, stride=setting.block)
        low, high = encode.encoder_thresholds(frames) if setting.per_batch else limits
        return encode.dct_encode(frames, low, high, steps=setting.steps, keep=setting.keep)
    if setting.encoder == "poisson":
        return encode.poisson(key, x, index, steps=setting.steps)
    return encode.direct(x)


def ran(setting: Setting, snn: Spiking, thresholds: Array, frames: Array, key: Any = None) -> tuple[Array, Any]:
    """Logits and spikes; weights in the compute dtype, membranes in float32."""
    params = jax.tree.map(lambda leaf: leaf.astype(setting.dtype), snn.params)
    return network.run(
        snn._replace(params=params), thresholds, frames, leak=setting.leak, order=setting.order,
        surrogate=setting.surrogate, hold=setting.hold, key=key, rate=setting.dropout if key is not None else 0.0,
    )  # fmt: skip


@functools.lru_cache
def objective(setting: Setting, layers: tuple[Layer, ...], apply: ApplyFn) -> Callable:
    """Cross-entropy of a batch that is encoded anew; thresholds and limits are constants."""

    def loss(params, batch_stats, batches, constants, key):
        ((x, y),) = batches
        thresholds, limits = constants
        drawn, dropped = jax.random.split(key)
        frames = encoded(setting, drawn, x, jnp.arange(len(x)), limits)
        logits, _ = ran(setting, Spiking(params, layers, apply), thresholds, frames, dropped)
        return losses.softmax_cross_entropy(logits, y).mean(), batch_stats

    return loss


@functools.lru_cache
def evaluation(setting: Setting, layers: tuple[Layer, ...], apply: ApplyFn) -> Callable:
    """(params, thresholds, limits, key, x, index) -> logits, and what each layer reads, summed."""

    @jax.jit
    def program(params, thresholds, limits, key, x, index):
        frames = encoded(setting, key, x, index, limits)
        logits, spikes = ran(setting, Spiking(params, layers, apply), thresholds, frames)
        return logits, {path: own.sum(0) for path, own in spikes.items()}

    return program


@functools.lru_cache
def adam(lr: float, weight_decay: float) -> optax.GradientTransformation:
    """One function object, and so one compilation for all seeds."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(lr)) if weight_decay else optax.adam(lr)
