"""Bytes on a device, and through its collectives, before anything is compiled."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import PartitionSpec

from subspace_jax.core.compress import nbytes
from subspace_jax.parallel.splitbrain.loss import check_batch
from subspace_jax.parallel.splitbrain.planning import Layer, Plan
from subspace_jax.parallel.splitbrain.shards import pad_params, param_specs
from subspace_jax.typing import Params, PyTree

GATHER, REDUCE, SCATTER, SWAP = "all-gather", "all-reduce", "reduce-scatter", "all-to-all"


class Memory(NamedTuple):
    """Bytes of a training step on one device.

    Attributes:
      parameters: of its part of them.
      optimizer: of the optimiser's state.
      batch: of its samples and labels.
      gradients: of its part of them, held within the step.
      activations: of split layers in the scheme "bk": the rows they read and what they give, held within the step.
    """

    parameters: int
    optimizer: int
    batch: int
    gradients: int
    activations: int

    @property
    def arguments(self) -> int:
        """What a step is given: exactly the argument bytes of its program."""
        return self.parameters + self.optimizer + self.batch


def memory_model(
    plan: Plan, params: Params, batch: PyTree, optimizer: optax.GradientTransformation, *, specs: PyTree | None = None
) -> Memory:
    """Bytes of a step on one device; a share s of parameters that is split saves s (1 - 1 / K) of what K = 1 takes.

    Args:
      plan: which layers are split.
      params: arrays or shapes of the whole network, without padding.
      batch: arrays or shapes of the global batch: x, then y.
      optimizer: whose state lies as the parameters do.
      specs: how parameters lie instead, such as `fsdp_specs`; there no activation is exchanged.
    """
    params = pad_params(plan, params)
    here = local(plan, params, param_specs(plan, params) if specs is None else specs)
    rows = jax.tree.leaves(batch)[0].shape[0] // plan.data
    entries = 0 if specs else sum(_held(plan, layer, rows) for layer in plan.layers)
    state = nbytes(jax.eval_shape(optimizer.init, here))
    return Memory(nbytes(here), state, nbytes(batch) // plan.devices, nbytes(here), entries * _itemsize(params))


def comm_model(plan: Plan, params: Params, batch: int, *, scheme: str = "bk") -> dict[str, int]:
    """Result bytes of the collectives of a loss and its gradient on one device, by kind; kinds without any are absent.

    With b = `batch` / (D K) samples a device, a column layer d_in -> H and a row layer H -> d_out in the scheme "bk":
    all-gathers K b d_in forward and K b d_out backward, reduce-scatters b d_out and b d_in, and all-reduces of the
    gradients: of shards where D > 1, of all else, and of the loss. "modulo" and "b" compute their forward pass again
    in the backward one, and exchange again what that takes. A trunk without parameters saves its backward exchange,
    which is counted here.

    Args:
      plan: which layers are split.
      params: arrays or shapes of the whole network, without padding.
      batch: global, in samples.
      scheme: "bk", "modulo" or "b".

    Raises:
      ValueError: a batch that the devices, or the passes, cannot share.
    """
    check_batch(plan, batch, scheme)
    params = pad_params(plan, params)
    specs, size = param_specs(plan, params), _itemsize(params)
    if not plan.axes:
        return {}
    here = local(plan, params, specs)
    summed = [
        nbytes(leaf)
        for leaf, spec in zip(jax.tree.leaves(here), jax.tree.leaves(specs), strict=True)
        if plan.data > 1 or not any(spec)
    ]
    found = {REDUCE: size + sum(summed)}  # the loss is one number
    for kind, entries in _exchanged(plan, batch // plan.devices, scheme):
        found[kind] = found.get(kind, 0) + size * entries
    return found


def local(plan: Plan, params: Params, specs: PyTree) -> Params:
    """Shapes of what one device holds of padded parameters."""
    sizes: Mapping[str, int] = {"data": plan.data, "model": plan.model}

    def part(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        over = [axes if isinstance(axes, tuple) else (axes,) * bool(axes) for axes in spec]
        over += [()] * (leaf.ndim - len(over))
        parts = [math.prod(sizes[name] for name in axes) for axes in over]
        return jax.ShapeDtypeStruct(tuple(n // p for n, p in zip(leaf.shape, parts, strict=True)), leaf.dtype)

    return jax.tree.map(part, params, specs)


def _exchanged(plan: Plan, b: int, scheme: str) -> Iterator[tuple[str, int]]:
    """(kind, entries of the result) of every exchange of activations and of their gradients, over all passes."""
    again = 1 if scheme == "bk" else 2  # forward passes
    whole = plan.model * b
    for layers in (run for run in plan.runs() if run[0].kind != "replicated"):
        first, last = layers[0], layers[-1]
        if scheme == "b":  # one broadcast of a member's rows, and the sum of its gradients
            yield REDUCE, (again + 1) * whole * first.d_in
        before = None
        for layer in layers:
            if layer.kind == "row" and scheme == "b":
                yield REDUCE, (again + 1) * whole * layer.d_out
            elif layer.kind == "row":
                yield SCATTER, again * b * layer.d_out
                yield GATHER, whole * layer.d_out
            elif before == "column" or scheme != "b":
                width = plan.padded(layer.d_in) if before == "column" else layer.d_in
                yield GATHER, again * whole * width
                yield SCATTER, b * width
            before = layer.kind
        width = plan.padded(last.d_out)  # nothing follows that would have to be computed again
        if last.kind == "column" and scheme == "b":
            yield GATHER, whole * width
            yield SCATTER, b * width
        elif last.kind == "column":
            yield SWAP, 2 * b * width


def _held(plan: Plan, layer: Layer, rows: int) -> int:
    if layer.kind == "column":
        return rows * (layer.d_in + plan.padded(layer.d_out) // plan.model)
    return rows // plan.model * layer.d_out if layer.kind == "row" else 0


def _itemsize(params: Params) -> int:
    return max(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
