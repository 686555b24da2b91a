"""What all gradient projections share: the leaves they protect, and how a space is removed from an update."""

import functools
import warnings
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core import capture
from subspace_jax.core.capture import Layer, Layers
from subspace_jax.core.capture.table import leaf_paths, replace_leaves
from subspace_jax.core.meshes import hidden, spec
from subspace_jax.core.subspace import Subspace, adjoint
from subspace_jax.typing import Array, Float, Inexact, Params, PyTree

Bases = Mapping[str, Subspace]


class Plan(NamedTuple):
    """What a projection does to each leaf.

    Attributes:
      layers: whose kernels are projected.
      frozen: leaves that receive no update once any basis has rank > 0.
    """

    layers: Layers
    frozen: tuple[str, ...]


def plan(table: Layers, *, heads: Collection[str], freeze: bool) -> Plan:
    """All layers but the heads are protected, and with `freeze` every other leaf outside the heads is frozen.

    Raises:
      ValueError: a head that names nothing, or heads that leave no layer to protect; an effective kernel, one that is
        computed from several leaves.
    """
    paths = [*table, *(layer.leaf for layer in table.values()), *table.other]
    if isinstance(heads, str) or (unknown := [head for head in heads if not any(under(p, [head]) for p in paths)]):
        named = repr(heads) if isinstance(heads, str) else repr(unknown[0])
        raise ValueError(f"heads is a list of paths or their beginnings; {named} is none of {', '.join(paths)}.")
    capture.check_writes(beside(table, heads), "not protected in training")
    layers = {
        path: uncast(layer) for path, layer in table.items() if not under(path, heads) and not under(layer.leaf, heads)
    }
    if not layers:
        raise ValueError(f"heads={list(heads)} leave no layer to protect of {', '.join(table)}.")
    if statistics := [path for path in table.other if path.startswith("batch_stats/")]:
        warnings.warn(
            f"running statistics ({statistics[0]}, ...) drift with every task and change what earlier ones see: use a "
            "norm that has none.",
            stacklevel=3,
        )
    other = tuple(path for path in table.other if not under(path, heads))
    return Plan(Layers(layers, ()), other if freeze else ())


def held(plan: Plan, params: Params) -> Layers:
    """The protected layers that `params` contain; `optax.masked` may hide some.

    Raises:
      ValueError: leaves of another network, or a kernel that something else reads too (`capture.write_kernels`).
    """
    leaves, hidden = leaf_paths(params), lambda node: isinstance(node, optax.MaskedNode)
    layers = {path: layer for path, layer in plan.layers.items() if layer.leaf in leaves}
    masked = any(map(hidden, jax.tree.leaves(params, is_leaf=hidden)))
    if not layers or (len(layers) < len(plan.layers) and not masked):
        missing = next(layer.leaf for path, layer in plan.layers.items() if path not in layers)
        raise ValueError(f"the parameters have no kernel {missing!r}, only {', '.join(leaves)}: trace them anew.")
    table = Layers(layers, ())
    with jax.ensure_compile_time_eval():  # init may be traced; what a slice touches must be known all the same
        blank = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf)), params)
        try:
            capture.write_kernels(table, blank, capture.kernels(table, blank))
        except TypeError as error:
            raise ValueError(f"the parameters are not those of the table: {error}") from error
    return table


def uncast(layer: Layer) -> Layer:
    """The layer without dtype casts: updates are projected in their own precision, whatever the network computes in."""
    return layer._replace(steps=tuple(step for step in layer.steps if step[0] != "cast"))


def project(
    plan: Plan, updates: PyTree, bases: Bases, importance: Mapping[str, Float[Array, "..."]] | None = None
) -> PyTree:
    """Updates dK - P dK of the kernels with P = M M' or M diag(importance) M'; zero for frozen leaves."""
    leaves = leaf_paths(updates)
    stored = jnp.array([jnp.any(space.rank > 0) for space in bases.values()]).any()
    for path in plan.frozen:
        if path in leaves:
            leaves[path] = jnp.where(stored, jnp.zeros_like(leaves[path]), leaves[path])
    for path, space in bases.items():
        layer = plan.layers[path]
        leaf, weights = leaves[layer.leaf], None if importance is None else importance[path]
        leaves[layer.leaf] = hidden(functools.partial(_off, layer), spec(leaf))(leaf, space, weights)
    return replace_leaves(updates, leaves)


def _off(layer: Layer, leaf: Array, space: Subspace, importance: Array | None) -> Array:
    """The update of a leaf without what lies in the space."""
    matrix = layer.read(leaf)
    return layer.write(leaf, (matrix - inside(space, matrix, importance)).astype(leaf.dtype))


def inside(
    space: Subspace, matrix: Inexact[Array, "*lead d n"], importance: Float[Array, "*lead k"] | None = None
) -> Inexact[Array, "*lead d n"]:
    """P dK = M (M' dK) in 4 d k n operations, k the rank rounded up to eighths of the capacity; none at rank 0.

    Shapes are static, the rank is not, so a switch chooses among nine products; `vmap` over ranks computes them all.
    Updates of 16 bits are multiplied, and returned, in the wider format of the basis.
    """
    matrix = matrix.astype(jnp.promote_types(matrix.dtype, space.basis.dtype))
    left = space.basis if importance is None else space.basis * importance[..., None, :]
    right, capacity = adjoint(space.basis), space.basis.shape[-1]
    eighths = sorted({-(-capacity * i // 8) for i in range(9)})

    def product(count: int) -> Array:
        if not count:
            return jnp.zeros_like(matrix)
        coordinates = jnp.matmul(right[..., :count, :], matrix, precision="highest")
        return jnp.matmul(left[..., :count], coordinates, precision="highest")

    branch = jnp.searchsorted(jnp.array(eighths), jnp.max(space.rank))
    return jax.lax.switch(branch, [functools.partial(product, count) for count in eighths])


def beside(table: Layers, heads: Collection[str]) -> Layers:
    """The layers outside the heads."""
    return Layers({path: layer for path, layer in table.items() if not under(path, heads)}, ())


def under(path: str, beginnings: Collection[str]) -> bool:
    """Whether a path equals one of `beginnings` or lies in the folder that one names."""
    return any(path == beginning or path.startswith(beginning + "/") for beginning in beginnings)
