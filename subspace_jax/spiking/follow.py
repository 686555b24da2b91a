"""Any function as a chain of products with ReLU between: found by its kernels, then checked by running it.

`core.capture` finds the products and their kernels in whatever framework wrote them, but not what lies between two of
them. So the chain that the sizes of the maps suggest runs beside the function on a few samples, and a layer that gives
anything but its product with 2x2 averages of ReLU of the layer before it is refused by its name.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.core import capture, checks, convolution
from subspace_jax.spiking.network import Layer, Spiking, drive
from subspace_jax.typing import ApplyFn, Array, Float, Variables

AGREES = 1e-4  # of the largest value: float32 sums in another order


def follow(fn: Callable, variables: Variables, x: Float[Array | np.ndarray, "b ..."]) -> Spiking:
    """The spiking network of a function whose layers are dense or convolution, with ReLU and 2x2 averages between.

    Args:
      fn: (variables, x) -> logits, at inference; images are (b, h, w, channels).
      variables: any pytree of arrays.
      x: a few samples on which the chain is checked; more where a layer answers to few of them.

    Returns:
      The network. Its parameters are the kernels by path, (h, w, in, out) or (in, out): the function's own tree where
      it keeps them so, and then tuned ones are again its parameters.

    Raises:
      ValueError: as `capture.layers`; a leaf that is no kernel (a bias, a norm); a layer that is grouped, or that does
        not follow from the one before it.
    """
    checks.check_finite("x", x)
    table = capture.layers(fn, variables, x)
    if table.other:
        raise ValueError(
            f"{table.other[0]!r} has no place in a spiking network: train without biases, fold a batch norm (fold)."
        )
    for path, layer in table.items():
        if layer.lead or (layer.kind == "conv" and not _odd(layer.window)):
            raise ValueError(
                f"{path!r} cannot spike here: convolutions have one group and a square window of odd side."
            )
    kernels = {path: _kernel(table[path], matrix) for path, matrix in capture.kernels(table, variables).items()}
    logits, given = capture.record(fn, variables, x, of="outputs")
    layers, own = [], jnp.asarray(x, jnp.float32)
    for path, kernel in kernels.items():
        layers.append(_layer(path, kernel, own.shape, len(given[path])))
        own = _product(layers[-1], kernel, jax.nn.relu(own) if len(layers) > 1 else own)
        if own is None or not _close(own.reshape(-1, own.shape[-1]), given[path]):
            before = layers[-2].path if len(layers) > 1 else "the input"
            raise ValueError(
                f"{path!r} does not follow from {before!r}: a spiking network multiplies 2x2 averages of ReLU of the "
                "layer before, with stride 1 and a map of the same size. Other activations, maximum pooling, sums of "
                "branches and images that are not (b, h, w, channels) have no place in it."
            )
    if not _close(own, logits):
        raise ValueError(f"the logits are not what {layers[-1].path!r} gives: a chain ends with its last product.")
    params = variables["params"] if isinstance(variables, dict) and "params" in variables else variables
    shapes = {path: getattr(leaf, "shape", None) for path, leaf in trees.flatten(params).items()}
    kept = shapes == {path: kernel.shape for path, kernel in kernels.items()}
    return Spiking(params if kept else kernels, tuple(layers), chain(tuple(layers)))


@lru_cache  # one function object a chain, and so one compilation
def chain(layers: tuple[Layer, ...]) -> ApplyFn:
    """(variables, x) -> logits of the classifier with ReLU, from the kernels by path."""

    def apply(variables: Variables, x: Any) -> Array:
        kernels = trees.flatten(variables["params"])
        for number, layer in enumerate(layers):
            x = drive(layer, kernels[layer.path], (jax.nn.relu(x) if number else jnp.asarray(x))[None])[0]
        return x

    return apply


def _kernel(layer: capture.Layer, matrix: Array) -> Array:
    return matrix if layer.kind == "dense" else convolution.matrix_kernel(matrix, layer.window)


def _odd(window: tuple[int, ...]) -> bool:
    return len(window) == 2 and window[0] == window[1] and window[0] % 2 == 1


def _layer(path: str, kernel: Array, shape: tuple[int, ...], rows: int) -> Layer:
    """With as many poolings as lead from the map before to the rows of this one."""
    dense = kernel.ndim == 2
    if len(shape) == 2:
        return Layer(path, dense, 0)
    samples, height, width, channels = shape
    wanted = kernel.shape[0] if dense else rows // samples
    sizes = [(height >> k) * (width >> k) * (channels if dense else 1) for k in range(min(height, width).bit_length())]
    return Layer(path, dense, sizes.index(wanted) if wanted in sizes else 0)


def _product(layer: Layer, kernel: Array, x: Array) -> Array | None:
    """What the layer gives; None where the sizes do not fit."""
    try:
        return drive(layer, kernel, x[None])[0]
    except (TypeError, ValueError):
        return None


def _close(one: Array, other: Array) -> bool:
    found, wanted = np.asarray(one, np.float32), np.asarray(other, np.float32)
    return found.shape == wanted.shape and bool(abs(found - wanted).max() <= AGREES * max(1.0, abs(wanted).max()))
