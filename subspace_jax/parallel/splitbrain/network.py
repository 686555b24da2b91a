"""The network as three parts: what every device computes alone, the dense layers that may be split, and the rest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax import trees
from subspace_jax.core.losses import softmax_cross_entropy
from subspace_jax.typing import Array, Params


class Network(NamedTuple):
    """A classifier whose large dense layers stand in one chain.

    Attributes:
      trunk: (params, x) -> features (b, d). No statistics over the batch: each device sees its own samples alone.
      dense: paths of the dense layers behind it, in order; each has a "kernel" (d_in, d_out) and may have a "bias".
      head: (params, h) -> logits.
      activation: behind every layer of `dense`.
      loss: (logits, y) -> one value per sample.
    """

    trunk: Callable
    dense: tuple[str, ...]
    head: Callable
    activation: Callable = jax.nn.relu
    loss: Callable = softmax_cross_entropy


def weights(params: Params, path: str) -> tuple[Any, Any]:
    """Kernel and bias of a layer, the latter None where it has none.

    Raises:
      KeyError: a layer without a kernel there.
    """
    leaves = trees.flatten(params)
    if f"{path}/kernel" not in leaves:
        known = ", ".join(name.removesuffix("/kernel") for name in leaves if name.endswith("/kernel"))
        raise KeyError(f"there is no layer {path!r} with a kernel; there are {known}.")
    return leaves[f"{path}/kernel"], leaves.get(f"{path}/bias")


def add(z: Any, bias: Any) -> Any:
    """Rows plus the bias, if there is one."""
    return z if bias is None else z + bias[None]


def existing(h: Array, width: int, first: Array | int = 0) -> Array:
    """Columns below `width` as they are, padded ones as 0; the first column here is number `first`."""
    return jnp.where((first + jnp.arange(h.shape[1]) < width)[None], h, jnp.zeros((), h.dtype))
