"""Cost of running and training a network: parameters, bytes, multiply-accumulates and an energy estimate.

A multiply-accumulate (MAC) is one product and one sum. Only the layers that `capture.layers` finds count, a kernel
once per use; norms, biases, activations and the movement of data are left out.

>>> import jax, jax.numpy as jnp
>>> from subspace_jax.core import capture
>>> shape = jax.ShapeDtypeStruct((3, 4), "float32")
>>> table = capture.layers(lambda kernel, x: x @ kernel, shape, jax.ShapeDtypeStruct((5, 3), "float32"))
>>> macs(table), step_macs(table), parameters(shape), nbytes(shape)
(60, Step(outputs=60, inputs=0, kernels=60), 12, 48)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from subspace_jax.core import compress
from subspace_jax.core.capture import Layer, Layers
from subspace_jax.typing import PyTree

# Picojoule of one operation in 45 nm at 0.9 V: Horowitz, "Computing's energy problem", ISSCC 2014.
MULTIPLY = {"float32": 3.7, "float16": 1.1, "int32": 3.1, "int8": 0.2}
ADD = {"float32": 0.9, "float16": 0.4, "int32": 0.1, "int8": 0.03}


# Picojoule of a convolution in few bits, 45 nm (Chakraborty et al., Nature Machine Intelligence 2020): reading one bit,
# and a k-bit multiply-accumulate of BIT_MAC k / 32 + LEAST_MAC. Recalled from that paper and not checked against it.
BIT_ACCESS, BIT_MAC, LEAST_MAC = 2.5, 3.1, 0.1
FULL_BITS = 32


class Conversion(NamedTuple):
    """What one conversion of an analog sum takes, against the bits of the converter.

    Attributes:
      energy: bits, an array -> energy in the unit; of bits above 0.
      unit: of the energy.
      source: where the formula is from.
    """

    energy: Callable[[np.ndarray], np.ndarray]
    unit: str
    source: str


SAR_BIT, SAR_NOISE = 0.1, 1e-6  # pJ a bit, and pJ a fourfold step of the noise
CONVERSIONS = {
    "linear": Conversion(
        lambda bits: 1.0 * bits, "bits",
        "every bit as much: what gives the improvements that Ibrayev et al. report (arXiv 2403.13082)",
    ),
    "exponential": Conversion(lambda bits: 2.0**bits, "levels", "flash converters: a comparator for each level"),
    "sar": Conversion(
        lambda bits: SAR_BIT * bits + SAR_NOISE * 4.0**bits, "pJ",
        "k1 b + k2 4^b, successive approximation: Murmann's survey of converters; constants of 100 fJ and 1 aJ, "
        "recalled and not checked against it",
    ),
    "puma": Conversion(
        lambda bits: 3.125 * bits**2, "pJ", ".25 mW b for 12.5 ns b: converters of the PUMA simulator (Ankit et al.)"
    ),
    "neurosim": Conversion(
        lambda bits: 0.471 * bits + 1.9529, "microwatt", "successive approximation in NeuroSim, by its authors' answer"
    ),
}  # fmt: skip

Bits = int | tuple[int, int]  # of a layer: weights and activations alike, or (weights, activations)


class Step(NamedTuple):
    """Multiply-accumulates of one training step, by what they compute.

    Attributes:
      outputs: forward pass.
      inputs: gradients with respect to layer inputs; 0 for layers that read the same input as the first one.
      kernels: gradients with respect to kernels.
    """

    outputs: int
    inputs: int
    kernels: int


class LayerCost(NamedTuple):
    """What one layer takes for one sample.

    Attributes:
      macs: multiply-accumulates.
      parameters: entries of the kernel.
      inputs: entries of the map that it reads.
      outputs: (height, width, channels) of the map that it gives.
    """

    macs: int
    parameters: int
    inputs: int
    outputs: tuple[int, int, int]

    def nbytes(self, bits: int = FULL_BITS) -> int:
        """Bytes of the kernel at so many bits an entry, rounded up to whole bytes."""
        return -(-self.parameters * bits // 8)


class Energy(NamedTuple):
    """Estimated energy of one sample.

    Attributes:
      layers: {layer: picojoule}.
      total: their sum (pJ).
      efficiency: energy of the same layers in 32 bits over that sum.
      memory_compression: 32-bit size of the kernels over theirs.
    """

    layers: dict[str, float]
    total: float
    efficiency: float
    memory_compression: float


def conv_cost(
    shape: Sequence[int], features: int, *, window: tuple[int, int] = (3, 3), strides: tuple[int, int] = (1, 1)
) -> LayerCost:
    """Cost of a convolution padded so that stride 1 keeps the size; a dense layer is a 1x1 one on a 1x1 map.

    Args:
      shape: (height, width, channels) of what it reads.
      features: channels of what it gives.
      window: kernel size.
      strides: steps between windows; the map shrinks to the size over the stride, rounded up.

    Raises:
      ValueError: a size below 1.

    >>> conv_cost((8, 8, 4), 6).macs == 8 * 8 * 6 * (3 * 3 * 4)
    True
    """
    height, width, channels = shape
    if min(height, width, channels, features, *window, *strides) < 1:
        raise ValueError(
            f"maps, channels, windows and strides are at least 1; got shape {tuple(shape)}, {features} features, "
            f"window {window}, strides {strides}: the map was pooled away, or a layer has no channel."
        )
    kernel = math.prod(window) * channels * features
    outputs = -(-height // strides[0]), -(-width // strides[1]), features
    return LayerCost(outputs[0] * outputs[1] * kernel, kernel, math.prod(shape), outputs)


def energy(layers: Mapping[str, LayerCost], bits: Mapping[str, Bits] | Bits = FULL_BITS) -> Energy:
    """Energy of one sample: every entry of map and kernel is read once, every multiply-accumulate takes its bits.

    E = 2.5 (inputs k_a + parameters k_w) + macs (3.1 max(k_w, k_a) / 32 + .1) pJ: 3.2 pJ a multiply-accumulate in 32
    bits, about .2 in one. Norms, activations, biases and the writing of results are left out.

    Args:
      layers: every layer that counts, the first and the last ones in 32 bits included.
      bits: of every layer, or one setting for all.

    Raises:
      ValueError: layers without bits, or bits outside 1..32.
    """
    plan = dict.fromkeys(layers, bits) if isinstance(bits, int | tuple) else bits
    if missing := [path for path in layers if path not in plan]:
        raise ValueError(f"bits say nothing of {', '.join(missing)}.")
    sides = {path: own if isinstance(own := plan[path], tuple) else (own, own) for path in layers}
    for path, own in sides.items():
        if not all(isinstance(side, int) and 1 <= side <= FULL_BITS for side in own):
            raise ValueError(f"bits are whole numbers in [1, {FULL_BITS}]; got {own} for {path!r}.")
    spent = {path: _picojoule(layer, *sides[path]) for path, layer in layers.items()}
    full = sum(_picojoule(layer, FULL_BITS, FULL_BITS) for layer in layers.values())
    stored = sum(layer.parameters * sides[path][0] for path, layer in layers.items())
    total, entries = sum(spent.values()), sum(layer.parameters for layer in layers.values())
    return Energy(spent, total, full / total, FULL_BITS * entries / stored)


def _picojoule(layer: LayerCost, bits_w: int, bits_a: int) -> float:
    read = BIT_ACCESS * (layer.inputs * bits_a + layer.parameters * bits_w)
    return read + layer.macs * (BIT_MAC * max(bits_w, bits_a) / FULL_BITS + LEAST_MAC)


def conversion_energy(bits: np.ndarray | int, model: str = "linear") -> np.ndarray:
    """Energy of one conversion by a model in CONVERSIONS, in its unit; without a bit nothing is converted: 0.

    Raises:
      ValueError: an unknown model; bits below 0.
    """
    if model not in CONVERSIONS:
        raise ValueError(f"models of a converter are {', '.join(CONVERSIONS)}; got {model!r}.")
    bits = np.asarray(bits)
    if bits.dtype.kind not in "iuf" or (bits.size and not bits.min() >= 0):
        raise ValueError(f"a converter has 0 bits or more; got {bits}.")
    return np.where(bits > 0, CONVERSIONS[model].energy(bits.astype(float)), 0.0)


def parameters(params: PyTree) -> int:
    """Number of entries in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def nbytes(params: PyTree, *, bits: int | None = None) -> int:
    """Bytes of a tree as it is, or at `bits` bits per entry, each leaf rounded up to whole bytes."""
    if bits is None:
        return compress.nbytes(params)
    return sum(-(-leaf.size * bits // 8) for leaf in jax.tree.leaves(params))


def layer_macs(layer: Layer) -> int:
    """Forward multiply-accumulates of one layer, for the whole input that the table was made with."""
    return layer.rows * layer.d_in * layer.d_out * math.prod(layer.lead)


def macs(table: Layers) -> int:
    """Forward multiply-accumulates of all layers; per sample where the table was made with one sample."""
    return sum(map(layer_macs, table.values()))


def step_macs(table: Layers) -> Step:
    """Multiply-accumulates of a forward and a backward pass; the latter costs up to twice the former.

    No gradient is taken with respect to the network's input: layers that read the same rows as the first one save it.
    """
    whole = macs(table)
    first = next(iter(table))
    saved = sum(layer_macs(layer) for layer in table.values() if layer.shares == first)
    return Step(whole, whole - saved, whole)


def picojoule(macs: float | int, number: str = "float32") -> float:
    """Energy (pJ) of multiply-accumulates in one number format, without memory access: each 4.6 float32, .23 int8.

    Raises:
      ValueError: a number format that the source does not list.
    """
    if number not in MULTIPLY:
        raise ValueError(f"energy is known of {', '.join(MULTIPLY)}; got {number!r}.")
    return (MULTIPLY[number] + ADD[number]) * macs
