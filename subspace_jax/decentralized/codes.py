"""How a network in few bits uses its codes: how often each occurs in every layer, and which share of entries clips.

Every layer of a training step is computed as the quantised network computes it, so that its input and its cotangent
can be looked at before they are rounded; norms and residual sums stay in float.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax import nn, trees
from subspace_jax.core import capture, losses, quantize
from subspace_jax.core.keys import as_key
from subspace_jax.nn.layers.quantized import bifurcated, on_own_range
from subspace_jax.typing import Array, Float, Int, Key, Params

KINDS = "activations", "gradients"


class Usage(NamedTuple):
    """How one tensor uses its codes.

    Attributes:
      share: of the entries that have each code, (2^bits,).
      clipped: share of the entries outside the range of the codes.
    """

    share: Float[Array, " codes"]
    clipped: Float[Array, ""]


def usage(
    key: Key[Array, ""], model: nn.Model, params: Params, x: Float[Any, "b ..."], y: Int[Any, " b"], *, bits: int
) -> dict[str, dict[str, Usage]]:
    """{"activations" | "gradients": {path of the kernel: Usage}} of one training step in few bits; arguments of probe.

    Activations clip outside the range from the mean minimum to the mean maximum of the samples. A cotangent's range is
    exact, so that nothing clips, but an outlier widens it for all: the entropy of `share` tells how many bits are used.
    """
    return _usage(model, bits)(as_key(key), params, x, y)


@lru_cache(maxsize=16)  # compiled once a network
def _usage(model: nn.Model, bits: int) -> Callable:
    def one(tensor, lo, hi):
        counts = jnp.bincount(quantize.codes(tensor, bits, lo, hi)[0].ravel(), length=2**bits)
        return Usage(counts / tensor.size, ((tensor < lo) | (tensor > hi)).mean())

    def run(key, params, x, y):
        found = probe(key, model, params, x, y, bits=bits)
        return {kind: {path: one(*seen) for path, seen in layers.items()} for kind, layers in found.items()}

    return jax.jit(run)


def probe(
    key: Key[Array, ""], model: nn.Model, params: Params, x: Float[Any, "b ..."], y: Int[Any, " b"], *, bits: int
) -> dict[str, dict[str, tuple]]:
    """{"activations" | "gradients": {path of the kernel: (tensor, lo, hi)}} of one training step in few bits.

    Args:
      key: of the rounding of the cotangents.
      model: the network in float, without running statistics; its products are swapped for quantised ones.
      params: trained in few bits.
      x: a batch.
      y: its labels.
      bits: of all grids.
    """
    key = as_key(key)

    def apply(params, x):
        return model.apply({"params": params, "batch_stats": {}}, x)

    table = capture.layers(apply, params, x)
    kernels, keys = capture.kernels(table, params), dict(zip(table, jax.random.split(key, len(table)), strict=True))
    coarse = trees.map_with_path(lambda path, leaf: on_own_range(leaf, bits) if path in table.other else leaf, params)

    def loss(taps):
        inputs = {}

        def swap(call, tap):
            path, rows = call.layer.path, call.inputs()
            inputs[path] = rows, *(ends := quantize.batch_range(rows.reshape(len(x), -1)))
            fine = quantize.quantize(rows, bits, *ends)
            return tap + bifurcated(keys[path], jnp.matmul, bits, fine, on_own_range(kernels[path], bits))

        logits = capture.replace(apply, swap)(coarse, taps, x)
        return losses.softmax_cross_entropy(logits, y).mean(), inputs

    taps = {path: jnp.zeros((layer.rows, layer.d_out)) for path, layer in table.items()}
    cotangents, inputs = jax.grad(loss, has_aux=True)(taps)
    gradients = {path: (dy, *quantize.tensor_range(dy)) for path, dy in cotangents.items()}
    return {"activations": inputs, "gradients": gradients}
