"""What is recorded of a layer: its rows as they are, or their moments, of one batch or of a whole stream."""

import contextlib
import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Sized
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.core import checks, closures, meshes, processes
from subspace_jax.core import moments as _moments
from subspace_jax.core.capture.parts import Part, take
from subspace_jax.core.capture.products import Product
from subspace_jax.core.capture.run import Call, Visitor, run
from subspace_jax.core.capture.static import hold
from subspace_jax.core.capture.table import Layers, Traced, trace
from subspace_jax.core.keys import as_key
from subspace_jax.core.meshes import hidden
from subspace_jax.core.moments import Moments
from subspace_jax.typing import Array, Key, Params, PyTree

Of = Literal["inputs", "outputs", "gradients"]


def layers(fn: Callable, params: Params, *args: Any, layers: Iterable[str] | None = None) -> Layers:
    """The layers of any JAX function: every product of data with a leaf of `params`, in the order of execution.

    Prints as a table; `.other` lists the leaves in no product (biases, norms, embeddings). Nothing is computed.

    Args:
      fn: fn(params, *args), in inference mode: linen's `model.apply`, a merged nnx or equinox module, or any function.
      params: any pytree of arrays or ShapeDtypeStructs. Leaves that are no arrays (the functions and flags of an
        equinox module, plain numbers) stay as they are. A single array has the path "kernel".
      *args: arrays or ShapeDtypeStructs.
      layers: paths of layers, or of leaves for all layers in them; all when None.

    Raises:
      ValueError: no layer is found, a name is unknown, or a weight cannot be followed: concatenated with data, chosen
        by data, sparse, multiplied with data and then summed, computed anew in each iteration of a `while`, or in an
        unknown call. With `layers`, only weights in those names matter; a weight that carries batch axes (vmap,
        experts) must be named there.
    """
    return trace(*hold(fn, params), args, layers).table


def record(
    fn: Callable,
    params: Params,
    *args: Any,
    of: Literal["inputs", "outputs"] = "inputs",
    layers: Iterable[str] | None = None,
) -> tuple[Any, dict[str, Array]]:
    """The rows of each layer, kept as they are: for few samples; `observe` and `collect` stream.

    Args:
      fn: fn(params, *args), in inference mode.
      params: any pytree of arrays.
      *args: one batch.
      of: "inputs" (patches, for a convolution) or "outputs" (before any bias).
      layers: as in `layers`.

    Returns:
      What fn gives, bit for bit on CPU, and {path: (*stack, *groups, rows, d)}.

    Raises:
      ValueError: as `layers`; a layer in a branch of a `cond` or in a `while`, whose rows are there or not.
    """

    def rows(call: Call, _: Any) -> Array:
        inputs = of == "inputs"
        return hidden(call.product.inputs if inputs else call.product.outputs)(call.x if inputs else call.result())

    fn, params = hold(fn, params)
    return run(trace(fn, params, args, layers), params, args, Visitor(rows), {})


def observe(
    fn: Callable,
    params: Params,
    *args: Any,
    of: Of = "inputs",
    layers: Iterable[str] | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    max_rows: int | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Any, dict[str, Moments]]:
    """Moments of each layer over one batch; pure, for use inside `jit`, `vmap` and `shard_map`.

    Args:
      fn: fn(params, *args), in inference mode. For `of="gradients"` a scalar: the sum of the losses of the samples, so
        that each row is the gradient of its own sample (of complex outputs dL/dRe + i dL/dIm).
      params: any pytree of arrays.
      *args: one batch.
      of: "inputs", "outputs" (before any bias) or "gradients" of fn with respect to the outputs.
      layers: as in `layers`.
      dtype: of the sums; float64 needs `jax.enable_x64(True)` (`collect` does that itself). Of complex rows they are
        complex: X^H X in complex64 or complex128.
      max_rows: random rows kept per layer, of each iteration in a `while`; all when None. The authors keep 50,000; the
        sums make a cap unnecessary.
      key: needed with `max_rows`.

    Returns:
      What fn gives, bit for bit on CPU but for the rounding in a `while`, which is compiled anew with the sums in it,
      and {path: Moments}. Layers that read the same value share one object.

    Raises:
      ValueError: as `layers`; a cap without a key; gradients of a function that is not scalar, or with a cap.
    """
    key = None if key is None else as_key(key)
    fn, params = hold(fn, params)
    traced = trace(fn, params, args, layers)
    out, own = _measure(traced, params, args, key, of=of, dtype=dtype, max_rows=max_rows)
    return out, _by_layer(traced.table, own)


def collect(
    fn: Callable,
    params: Params,
    batches: Iterable[Any],
    *,
    of: Of = "inputs",
    layers: Iterable[str] | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    max_rows: int | None = None,
    key: Key[Array, ""] | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Moments]:
    """Moments of each layer over a stream of batches: memory does not grow with the number of samples.

    Args:
      fn: fn(params, *batch), as in `observe`. Compiled once, and again when what it reads has changed since the last
        call: a closed-over variable, an attribute of its object, a global of its file (`core.closures`).
      params: any pytree of arrays.
      batches: arrays, or tuples of arguments. Each new shape compiles once.
      of: as in `observe`.
      layers: as in `layers`.
      dtype: of the sums. With float64 fn itself still runs as it is; the result is then on the host (NumPy), where
        nothing rounds it, and `subspace` computes with it in float64.
      max_rows: rows kept per layer over all batches, spread evenly; `batches` must then have a length.
      key: needed with `max_rows`.
      mesh: devices, with Auto or Explicit axes; every batch is split over the first one and the sums are added up once,
        at the end. Over the devices of several processes each process gives batches of its own samples, one or more and
        not as many as the others, splits them over its own devices, and gets the moments of all samples.

    Returns:
      {path: Moments}. Layers that read the same value share one object.

    Raises:
      ValueError: as `observe`; no batch; a batch that does not divide over the devices; a mesh that splits more than
        its first axis over processes.
    """
    key = None if key is None else as_key(key)
    fn, params = hold(fn, params)
    fn = closures.current(fn)
    layers = None if layers is None else tuple(layers)
    # before the wide context: host float64 must not widen the network
    params = meshes.moved(jax.tree.map(jnp.asarray, processes.here(params)))
    wide = np.dtype(dtype) == np.float64
    if wide:
        checks.check_host("collect with float64 sums", params)
    precision = functools.partial(jax.enable_x64, True) if wide else contextlib.nullcontext
    everywhere = mesh = None if mesh is None else meshes.automatic(mesh)
    if mesh is not None and meshes.several(mesh):
        mesh, everyone = meshes.local(mesh), mesh.devices.shape[0]
        max_rows = None if max_rows is None else max_rows * mesh.devices.shape[0] // everyone
        key = None if key is None else jax.random.fold_in(key, jax.process_index())
    total, table = None, Layers({}, ())
    for i, (batch, cap) in enumerate(zip(batches, _caps(max_rows, batches), strict=False)):
        args = meshes.moved(jax.tree.map(jnp.asarray, batch if isinstance(batch, tuple) else (batch,)))
        leaves, structure = jax.tree.flatten((params, args))
        step, table = _step(
            fn, structure, tuple(map(jax.typeof, leaves)), layers, mesh, of=of, dtype=np.dtype(dtype), max_rows=cap
        )
        with precision(), meshes.within(mesh):
            new = step(params, args, None if key is None else jax.random.fold_in(key, i))
            # without waiting, batches pile up in the device's queue
            total = jax.block_until_ready(new if total is None else _add(total, new))
    total = _checked(total, everywhere)
    with precision():
        total = total if everywhere is None else _summed(total, everywhere)
        total = jax.tree.map(np.asarray, total) if wide else total
    return _by_layer(table, total)


_add = jax.jit(_moments.merge, donate_argnums=0)


def _checked(total: PyTree, mesh: Mesh | None) -> PyTree:
    """The sums of a stream that had a batch; where one of several processes had none, all of them refuse."""
    several = mesh is not None and meshes.several(mesh)
    given = np.array([total is not None])
    given = processes.gathered(given) if several else given
    if not given.all():
        whose = f" of process {np.argmin(given)}" if several else ""
        raise ValueError(f"batches{whose} is empty: there is nothing to observe.")
    return total


def _summed(total: PyTree, mesh: Mesh) -> PyTree:
    """The sums of all devices along the first axis of a mesh, each of which has its own, in every process."""
    if not meshes.several(mesh):
        return jax.tree.map(lambda x: x.sum(0), total)
    over, copied = (NamedSharding(mesh, spec) for spec in (PartitionSpec(mesh.axis_names[0]), PartitionSpec()))

    def joined(x: jax.Array) -> jax.Array:
        shape, own = (mesh.devices.shape[0], *x.shape[1:]), [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, over, own)

    add = jax.jit(lambda total: jax.tree.map(lambda x: x.sum(0), total), out_shardings=copied)
    return processes.here(add(jax.tree.map(joined, total)))


def _caps(max_rows: int | None, batches: Iterable[Any]) -> Iterable[int | None]:
    """Rows that each batch may give: together exactly the cap."""
    if max_rows is None:
        return itertools.repeat(None)
    if not isinstance(batches, Sized):
        raise ValueError("max_rows is shared out over the batches: give them as a list, not as a generator.")
    shared = [max_rows * i // len(batches) for i in range(len(batches) + 1)]
    return [b - a for a, b in itertools.pairwise(shared)]


@functools.lru_cache(maxsize=16)  # compiled once for all parameters of one shape
def _step(
    fn: Callable,
    structure: Any,
    leaves: tuple,
    layers: tuple[str, ...] | None,
    mesh: Mesh | None,
    **options: Any,
) -> tuple[Callable, Layers]:
    """The compiled moments of one batch, and the table; in a mesh each device has its own sums, along a first axis."""
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=leaf.weak_type) for leaf in leaves]
    params, args = jax.tree.unflatten(structure, shapes)
    if mesh is None:
        traced = trace(fn, params, args, layers)
        return jax.jit(lambda params, args, key: _measure(traced, params, args, key, **options)[1]), traced.table
    axis, devices = mesh.axis_names[0], mesh.devices.shape[0]
    if sizes := [x.shape[0] for x in jax.tree.leaves(args) if x.shape[0] % devices]:
        raise ValueError(f"a batch of {sizes[0]} does not divide over {devices} devices: choose a multiple.")
    local = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype), args)
    traced = trace(fn, params, local, layers)
    if options["max_rows"] is not None:
        options["max_rows"] //= devices

    def one_device(params: Params, args: tuple, key: Any) -> Any:
        key = None if key is None else jax.random.fold_in(key, jax.lax.axis_index(axis))
        return jax.tree.map(lambda x: x[None], _measure(traced, params, args, key, **options)[1])

    # the checker of varying values would refuse equations that were traced outside the mesh
    spec = PartitionSpec(axis)
    step = jax.shard_map(
        one_device, mesh=mesh, in_specs=(PartitionSpec(), spec, PartitionSpec()), out_specs=spec, check_vma=False
    )
    return jax.jit(step), traced.table


def _measure(
    traced: Traced, params: Params, args: tuple, key: Any, *, of: Of, dtype: Any, max_rows: int | None
) -> tuple[Any, dict[str, Moments]]:
    """Moments by layer; for inputs, only of the first of the layers that read the same rows."""
    dtype = _moments.check_dtype(dtype)
    if max_rows is not None and (key is None or of == "gradients" or max_rows < 0):
        raise ValueError(
            f"max_rows={max_rows} takes random rows of inputs or outputs: give a key, and no negative cap."
        )
    if of == "gradients":
        out, own = _gradients(traced, params, args, dtype)
    else:
        record = functools.partial(_record, of=of, dtype=dtype, max_rows=max_rows, key=key)
        out, own = run(traced, params, args, Visitor(record, streams=True), {})
    # a scan stacks the count of its layers, which is the same in each iteration
    return out, {path: moments._replace(count=jnp.ravel(moments.count)[0]) for path, moments in own.items()}


def _record(call: Call, _: Any, *, of: Of, dtype: Any, max_rows: int | None, key: Any) -> Moments | None:
    layer, product, kept = call.layer, call.product, None
    if max_rows is not None and max_rows < layer.rows:
        key = jax.random.fold_in(key, zlib.crc32(layer.path.encode()))
        kept = jax.random.permutation(key, product.rows) < max_rows * product.rows // layer.rows
    if of == "outputs":
        rows = hidden(lambda y, kept: _moments.from_rows(product.outputs(y), kept=kept, dtype=dtype))
        return rows(call.result(), kept)
    if layer.shares != layer.path:
        return None
    return hidden(lambda x, kept: product.input_moments(x, kept, dtype))(call.x, kept)


def _gradients(traced: Traced, params: Params, args: tuple, dtype: Any) -> tuple[Any, dict[str, Moments]]:
    """Each result passes through an identity (`_probe`) whose "gradient" for a second argument is the moments."""
    empty = {
        layer.path: _moments.zeros(*layer.lead, layer.d_out, dtype=_moments.of_rows(dtype, layer.dtype))
        for layer in traced.table.values()
    }
    empty = {path: sums._replace(count=jnp.zeros(traced.table[path].stack, dtype)) for path, sums in empty.items()}

    def watch(call: Call, result: Array, sums: Moments) -> Array:
        return _probe(call.product, call.part, result, sums)

    visitor = Visitor(watch=watch, streams=True)
    out, pull = jax.vjp(lambda sums: run(traced, params, args, visitor, sums)[0], empty)
    if jnp.shape(out) != ():
        raise ValueError(f"gradients are those of a scalar, the sum of the losses; fn gives {jnp.shape(out)}.")
    return out, pull(jnp.ones_like(out))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _probe(product: Product, part: Part | None, result: Array, sums: Moments) -> Array:
    return result


def _probe_bwd(product: Product, part: Part | None, sums: Moments, gradient: Array) -> tuple[Array, Moments]:
    own = take(gradient, part.result) if part else gradient
    rows = hidden(lambda y: _moments.from_rows(product.outputs(y), dtype=jnp.result_type(sums.count)))
    return gradient, rows(own.conj())


_probe.defvjp(lambda product, part, result, sums: (result, sums), _probe_bwd)


def _by_layer(table: Layers, own: dict[str, Moments]) -> dict[str, Moments]:
    return {path: own[path] if path in own else own[layer.shares] for path, layer in table.items()}
