"""Parameters on the devices of a plan: mesh, specs, padding, there and back."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax import trees
from subspace_jax.parallel.splitbrain.planning import Plan
from subspace_jax.typing import Params, PyTree


def grid(data: int, model: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of D groups of K devices; neighbours in the list, which mostly are near, form a group.

    Raises:
      ValueError: D K is not the number of devices; names the ways to split them.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if min(data, model) < 1 or data * model != count:
        ways = ", ".join(f"{count // k}x{k}" for k in range(1, count + 1) if count % k == 0)
        raise ValueError(f"{data}x{model} is not a split of {count} devices; there are {ways}.")
    return Mesh(np.asarray(devices).reshape(data, model), ("data", "model"))


def param_specs(plan: Plan, params: Params) -> PyTree:
    """The PartitionSpec of every leaf: shards over "model", everything else on all devices."""
    split = {}
    for layer in plan.layers:
        if layer.kind == "column":
            split |= {
                f"{layer.path}/kernel": PartitionSpec(None, "model"),
                f"{layer.path}/bias": PartitionSpec("model"),
            }
        if layer.kind == "row":
            split[f"{layer.path}/kernel"] = PartitionSpec("model", None)
    return trees.map_with_path(lambda path, _: split.get(path, PartitionSpec()), params)


def pad_params(plan: Plan, params: Params) -> Params:
    """The same network with zeros behind what K does not divide; shapes stay shapes.

    A padded unit is set to 0 behind its activation, so that it reads and writes nothing and its gradient is 0.
    """
    shapes = _padded_shapes(plan)

    def pad(path, leaf):
        shape = shapes.get(path, leaf.shape)
        if shape == leaf.shape:
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, leaf.dtype)
        return jnp.pad(leaf, [(0, new - old) for new, old in zip(shape, leaf.shape, strict=True)])

    return trees.map_with_path(pad, params)


def check_padded(plan: Plan, params: Params) -> None:
    """Refuse parameters of other shapes than the plan has behind `pad_params`.

    Raises:
      ValueError: names the layer and both shapes.
    """
    leaves = trees.flatten(params)
    for path, shape in _padded_shapes(plan).items():
        if path in leaves and leaves[path].shape != shape:
            raise ValueError(f"{path} is {leaves[path].shape}, the plan wants {shape}: pass them through shard_params.")


def shard_params(plan: Plan, mesh: Mesh, params: Params) -> Params:
    """Padded parameters on the devices of a mesh, each where the plan wants it."""
    params = pad_params(plan, params)
    specs = param_specs(plan, params)
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), params, specs)


def gather_params(plan: Plan, params: Params) -> Params:
    """Whole NumPy arrays without padding, from padded ones on devices: for another plan, or a checkpoint."""
    widths = {f"{layer.path}/{leaf}": layer.d_out for layer in plan.layers for leaf in ("kernel", "bias")}
    heights = {f"{layer.path}/kernel": layer.d_in for layer in plan.layers}

    def cut(path, leaf):
        return np.asarray(leaf)[: heights.get(path)][..., : widths.get(path)]

    return trees.map_with_path(cut, jax.device_get(params))


def _padded_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in plan.layers:
        if layer.kind == "column":
            shapes[f"{layer.path}/kernel"] = layer.d_in, plan.padded(layer.d_out)
            shapes[f"{layer.path}/bias"] = (plan.padded(layer.d_out),)
        if layer.kind == "row":
            shapes[f"{layer.path}/kernel"] = plan.padded(layer.d_in), layer.d_out
    return shapes
