"""The table of a function's layers: names, sizes, and where their kernels lie in the parameters."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax import trees
from subspace_jax.core import closures
from subspace_jax.core.capture import views
from subspace_jax.core.capture.plan import Walk
from subspace_jax.core.capture.products import Key
from subspace_jax.core.capture.static import is_array
from subspace_jax.core.capture.steps import Plan, Refusal, Use
from subspace_jax.typing import Array, Params, PyTree


class Layer(NamedTuple):
    """One kernel and the products that contract the same axes of it.

    Attributes:
      path: name; with the slice, "[:,0:64]", where a part of a leaf is used, and ":transposed" for the other side of a
        leaf that is used from both.
      leaf: path of the leaf.
      kind: "dense" or "conv".
      kernel: shape of the kernel as the function multiplies by it.
      stack: lengths of the scans that walk over the leaf.
      groups: channel groups, or entries of the batch axes that the weight carries.
      d_in: rows of the matrix, per group.
      d_out: columns of the matrix, per group.
      rows: rows of input (per entry of stack and groups) in one call; in a `while`, in one iteration.
      shares: path of the first layer that reads the same rows; both have the same input moments.
      other_read: the first primitive that reads the leaf other than as a kernel; "" when none does.
      dtype: of its product; complex where the kernel is.
      leaves: what the kernel is computed from: `leaf` alone; of an effective kernel, path "...:effective", all leaves.
        Then `leaf` is the first of them that has its size.
      writes: whether the kernel is the leaf itself. An effective one can be measured like any other; it is written only
        where its inverse is known (`write_kernels`).
      steps: from the leaf, or the effective kernel, to the matrix (*stack, *groups, d_in, d_out).
      origin: what computes an effective kernel; None for others.
    """

    path: str
    leaf: str
    kind: str
    kernel: tuple[int, ...]
    stack: tuple[int, ...]
    groups: int
    d_in: int
    d_out: int
    rows: int
    shares: str
    other_read: str
    dtype: Any
    leaves: tuple[str, ...]
    writes: bool
    steps: tuple
    origin: Any = None

    @property
    def is_complex(self) -> bool:
        """Whether inputs and kernel are complex, and with them moments, bases and projectors."""
        return jnp.issubdtype(self.dtype, jnp.complexfloating)

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading axes of the matrix and of the moments."""
        return self.stack + ((self.groups,) if self.groups > 1 else ())

    @property
    def window(self) -> tuple[int, ...]:
        """Kernel size of a convolution; () for a dense layer."""
        name, argument = self.steps[-1]
        return tuple(argument[0]) if name == "patches" else ()

    def read(self, leaf: Array) -> Array:
        """The matrix in a leaf, or in the value of an effective kernel."""
        return views.read(self.steps, leaf)

    def write(self, leaf: Array, matrix: Array) -> Array:
        """The leaf with another matrix in it; dtype and other entries are kept."""
        return views.write(self.steps, leaf, matrix).astype(leaf.dtype)


class Layers(dict[str, Layer]):
    """Layers by path, in the order of execution; prints as a table. `other` lists the leaves in no product."""

    def __init__(self, layers: Mapping[str, Layer], other: tuple[str, ...]) -> None:
        super().__init__(layers)
        self.other = other

    def __repr__(self) -> str:
        head = ("path", "kind", "kernel", "matrix", "rows", "reads as")
        lines = [head, *(_line(layer) for layer in self.values())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        computed = [f"{layer.path}: from {', '.join(layer.leaves)}" for layer in self.values() if not layer.writes]
        return "\n".join([line.rstrip() for line in table] + computed + [f"other: {', '.join(self.other) or 'none'}"])


class Traced(NamedTuple):
    """A function with its layers found: what every recording and replacement runs."""

    plan: Plan
    consts: list
    names: dict[Key, Layer]
    table: Layers
    structure: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """What computes effective kernels: a traced function, and the shapes of its arguments."""

    traced: Traced
    args: tuple


def trace(fn: Callable, params: Params, args: tuple, layers: Iterable[str] | None) -> Traced:
    """Find the layers of fn(params, *args); arrays or ShapeDtypeStructs, nothing is computed.

    Raises:
      ValueError: no layer, an unknown name in `layers`, or a weight that cannot be followed (only where it is asked
        for, when `layers` is given).
    """
    closed, shapes = jax.make_jaxpr(closures.current(fn), return_shape=True)(params, *args)
    leaves = leaf_paths(params)
    walk = Walk()
    kinds = [views.of_leaf(path, jnp.shape(leaf)) for path, leaf in leaves.items()]
    rest = [walk.new_data() for _ in closed.jaxpr.invars[len(kinds) :]]
    plan, outs = walk.plan(closed.jaxpr, [*kinds, *rest])
    walk.read_by("the output", outs)
    names = _name(walk, leaves)
    asked = None if layers is None else _asked(layers, names, walk.refusals)
    _check(names, asked, walk.refusals, leaves)
    names = {key: layer for key, layer in names.items() if asked is None or layer.path in asked}
    used = {leaf for use in walk.uses for leaf in _sources(use.key, walk)}
    table = Layers(_shared(walk, names), tuple(path for path in leaves if path not in used))
    names = {key: table[layer.path] for key, layer in names.items()}
    traced = Traced(plan, closed.consts, names, table, jax.tree.structure(shapes))
    if all(layer.writes for layer in table.values()):
        return traced
    origin = Origin(traced, jax.tree.map(_abstract, args))
    table.update({path: layer._replace(origin=origin) for path, layer in table.items() if not layer.writes})
    return traced._replace(names={key: table[layer.path] for key, layer in names.items()})


def leaf_paths(params: Params) -> dict[str, Any]:
    """Arrays by path, in the order of the tree, without a leading "params"; a single array is "kernel"."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if is_array(leaf)]
    named = jax.tree.leaves(trees.map_with_path(lambda path, leaf: path if is_array(leaf) else None, params))
    paths = ["kernel"] if named == [""] else named
    if isinstance(params, Mapping) and "params" in params:
        paths = [path.removeprefix("params/") for path in paths]
    if len(set(paths)) < len(paths):
        raise ValueError(f"two leaves of the parameters have one path: {', '.join(paths)}.")
    return dict(zip(paths, leaves, strict=True))


def replace_leaves(params: Params, leaves: Mapping[str, PyTree]) -> Params:
    """The tree with some leaves replaced, by the paths of `leaf_paths`."""
    new = iter([leaves.get(path, leaf) for path, leaf in leaf_paths(params).items()])
    return jax.tree.map(lambda leaf: next(new) if is_array(leaf) else leaf, params)


def _name(walk: Walk, leaves: Mapping[str, Any]) -> dict[Key, Layer]:
    """One layer per key; the other side of a leaf gets ":transposed", anything else of the same name a number."""
    first: dict[Key, Use] = {}
    for use in walk.uses:
        first.setdefault(use.key, use)
    bases = {key: _base(use, walk, leaves) for key, use in first.items()}
    plain = {bases[key] for key in first if not key.transposed}
    taken: set[str] = set()
    names = {}
    for key in first:
        base = bases[key] + (":transposed" if key.transposed and bases[key] in plain else "")
        numbered = (base if n == 1 else f"{base}:{n}" for n in range(1, len(first) + 1))
        path = next(name for name in numbered if name not in taken)
        taken.add(path)
        names[key] = _layer(path, key, [other for other in walk.uses if other.key == key], walk, leaves)
    return names


def _base(use: Use, walk: Walk, leaves: Mapping[str, Any]) -> str:
    if use.key.leaf in walk.effective:
        return f"{_main(use, walk, leaves)}:effective"
    return use.key.leaf + use.product.view.label


def _main(use: Use, walk: Walk, leaves: Mapping[str, Any]) -> str:
    """The leaf that a layer is called by: the first of its size, if there is one."""
    size = math.prod(length for length, _ in use.product.view.axes)
    sources = _sources(use.key, walk)
    return next((leaf for leaf in leaves if leaf in sources and math.prod(leaves[leaf].shape) == size), sources[0])


def _sources(key: Key, walk: Walk) -> tuple[str, ...]:
    """The leaves that a kernel is, or is computed from."""
    return tuple(sorted(walk.effective[key.leaf].leaves)) if key.leaf in walk.effective else (key.leaf,)


def _layer(path: str, key: Key, uses: list[Use], walk: Walk, leaves: Mapping[str, Any]) -> Layer:
    product, writes = uses[0].product, key.leaf not in walk.effective
    leaf = _main(uses[0], walk, leaves)
    other_reads = walk.other_reads.get(leaf, [])[0 if writes else 1 :]  # its own value reads the leaf once
    rows = sum(
        use.product.rows * math.prod(length for scan, length in use.scans if scan not in use.product.view.stack)
        for use in uses
    )
    return Layer(
        path=path,
        leaf=leaf,
        kind=product.kind,
        kernel=product.view.shape,
        stack=tuple(size for size, _ in key.stack),
        groups=product.groups,
        d_in=math.prod(size for size, _ in key.rows),
        d_out=math.prod(size for size, _ in key.columns),
        rows=rows,
        shares=path,
        other_read=other_reads[0] if other_reads else "",
        dtype=product.dtype,
        leaves=_sources(key, walk),
        writes=writes,
        steps=uses[0].matrix,
    )


def _shared(walk: Walk, names: dict[Key, Layer]) -> dict[str, Layer]:
    """Each layer with the first one that reads the same rows."""
    reads = {key: tuple(use.reads for use in walk.uses if use.key == key) for key in names}
    first: dict[tuple, str] = {}
    return {layer.path: layer._replace(shares=first.setdefault(reads[key], layer.path)) for key, layer in names.items()}


def _asked(layers: Iterable[str], names: Mapping[Key, Layer], refusals: list[Refusal]) -> set[str]:
    """The layers meant by paths of layers or of leaves."""
    if isinstance(layers, str):
        raise ValueError(f"layers is a list of paths; got the single string {layers!r}.")
    asked: set[str] = set()
    for path in layers:
        found = {layer.path: layer.leaves for layer in names.values() if path in (layer.path, *layer.leaves)}
        leaves = {path}.union(*found.values())
        refused = [refusal for refusal in refusals if refusal.leaves & leaves and not refusal.unless_asked]
        if refused:
            raise ValueError(_refused(refused[0]))
        if not found:
            there = ", ".join(layer.path for layer in names.values())
            raise ValueError(f"no layer {path!r}; there are {there or 'none'}.")
        asked.update(found)
    return asked


def _check(
    names: Mapping[Key, Layer], asked: set[str] | None, refusals: list[Refusal], leaves: Collection[str]
) -> None:
    if asked is None and refusals:
        raise ValueError(_refused(refusals[0]))
    if not names or asked == set():
        raise ValueError(
            f"no layer: no product of data with a parameter; the leaves are {', '.join(leaves) or 'none'}."
        )


def _refused(refusal: Refusal) -> str:
    leaves = ", ".join(map(repr, sorted(refusal.leaves)))
    if refusal.unless_asked:
        return f"cannot follow the weight {leaves}: {refusal.why}; name it in layers= to get one Gram per entry."
    return (
        f"cannot follow the weight {leaves}: {refusal.why}. A kernel is one leaf, several concatenated, or computed "
        "from leaves alone; name the layers you want in layers= to leave it out."
    )


def _abstract(arg: Any) -> Any:
    return jax.ShapeDtypeStruct(jnp.shape(arg), jnp.result_type(arg))


def _line(layer: Layer) -> tuple[str, ...]:
    size = "x".join(map(str, (*layer.lead, layer.d_in, layer.d_out)))
    shares = "" if layer.shares == layer.path else layer.shares
    return layer.path, layer.kind, str(layer.kernel), size, str(layer.rows), shares
