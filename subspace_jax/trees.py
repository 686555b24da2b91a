"""Path-keyed views of pytrees: "block1/conv/kernel" is the only name a layer has."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.typing import Array, PyTree


def _name(path: tuple) -> str:
    """Join the keys of one leaf; the `.value` that nnx wraps leaves in is left out."""
    wrapped = jax.tree_util.GetAttrKey("value")
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path if key != wrapped)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path.

    >>> flatten({"dense": {"kernel": 1, "bias": 2}})
    {'dense/bias': 2, 'dense/kernel': 1}
    """
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def select(tree: PyTree, paths: Iterable[str]) -> dict[str, Array]:
    """The named leaves; an unknown path raises KeyError, which lists the known ones."""
    leaves = flatten(tree)
    if missing := [path for path in paths if path not in leaves]:
        raise KeyError(f"no leaf {missing[0]!r}; there are {', '.join(leaves)}.")
    return {path: leaves[path] for path in paths}


def update(tree: PyTree, leaves: dict[str, Array]) -> PyTree:
    """The same tree with the named leaves replaced; an unknown path raises KeyError."""
    select(tree, leaves)
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), tree)


def map_with_path(fn: Callable, tree: PyTree) -> PyTree:
    """Apply fn(path, leaf) to every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(_name(path), leaf), tree)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """One tree whose leaves have a new leading axis, from trees of the same structure."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: PyTree) -> list[PyTree]:
    """The trees along the leading axis: the inverse of `stack`."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def digest(tree: PyTree) -> str:
    """SHA-256 of all leaves with their paths, shapes and dtypes: whether two parties hold the same bits.

    >>> digest({"a": 1.0})[:8] == digest({"a": np.float64(1)})[:8] != digest({"b": 1.0})[:8]
    True
    """
    found = hashlib.sha256()
    for path, leaf in flatten(tree).items():
        if isinstance(leaf, jax.core.Tracer):
            raise ValueError(f"a digest is of known bits; {path!r} is traced: call it outside jit, grad and vmap.")
        values = np.asarray(leaf)
        found.update(f"{path} {values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()
