"""Running a function with layers swapped; reading, writing and factorising kernels by the path of their layer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.capture import effective, views
from subspace_jax.core.capture.run import Call, Visitor, run
from subspace_jax.core.capture.static import hold
from subspace_jax.core.capture.table import Layer, Layers, leaf_paths, replace_leaves, trace
from subspace_jax.core.meshes import hidden, like, spec
from subspace_jax.typing import Array, Params, PyTree


def replace(fn: Callable, swap: Callable[[Call, Any], Array]) -> Callable:
    """The function with some layers computed another way.

    Args:
      fn: fn(params, *args).
      swap: (call, part) -> rows (n, d_out) of the layer's output, before any bias. `call.linear(matrix)` is the product
        with another matrix (a convolution stays one), `call.inputs()` the rows themselves, `call.layer` what it is.

    Returns:
      run(params, parts, *args), with `parts` {path: any pytree of arrays}: the layers to swap and what `swap` gets for
      them. In a scanned layer the arrays have its leading axes. Without parts it is fn, bit for bit. Differentiable,
      except through a layer inside a custom derivative rule.

      `run` raises ValueError as `layers` does.
    """

    def swapped_rows(call: Call, part: Any) -> Array:
        return call.product.restore(swap(call, part))

    def swapped(params: Params, parts: Mapping[str, PyTree], *args: Any) -> Any:
        if not parts:
            return fn(params, *args)
        held, params = hold(fn, params)
        traced = trace(held, params, args, parts)
        if vague := [path for path in parts if path not in traced.table]:
            raise ValueError(f"{vague[0]!r} is a leaf with several layers: swap {', '.join(traced.table)}.")
        return run(traced, params, args, Visitor(swap=swapped_rows), dict(parts))[0]

    return swapped


def kernels(table: Layers, params: Params) -> dict[str, Array]:
    """Kernels as matrices (*stack, *groups, d_in, d_out), rows in the order of the captured inputs."""
    leaves = leaf_paths(params)
    computed = effective.values(table, leaves)
    sources = {path: computed[path] if path in computed else leaves[layer.leaf] for path, layer in table.items()}
    return {path: hidden(layer.read)(jnp.asarray(sources[path])) for path, layer in table.items()}


def write_kernels(table: Layers, params: Params, matrices: Mapping[str, Array | np.ndarray]) -> Params:
    """The parameters with some kernels replaced; every other leaf is the same object, dtypes are kept.

    An effective kernel is written into the one leaf of its size, where it depends on each entry of it alone and
    linearly: through a constant mask or scale, a learning-rate multiplier, a sum with a low-rank product, an index in a
    loop. Entries that a mask hides stay as they are. The result is computed once to check it, so not under `jit`.

    Args:
      table: of the function that reads the parameters.
      params: its parameters.
      matrices: {path: (*stack, *groups, d_in, d_out)}.

    Raises:
      ValueError: a path or a size that is not in the table; an effective kernel whose inverse is not known (weight and
        spectral normalisation, quantisation, real and imaginary leaves); a complex matrix for a real leaf; a leaf of
        integers or 8-bit floats (quantised); a leaf that is also read transposed, in an overlapping slice, or outside
        products (a tied embedding): one edit would change two things.
    """
    leaves = {path: jnp.asarray(leaf) for path, leaf in leaf_paths(params).items()}
    changed: dict[str, Array] = {}
    for path, matrix in matrices.items():
        layer = _editable(table, path, leaves)
        shape = (*layer.lead, layer.d_in, layer.d_out)
        if np.shape(matrix) != shape:
            raise ValueError(f"the kernel of {path!r} is {shape}; got {np.shape(matrix)}.")
        if not layer.writes:
            changed[layer.leaf] = effective.written(layer, {**leaves, **changed}, matrix)
            continue
        leaf = changed.get(layer.leaf, leaves[layer.leaf])
        if np.iscomplexobj(matrix) and not np.iscomplexobj(leaf):
            raise ValueError(f"the kernel of {path!r} is {leaf.dtype}; a complex matrix would lose its imaginary part.")
        changed[layer.leaf] = like(hidden(layer.write, spec(leaf))(leaf, jnp.asarray(matrix)), leaf)
    return replace_leaves(params, changed)


def factorise(table: Layers, params: Params, ranks: Mapping[str, int]) -> dict[str, dict]:
    """Two thin kernels for one: K = A B by a truncated SVD, the square root of the spectrum on each side.

    A layer is replaced only where that saves parameters, rank (d_in + d_out) < d_in d_out; otherwise it stays whole.

    Args:
      table: of the function that reads the parameters.
      params: its parameters; the factors are exact where the kernel has that rank already, as after a projection.
      ranks: {path: rank}, at least 1.

    Returns:
      {"params": {path: leaf}, "factors": {path: {"A": (..., d_in, rank), "B": (..., rank, d_out)}}}: a pytree to train
      and save, without the leaves that the factors replace. `run_factorised` runs it.

    Raises:
      ValueError: a rank below 1, and as `write_kernels`.
    """
    leaves = leaf_paths(params)
    if bad := [path for path, rank in ranks.items() if rank < 1]:
        raise ValueError(f"ranks are at least 1; got {ranks[bad[0]]} for {bad[0]!r}.")
    check_writes(Layers({path: table[path] for path in ranks if path in table}, ()), "cannot be factorised")
    cut = {path: _editable(table, path, leaves) for path in ranks}
    cut = {
        path: layer
        for path, layer in cut.items()
        if ranks[path] * (layer.d_in + layer.d_out) < layer.d_in * layer.d_out
    }
    factors = {path: _factors(matrix, ranks[path]) for path, matrix in kernels(Layers(cut, ()), params).items()}
    kept = {layer.leaf for path, layer in table.items() if path not in cut}
    gone = {layer.leaf for layer in cut.values()} - kept
    return {"params": {path: leaf for path, leaf in leaves.items() if path not in gone}, "factors": factors}


def run_factorised(fn: Callable, like: Params) -> Callable:
    """apply(factorised, *args): fn with each factorised layer as two products, (x A) B.

    A convolution becomes one with `rank` output channels and its own window, stride and padding, then a 1x1.

    Args:
      fn: fn(params, *args).
      like: the parameters that were factorised, or their ShapeDtypeStructs.
    """
    run = replace(
        fn, lambda call, part: jnp.matmul(call.linear(part["A"]), part["B"], precision=call.product.precision)
    )
    shapes = {path: (jnp.shape(leaf), jnp.result_type(leaf)) for path, leaf in leaf_paths(like).items()}

    def apply(factorised: Mapping[str, dict], *args: Any) -> Any:
        held = factorised["params"]
        absent = {path: jnp.zeros(*shape) for path, shape in shapes.items() if path not in held}  # never read
        return run(replace_leaves(like, {**held, **absent}), factorised["factors"], *args)

    return apply


def check_writes(table: Layers, what: str) -> None:
    """Refuse effective kernels where a kernel must be a leaf: an update of their leaves is none of the kernel.

    Raises:
      ValueError: names the first one, what it is computed from, and what cannot be done with it.
    """
    for path, layer in table.items():
        if not layer.writes:
            raise ValueError(
                f"{path!r} is computed from {', '.join(layer.leaves)}, so that it can be measured but {what}: leave it "
                "out with layers=."
            )


def _editable(table: Layers, path: str, leaves: Mapping[str, Array]) -> Layer:
    """The layer, if its kernel is read by nothing else."""
    if path not in table:
        raise ValueError(f"no layer {path!r}; there are {', '.join(table)}.")
    layer = table[path]
    dtype = jnp.result_type(leaves[layer.leaf])
    if not jnp.issubdtype(dtype, jnp.inexact) or jnp.finfo(dtype).bits <= 8:
        raise ValueError(
            f"the kernel of {path!r} is {dtype}, whose steps would swallow an edit: edit the dequantised network, with "
            "that leaf as wider floats, and quantise the result."
        )
    if layer.other_read:
        what = f"the kernel of {path!r}" if layer.writes else f"{layer.leaf!r}, from which {path!r} is computed,"
        raise ValueError(f"{what} is also read by {layer.other_read!r}: an edit would change that too.")
    others = [other for other in table.values() if layer.leaf in other.leaves and other.path != path]
    direct = layer.writes and all(other.writes for other in others)
    own = _touched(layer, leaves[layer.leaf]) if others and direct else np.zeros(0)
    for other in others:
        if not direct or (own & _touched(other, leaves[layer.leaf])).any():
            raise ValueError(
                f"{path!r} and {other.path!r} read the same numbers: an edit of one would change the other."
            )
    return layer


def _touched(layer: Layer, leaf: Array) -> np.ndarray:
    """The elements of the leaf that the kernel reads."""
    with jax.ensure_compile_time_eval():  # what a slice touches is known under `jit` too
        nothing, ones = jnp.zeros(jnp.shape(leaf)), jnp.ones((*layer.lead, layer.d_in, layer.d_out))
        return np.asarray(views.write(layer.steps, nothing, ones)) > 0


def _factors(matrix: Array, rank: int) -> dict[str, Array]:
    wide = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))  # there is no SVD in 16 bits
    u, s, vt = jnp.linalg.svd(wide, full_matrices=False)
    root = jnp.sqrt(s[..., :rank])
    a, b = u[..., :rank] * root[..., None, :], root[..., :, None] * vt[..., :rank, :]
    return {"A": a.astype(matrix.dtype), "B": b.astype(matrix.dtype)}
