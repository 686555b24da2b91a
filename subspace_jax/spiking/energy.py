"""Energy of a spiking network: the additions that its spikes make, beside the formula that the papers use.

`events` counts every spike, before pooling, times the products that it enters: average pooling and a product are one
linear map, and a spike runs through it. Next to the border it enters fewer products. `rate` is the papers' formula,
mean spikes of the pooled map times the multiply-accumulates of the layer (border included): it counts a spike that is
pooled over 2x2 as a quarter. An addition takes .9 pJ, a multiply-accumulate 4.6 pJ (float32, 45 nm, see `core.costs`).
Memory, membranes and leaks are left out, of the classifier as of the spiking network.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.core import costs
from subspace_jax.spiking.network import Layer, Spiking, drive
from subspace_jax.typing import Array, Float

Count = Literal["events", "rate"]


class Energy(NamedTuple):
    """Estimate of one sample.

    Attributes:
      layers: {path: picojoule}.
      total: their sum (pJ).
      classifier: of the same network with ReLU (pJ).
      ratio: classifier / total; infinite where no spike is read.
    """

    layers: dict[str, float]
    total: float
    classifier: float
    ratio: float


def spiking_energy(
    network: Spiking, spikes: Mapping[str, Float[Array | np.ndarray, "..."]], *, count: Count = "events",
    analog_steps: int = 0,
) -> Energy:  # fmt: skip
    """Energy of one sample.

    Args:
      network: that ran.
      spikes: {path: spikes that each layer reads, summed over time, mean over samples}, from `network.run`.
      count: "events" or "rate".
      analog_steps: steps at which the first layer reads an image instead of spikes and pays multiply-accumulates: all
        of them by the papers' rule, 1 where its product is computed once.

    Raises:
      ValueError: an unknown count, layers without spikes.
    """
    if count not in ("events", "rate"):
        raise ValueError(f"count is 'events' or 'rate'; got {count!r}.")
    if missing := [layer.path for layer in network.layers if layer.path not in spikes]:
        raise ValueError(f"spikes say nothing of {missing[0]!r}: give the mean over samples of what run returned.")
    macs, layers = layer_macs(network, spikes), {}
    kernels = trees.flatten(network.params)
    for layer in network.layers:
        own, kernel = np.asarray(spikes[layer.path], np.float64), kernels[layer.path]
        if analog_steps and layer is network.layers[0]:
            layers[layer.path] = costs.picojoule(analog_steps * macs[layer.path])
        else:
            made = events(layer, kernel.shape, own) if count == "events" else _pooled(layer, own) * macs[layer.path]
            layers[layer.path] = costs.ADD["float32"] * made
    total, classifier = sum(layers.values()), costs.picojoule(sum(macs.values()))
    return Energy(layers, total, classifier, classifier / total if total else float("inf"))


def layer_macs(network: Spiking, spikes: Mapping[str, Float[Array | np.ndarray, "..."]]) -> dict[str, int]:
    """{path: multiply-accumulates of the classifier for one sample}, from the shapes of what its layers read."""
    kernels, found = trees.flatten(network.params), {}
    for layer in network.layers:
        kernel, shape = kernels[layer.path].shape, np.shape(spikes[layer.path])
        if layer.dense:
            found[layer.path] = int(np.prod(kernel))
        else:
            height, width = (size >> layer.pools for size in shape[:2])
            found[layer.path] = costs.conv_cost((height, width, kernel[2]), kernel[3], window=kernel[:2]).macs
    return found


def events(layer: Layer, kernel: tuple[int, ...], spikes: Float[np.ndarray, "..."]) -> float:
    """Additions that spikes make: each times the products that it enters.

    Args:
      layer: that reads them.
      kernel: shape of its kernel.
      spikes: sum over time, before pooling: (h, w, channels), or (units,).
    """
    if spikes.ndim == 1:
        return float(spikes.sum() * kernel[-1])
    size = 2**layer.pools
    reach = [_reached(side // size, 1 if layer.dense else kernel[axis], side, size)
             for axis, side in enumerate(spikes.shape[:2])]  # fmt: skip
    return float(np.einsum("hwc,h,w->", spikes, *reach) * kernel[-1])


def events_by_product(network: Spiking, spikes: Mapping[str, Float[Array | np.ndarray, "..."]]) -> dict[str, float]:
    """{path: `events`}, counted by a product of the spike map with a kernel of ones: the check of the fast count."""
    kernels, found = trees.flatten(network.params), {}
    for layer in network.layers:
        ones = jnp.ones(kernels[layer.path].shape, jnp.float32)
        own = jnp.asarray(spikes[layer.path], jnp.float32)[None, None]
        found[layer.path] = float(np.asarray(drive(layer, ones, own), np.float64).sum()) * 4**layer.pools
    return found


def _reached(pooled: int, window: int, side: int, size: int) -> Float[np.ndarray, " side"]:
    """Outputs along one side that each position enters; 0 for the odd rest that pooling leaves out."""
    at, half = np.arange(pooled), window // 2
    count = np.minimum(at + half, pooled - 1) - np.maximum(at - half, 0) + 1
    found = np.zeros(side)
    found[: pooled * size] = np.repeat(count, size)
    return found


def _pooled(layer: Layer, spikes: Float[np.ndarray, "..."]) -> float:
    """Mean over the pooled map."""
    if spikes.ndim == 1:
        return float(spikes.mean())
    height, width = (size >> layer.pools << layer.pools for size in spikes.shape[:2])
    return float(spikes[:height, :width].mean())
