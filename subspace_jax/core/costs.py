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
from typing import NamedTuple

import jax

from subspace_jax.core import compress
from subspace_jax.core.capture import Layer, Layers
from subspace_jax.typing import PyTree

# Picojoule of one operation in 45 nm at 0.9 V: Horowitz, "Computing's energy problem", ISSCC 2014.
MULTIPLY = {"float32": 3.7, "float16": 1.1, "int32": 3.1, "int8": 0.2}
ADD = {"float32": 0.9, "float16": 0.4, "int32": 0.1, "int8": 0.03}


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
