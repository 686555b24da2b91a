"""What stands beside a hybrid network: the same one on a single device, placed by the compiler, or spread wholly."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.parallel.splitbrain.network import Network, add, existing, weights
from subspace_jax.parallel.splitbrain.planning import Plan
from subspace_jax.typing import Array, Params, PyTree


def plain_loss(network: Network) -> Callable[[Params, Any, Any], Array]:
    """The mean loss on one device, the oracle of all others; also of parameters that the compiler spreads (FSDP)."""

    def loss(params: Params, x: Any, y: Any) -> Array:
        h = network.trunk(params, x)
        for path in network.dense:
            kernel, bias = weights(params, path)
            h = network.activation(add(h @ kernel, bias))
        return network.loss(network.head(params, h), y).mean()

    return loss


def annotated_loss(network: Network, plan: Plan, mesh: Mesh) -> Callable[[Params, Any, Any], Array]:
    """As `hybrid_loss` by annotations: the compiler is told where activations lie, and chooses the exchanges.

    Behind a column layer rows lie by group and columns by member, elsewhere rows lie on all devices. The batch comes
    sharded over ("data", "model"), parameters as in `param_specs`.
    """

    def lies(h: Array, *axes: Any) -> Array:
        return lax.with_sharding_constraint(h, NamedSharding(mesh, PartitionSpec(*axes)))

    def loss(params: Params, x: Any, y: Any) -> Array:
        h = network.trunk(params, x)
        for layer in plan.layers:
            kernel, bias = weights(params, layer.path)
            h = network.activation(add(h[:, : len(kernel)] @ kernel, bias))
            h = lies(h, "data", "model") if layer.kind == "column" else lies(h, ("data", "model"))
            if layer.kind == "column" and kernel.shape[1] != layer.d_out:
                h = existing(h, layer.d_out)
        return network.loss(network.head(params, h[:, : plan.layers[-1].d_out] if plan.layers else h), y).mean()

    return loss


def fsdp_specs(params: Params, devices: int) -> PyTree:
    """Every leaf over all devices along its first axis that they divide, as fully sharded data parallelism has it.

    A leaf without such an axis is replicated.
    """

    def spec(leaf: Any) -> PartitionSpec:
        place = next((i for i, size in enumerate(leaf.shape) if size % devices == 0), None)
        return PartitionSpec() if place is None else PartitionSpec(*(None,) * place, ("data", "model"))

    return jax.tree.map(spec, params)
