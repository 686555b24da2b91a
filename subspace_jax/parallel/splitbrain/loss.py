"""The loss of a network over D x K devices: convolutions on the own samples, split dense layers on those of the group.

How the K batches of a group pass the split layers (K. Lai et al. 2021; A. Krizhevsky, arXiv 1404.5997):

| scheme | at once | passes | exchange |
|---|---|---|---|
| bk | all K b rows | 1 | all-gather, reduce-scatter |
| modulo | b / K rows of each member | K | the same, in K parts |
| b | the b rows of one member | K | broadcasts and sums |

All give the loss of one device and its gradients, up to the rounding of sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from subspace_jax.core import meshes
from subspace_jax.parallel.splitbrain.exchanges import modulo_gather, modulo_scatter, own_rows, shard_gather
from subspace_jax.parallel.splitbrain.network import Network, add, existing, weights
from subspace_jax.parallel.splitbrain.planning import Layer, Plan
from subspace_jax.parallel.splitbrain.shards import check_padded, param_specs
from subspace_jax.typing import Array, Params

SCHEMES = "bk", "modulo", "b"


class Exchange(NamedTuple):
    """What split layers do with rows, columns and partial sums, in one scheme."""

    rows: Callable  # own rows, whole -> rows of all, whole
    columns: Callable  # rows of all, own columns -> rows of all, whole
    sums: Callable  # rows of all, partial sums -> own rows, whole
    back: Callable  # rows of all, own columns -> own rows, whole


TOGETHER = Exchange(modulo_gather, shard_gather, modulo_scatter, own_rows)
ONE_BY_ONE = Exchange(lambda h: h, shard_gather, lambda z: lax.psum(z, "model"), shard_gather)  # all have the same rows


def hybrid_loss(network: Network, plan: Plan, mesh: Mesh, *, scheme: str = "bk") -> Callable[[Params, Any, Any], Array]:
    """The mean loss over a global batch, as a function loss(params, x, y) to be put into `jit` and differentiated.

    `params` are those of `shard_params`, or any of these shapes; gradients come back as parameters lie. A batch (D K b)
    is split over all devices in order. Inside, `shard_map` checks what varies from device to device (`check_vma`): with
    that off, a gradient taken inside is wrong by a factor that differs from leaf to leaf, and nothing says so.

    Args:
      network: the three parts.
      plan: which layers are split, and how.
      mesh: with the axes "data" and "model", see `grid`; its axes may be Auto or Explicit.
      scheme: "bk", "modulo" or "b".

    Raises:
      ValueError: an unknown scheme; a mesh of other sizes than the plan; at the call, a batch that the devices, or a
        device's batch that the K passes of "modulo", cannot share, or parameters of other shapes than the plan's.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"the scheme is one of {', '.join(SCHEMES)}; got {scheme!r}.")
    if dict(mesh.shape) != {"data": plan.data, "model": plan.model}:
        raise ValueError(f"the plan is for {plan.data}x{plan.model} devices; the mesh has {dict(mesh.shape)}.")
    own, over = meshes.automatic(mesh), PartitionSpec(plan.axes or None)

    def local(params: Params, x: Any, y: Any) -> Array:
        h = network.trunk(params, x)
        for run in plan.runs():
            alone = run[0].kind == "replicated"
            h = _dense(network, params, run[0], h) if alone else _spread(network, plan, params, run, h, scheme)
        values = network.loss(network.head(params, h), y)
        mean = values.sum() / (plan.devices * len(values))
        return lax.psum(mean, plan.axes) if plan.axes else mean

    def loss(params: Params, x: Any, y: Any) -> Array:
        check_batch(plan, len(x), scheme)
        check_padded(plan, params)
        params, x, y = meshes.moved((params, x, y))
        with meshes.entered(own, params, x, y):
            specs = param_specs(plan, params), over, over
            return jax.shard_map(local, mesh=own, in_specs=specs, out_specs=PartitionSpec())(params, x, y)

    return loss


def check_batch(plan: Plan, batch: int, scheme: str) -> None:
    """Refuse a global batch that cannot be shared equally.

    Raises:
      ValueError: names the next batch that can.
    """
    passes = plan.model if scheme == "modulo" else 1
    if not batch or batch % (plan.devices * passes):
        what = f"{plan.data}x{plan.model} devices" + (f" in {passes} passes" if passes > 1 else "")
        step = plan.devices * passes
        raise ValueError(f"{batch} samples cannot be shared by {what}: take {max(-(-batch // step), 1) * step}.")


def _dense(network: Network, params: Params, layer: Layer, h: Array) -> Array:
    kernel, bias = weights(params, layer.path)
    return network.activation(add(h @ kernel, bias))


def _spread(network: Network, plan: Plan, params: Params, layers: tuple[Layer, ...], h: Array, scheme: str) -> Array:
    """Own rows (b, d_in) -> own rows (b, d_out) through split layers."""
    # Varying before any loop: gradients of a loop's constants are then summed over the groups once, and not each pass.
    shards = {layer.path: _shards(plan, params, layer) for layer in layers}

    def through(h: Array, exchange: Exchange) -> Array:
        return _through(network, shards, layers, h, exchange)

    if scheme == "bk":
        return through(h, TOGETHER)
    if scheme == "modulo":
        parts = h.reshape(plan.model, -1, h.shape[1])
        return lax.map(jax.checkpoint(lambda part: through(part, TOGETHER)), parts).reshape(len(h), -1)
    member = lax.axis_index("model")

    @jax.checkpoint
    def turn(number: Array) -> Array:
        sent = lax.psum(jnp.where(member == number, h, jnp.zeros((), h.dtype)), "model")  # a broadcast
        return through(sent, ONE_BY_ONE)

    def keep(kept: Array, number: Array) -> tuple[Array, None]:
        return jnp.where(member == number, turn(number), kept), None

    dtype = jnp.result_type(h, shards[layers[-1].path][0])
    nothing = lax.pcast(jnp.zeros((len(h), layers[-1].d_out), dtype), plan.axes, to="varying")
    return lax.scan(keep, nothing, jnp.arange(plan.model))[0]


def _through(network: Network, shards: dict, layers: tuple[Layer, ...], h: Array, exchange: Exchange) -> Array:
    split = False  # whether h has the own columns alone
    for layer in layers:
        kernel, bias = shards[layer.path]
        if layer.kind == "row":
            h, split = network.activation(add(exchange.sums(h @ kernel), bias)), False
            continue
        h = exchange.columns(h)[:, : layer.d_in] if split else exchange.rows(h)
        h, split = network.activation(add(h @ kernel, bias)), True
        if kernel.shape[1] * lax.axis_size("model") != layer.d_out:
            h = existing(h, layer.d_out, lax.axis_index("model") * kernel.shape[1])
    return exchange.back(h)[:, : layers[-1].d_out] if split else h


def _shards(plan: Plan, params: Params, layer: Layer) -> tuple[Array, Array | None]:
    """Kernel and bias of a split layer here, typed as values that may differ between all devices."""
    kernel, bias = weights(params, layer.path)
    groups = tuple(name for name in plan.axes if name == "data")
    kernel = lax.pcast(kernel, groups, to="varying")
    if bias is not None:
        bias = lax.pcast(bias, groups if layer.kind == "column" else plan.axes, to="varying")
    return kernel, bias
