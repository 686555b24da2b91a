"""Class trees: each class has one ancestor at every level, coarse to fine; the last level is the classes themselves.

Trees come from nested names, as JSON has them:

    {"animal": {"bird": ["crow", "owl"], "mammal": ["cat"]}, "vehicle": ["car", "bus"]}

A class that hangs higher than others gets ancestors of its own down to its level, so that all have as many: car and bus
above share "vehicle" alone.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Int


class Tree(NamedTuple):
    """A class tree, hashable: it may be a static argument of `jit`.

    Attributes:
      paths: of each class its node at every level, coarse to fine; the last one is the class itself.
      names: of the nodes of each level.
    """

    paths: tuple[tuple[int, ...], ...]
    names: tuple[tuple[str, ...], ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.paths)

    @property
    def levels(self) -> int:
        """Number of levels, that of the classes included."""
        return len(self.paths[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Nodes of each level: the outputs of its head."""
        return tuple(len(names) for names in self.names)


def from_nested(nested: Any, classes: Sequence[str] | None = None) -> Tree:
    """The tree of nested names: mappings for inner nodes, lists or single names for classes.

    Args:
      nested: as above; class numbers may stand for names.
      classes: the names of classes 0, 1, ...; in order of appearance when None.

    Raises:
      ValueError: a class that hangs under two nodes, that is missing, or that there is not; a node without a class.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, above in _leaves(nested, ()):
        if name in found:
            first, second = ("/".join(path) or "the root" for path in (found[name], above))
            raise ValueError(f"class {name!r} has two parents, {first} and {second}: leave it under one of them.")
        found[name] = above
    order = list(found) if classes is None else [str(name) for name in classes]
    if missing := [name for name in order if name not in found]:
        raise ValueError(f"the tree lacks class {missing[0]!r} ({len(missing)} of {len(order)}): put it under a node.")
    if unknown := [name for name in found if name not in order]:
        raise ValueError(f"the tree names {unknown[0]!r}, which is none of the classes {', '.join(order[:5])}, ...")
    depth = max(map(len, found.values()))
    rows = []
    for name in order:
        inner = [(part, False) for part in found[name]]
        rows.append((*inner, *((name, True) for _ in range(depth - len(inner) + 1))))
    return _numbered(rows)


def from_paths(paths: Sequence[Sequence[int]] | np.ndarray, names: Sequence[Sequence[str]] | None = None) -> Tree:
    """The tree in which paths[c, l] is the node of class c at level l, nodes numbered from 0 at each level.

    Args:
      paths: (classes, levels); the last column is 0, 1, ..., the classes.
      names: of the nodes of each level; their numbers when None.

    Raises:
      ValueError: rows of different lengths, node numbers with gaps, a node with two parents, a last column that is
        not the classes, as many names as there are not nodes.
    """
    if len({len(row) for row in paths}) != 1 or not len(paths[0]):
        raise ValueError("all classes have one node at every level: give a class that hangs higher nodes of its own.")
    table = np.asarray(paths)
    if not np.issubdtype(table.dtype, np.integer) or not np.array_equal(table[:, -1], np.arange(len(table))):
        raise ValueError(f"the last node of each class is the class itself, 0 to {len(table) - 1}; got {table[:, -1]}.")
    for level, nodes in enumerate(table.T, start=1):
        if not np.array_equal(np.unique(nodes), np.arange(nodes.max() + 1)):
            raise ValueError(f"nodes of level {level} are numbered 0, 1, ... without gaps; got {np.unique(nodes)}.")
        if level > 1 and len(np.unique(table[:, level - 2 : level], axis=0)) > nodes.max() + 1:
            pairs = np.unique(table[:, level - 2 : level], axis=0)
            node = np.flatnonzero(np.bincount(pairs[:, 1]) > 1)[0]
            raise ValueError(f"node {node} of level {level} has two parents, {pairs[pairs[:, 1] == node, 0][:2]}.")
    sizes = table.max(0) + 1
    names = [[str(node) for node in range(size)] for size in sizes] if names is None else names
    if [len(level) for level in names] != sizes.tolist():
        raise ValueError(f"the levels have {sizes.tolist()} nodes and {[len(level) for level in names]} names.")
    return Tree(tuple(map(tuple, table.tolist())), tuple(map(tuple, names)))


def flat(classes: int) -> Tree:
    """The tree of one level: every class by itself."""
    return from_paths(np.arange(classes)[:, None])


def load(path: str | pathlib.Path, classes: Sequence[str] | None = None) -> Tree:
    """The tree of nested names in a JSON file.

    Raises:
      ValueError: a file that is no JSON, and as `from_nested`.
      FileNotFoundError: no such file.
    """
    try:
        nested = json.loads(pathlib.Path(path).read_text(), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON of nested names ({error}).") from None
    return from_nested(nested, classes)


@lru_cache(maxsize=64)
def distance(tree: Tree) -> Int[np.ndarray, "classes classes"]:
    """Edges on the path between two classes: twice the number of levels up to their lowest common ancestor.

    0 on the diagonal, 2 where the parent is shared, 2 L for L levels where only the root is. Symmetric, even, and an
    ultrametric: d(a, c) <= max(d(a, b), d(b, c)). Read-only int32.
    """
    paths = np.asarray(tree.paths)
    shared = (paths[:, None] == paths[None]).sum(axis=-1)  # levels below a shared node are never shared by others
    found = (2 * (tree.levels - shared)).astype(np.int32)
    found.flags.writeable = False
    return found


def ancestors(tree: Tree, y: Int[Array | np.ndarray, " n"]) -> Int[Array, "levels n"]:
    """The node of every label at each level; the last row is the labels. Under `jit` -1 for what is no class.

    Raises:
      ValueError: labels that are not integers in [0, classes).
    """
    checks.check_labels(y, tree.classes)
    y = jnp.asarray(y)
    nodes = jnp.asarray(np.asarray(tree.paths, np.int32).T)[:, jnp.clip(y, 0, tree.classes - 1)]
    return jnp.where((y >= 0) & (y < tree.classes), nodes, -1)


def _leaves(nested: Any, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every class with the names of the nodes above it."""
    if isinstance(nested, str | int):
        yield str(nested), above
        return
    if not isinstance(nested, Mapping | list | tuple):
        raise ValueError(f"a tree is nested mappings and lists of names; got {type(nested).__name__} {nested!r}.")
    if not nested:
        raise ValueError(f"node {'/'.join(above) or 'root'} holds no class: name one or leave it out.")
    parts = nested.items() if isinstance(nested, Mapping) else (((), part) for part in nested)
    for name, part in parts:
        yield from _leaves(part, above if name == () else (*above, str(name)))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a repeated name would silently replace the first one."""
    names = [name for name, _ in pairs]
    for name in {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the tree names {name!r} twice under one node: put its classes together.")
    return dict(pairs)


def _numbered(rows: list[tuple[tuple[str, bool], ...]]) -> Tree:
    """Number the nodes of each level in the order of their first class; a node is known by its whole path."""
    columns, names = [], []
    for level in range(1, len(rows[0]) + 1):
        seen: dict[Any, int] = {}
        columns.append([seen.setdefault(row[:level], len(seen)) for row in rows])
        names.append(tuple(path[-1][0] for path in seen))
    return Tree(tuple(zip(*columns, strict=True)), tuple(names))
