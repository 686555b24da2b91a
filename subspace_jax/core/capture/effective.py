"""Effective kernels: values computed from parameters alone that are multiplied with data.

A LoRA sum, a mask, a scale, a norm of the weight, a dequantised or complex kernel of two leaves. Moments of their
inputs need no more than the product itself. Their values come from running the function, of which only the part that
computes them is left after compilation; the arguments, which they do not depend on, are zeros.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.capture import views
from subspace_jax.core.capture.run import Visitor, run
from subspace_jax.core.capture.table import Layer, Layers, Origin
from subspace_jax.typing import Array

REACHED = 1e-4  # largest error of a written kernel, as a share of what was changed
ROUNDED = 64  # and in units of the last place of its largest entry


def values(table: Layers, leaves: Mapping[str, Any]) -> dict[str, Array]:
    """The effective kernels of a table as the products read them, with the lengths of scans in front."""
    found: dict[str, Array] = {}
    for origin in {layer.origin for layer in table.values() if not layer.writes}:
        found |= _compiled(origin)(list(leaves.values()))
    return {path: found[path] for path, layer in table.items() if not layer.writes}


def written(layer: Layer, leaves: Mapping[str, Any], matrix: Array | np.ndarray) -> Array:
    """The leaf of the layer with which its effective kernel becomes `matrix`, in all entries that depend on the leaf.

    With E the kernel as a function of the leaf w, s = E'(w) 1 are its slopes if each entry of E depends on one entry of
    w, wherever that is; then w + E'(w)^T (change / s^2) gives the change. That this is so is seen from the result.

    Raises:
      ValueError: no single leaf of the size of the kernel; a result that differs from the matrix; a call inside `jit`.
    """
    leaf = leaves[layer.leaf]
    if not all(map(checks.is_known, (*leaves.values(), matrix))):
        raise ValueError(f"the kernel of {layer.path!r} is checked after it is written: edit it outside jit and vmap.")

    def kernel(leaf: Array) -> Array:
        return _compiled(layer.origin)(list({**leaves, layer.leaf: leaf}.values()))[layer.path]

    old = kernel(leaf)
    same = [path for path in layer.leaves if jnp.size(leaves[path]) == old.size and _is_float(leaves[path])]
    if same != [layer.leaf]:
        raise ValueError(
            f"{layer.path!r} is computed from {', '.join(layer.leaves)}, of which {', '.join(same) or 'none'} could be "
            "the kernel: it can be measured, not edited; edit the network with the computed kernel as its leaf."
        )
    wanted = views.write(layer.steps, old, jnp.asarray(matrix)).astype(old.dtype)
    slopes = jax.jvp(kernel, (leaf,), (jnp.ones_like(leaf),))[1]
    live = slopes != 0
    step = jnp.where(live, (wanted - old) / jnp.where(live, slopes, 1) ** 2, 0)
    new = leaf + jax.vjp(kernel, leaf)[1](step)[0]
    error, change = (float(jnp.abs(jnp.where(live, x - wanted, 0)).max()) for x in (kernel(new), old))
    coarsest = max(float(jnp.finfo(dtype).eps) for dtype in (old.dtype, leaf.dtype))
    rounding = ROUNDED * coarsest * float(jnp.abs(wanted).max())
    if not live.any() or not error <= REACHED * change + rounding:
        raise ValueError(
            f"{layer.path!r} is computed from {', '.join(layer.leaves)}, and the change of {layer.leaf!r} that should "
            f"give the wanted kernel misses it by {error:.2g}: edit the network with the computed kernel as its leaf."
        )
    return new


@functools.lru_cache(maxsize=16)  # compiled once per table
def _compiled(origin: Origin) -> Any:
    computed = {key: layer for key, layer in origin.traced.names.items() if not layer.writes}
    visitor = Visitor(lambda call, _: call.kernel, once=True)

    @jax.jit
    def run_through(leaves: list) -> dict[str, Array]:
        zeros = jax.tree.map(lambda arg: jnp.zeros(arg.shape, arg.dtype), origin.args)
        return run(origin.traced._replace(names=computed), leaves, zeros, visitor, {})[1]

    return run_through


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
