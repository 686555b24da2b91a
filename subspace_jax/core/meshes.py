"""Meshes with Auto and with Explicit axes: functions of the library take arrays that are sharded over either.

`jax.make_mesh` gives Explicit axes: the sharding is part of the type of an array, and a product whose result could be
sharded in two ways is an error. Where that would be so, the library's own computations run with Auto axes inside.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from subspace_jax.core import processes
from subspace_jax.core.keys import is_key
from subspace_jax.typing import PyTree

AnyMesh = Mesh | AbstractMesh
SAMPLES = ("samples",)  # the axis over which training splits a batch


def automatic(mesh: Mesh) -> Mesh:
    """The same devices and names with Auto axes."""
    return Mesh(mesh.devices, mesh.axis_names)


def moved(tree: PyTree) -> PyTree:
    """Arrays on the host's side of `jit`: those on a mesh with Explicit axes, on the same one with Auto axes."""

    def move(leaf: Any) -> Any:
        mesh = _explicit(leaf)
        if not isinstance(mesh, Mesh):
            return leaf
        return jax.device_put(leaf, NamedSharding(automatic(mesh), leaf.sharding.spec))

    return jax.tree.map(move, tree)


def like(x: jax.Array, other: Any) -> jax.Array:
    """The array spread over devices as another one is, if that is known and over several."""
    several = isinstance(other, jax.Array) and not isinstance(other, jax.core.Tracer) and len(other.devices()) > 1
    return jax.device_put(x, other.sharding) if several and not isinstance(x, jax.core.Tracer) else x


def home(mesh: Mesh) -> Any:
    """Where results of a computation over a mesh go: to its first device, or to all of a mesh that the user has set."""
    if jax.sharding.get_abstract_mesh().empty:
        return mesh.devices.flat[0]
    return NamedSharding(jax.sharding.get_mesh(), PartitionSpec())


def brought(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays for a computation over a mesh of the library's own, from the mesh that the user has set, if any."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def returned(tree: PyTree) -> PyTree:
    """Results of a computation over a mesh of the library's own: on all devices of the mesh that the user has set."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.device_put(tree, NamedSharding(jax.sharding.get_mesh(), PartitionSpec()))


def copied(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays and keys that each process holds in full, on all devices of a mesh, which may be those of several."""
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> Any:
        if not several(mesh) or getattr(leaf, "sharding", None) == sharding:
            return jax.device_put(leaf, sharding)
        if is_key(leaf):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        values = np.asarray(processes.here(leaf))
        return jax.make_array_from_callback(values.shape, sharding, lambda rows: values[rows])

    return jax.tree.map(put, tree)


def from_rows(array: Any, rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """array[rows] over the devices of several processes, each of which reads only its own rows."""
    shape = len(rows), *array.shape[1:]
    return jax.make_array_from_callback(shape, sharding, lambda own: array[rows[own[0]]])


def over_samples(mesh: Mesh) -> Mesh:
    """The same devices for training that splits each batch over all of them."""
    return Mesh(mesh.devices.reshape(-1), SAMPLES)


def splits_samples(tree: PyTree) -> Mesh | None:
    """The mesh `over_samples` on all of whose devices the arrays lie in full, or None."""
    sharding = getattr(next(iter(jax.tree.leaves(tree)), None), "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.is_fully_replicated:
        return None
    return sharding.mesh if isinstance(sharding.mesh, Mesh) and sharding.mesh.axis_names == SAMPLES else None


def one_copy(tree: PyTree) -> PyTree:
    """Of arrays that lie in full on all devices of a mesh, the copy on the first device of this process."""
    first = jax.local_devices()[0]
    return jax.tree.map(lambda leaf: jax.device_put(leaf.addressable_data(0), first), tree)


def several(mesh: Mesh) -> bool:
    """Whether its devices are those of several processes."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def local(mesh: Mesh) -> Mesh:
    """The part of a mesh that lies in this process.

    Raises:
      ValueError: a mesh of several processes that splits another axis than the first one over them.
    """
    if not several(mesh):
        return mesh
    owners = [{device.process_index for device in np.ravel(row)} for row in mesh.devices]
    own = [i for i, owner in enumerate(owners) if owner == {jax.process_index()}]
    if not own or max(map(len, owners)) > 1:
        raise ValueError(
            f"a mesh over several processes splits its first axis over them, and has devices of each; process "
            f"{jax.process_index()} has {len(own)} of {len(owners)} rows to itself: order the devices by process."
        )
    return Mesh(mesh.devices[own], mesh.axis_names)


@contextlib.contextmanager
def within(mesh: Mesh | None) -> Iterator[None]:
    """Computations over a mesh of the library's own, or with Auto axes, whatever mesh `jax.set_mesh` has set."""
    if jax.sharding.get_abstract_mesh().empty:
        yield
        return
    with jax.set_mesh(mesh or automatic(jax.sharding.get_mesh())):
        yield


@contextlib.contextmanager
def entered(mesh: Mesh, *arrays: Any) -> Iterator[None]:
    """As `within`, also where the arrays are traced: there the mesh that is set gives way to one of the same size.

    Raises:
      ValueError: traced under `jax.set_mesh` with another number of devices.
    """
    around = jax.sharding.get_abstract_mesh()
    if around.empty or not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays)):
        with within(mesh):
            yield
        return
    if around.size != mesh.size:
        raise ValueError(
            f"inside jax.set_mesh over {around.size} devices nothing can be traced over {mesh.size}: take "
            f"{around.size}, or call it outside of that mesh."
        )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def spec(x: Any) -> PartitionSpec:
    """How an array is sharded over Explicit axes; not at all if there are none."""
    return PartitionSpec() if _explicit(x) is None else jax.typeof(x).sharding.spec


def hidden(fn: Callable, out: PartitionSpec = PartitionSpec()) -> Callable:  # noqa: B008
    """Fn of arrays, with Explicit axes as Auto ones inside; `out` is how its results are sharded."""

    def call(*arrays: Any) -> Any:
        mesh = next((mesh for leaf in jax.tree.leaves(arrays) if (mesh := _explicit(leaf))), None)
        if mesh is None:
            return fn(*arrays)
        axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if _is(kind))
        return jax.sharding.auto_axes(fn, axes=axes, out_sharding=NamedSharding(mesh, out))(*arrays)

    return call


def by_sample(fn: Callable) -> Callable:
    """fn(..., x, ...) -> one value or row per sample, with Auto axes inside; results are sharded as x by samples."""
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        if not any(map(_explicit, leaves)):
            return fn(*args, **kwargs)
        arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

        def inside(arrays: dict) -> Any:
            args, kwargs = jax.tree.unflatten(structure, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
            return fn(*args, **kwargs)

        x = jax.tree.leaves(signature.bind(*args, **kwargs).arguments["x"])[0]
        return hidden(inside, PartitionSpec(*spec(x)[:1]))(arrays)

    return call


def _explicit(leaf: Any) -> AnyMesh | None:
    """The mesh with Explicit axes that an array is sharded over."""
    if not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, jax.core.Tracer) else leaf.sharding
    mesh = getattr(sharding, "mesh", None)
    return mesh if mesh is not None and any(map(_is, mesh.axis_types)) else None


def _is(kind: AxisType) -> bool:
    return kind == AxisType.Explicit
