"""What is differentiated: one array of floats (b, *d), or a tree of them, such as an image and its coordinates.

A tree counts as one vector: all entries of a sample, leaf after leaf. It has one norm, one Hessian and one random
direction.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.keys import rademacher
from subspace_jax.typing import Array, Float, Int, Key, PyTree

Inputs = PyTree[Float[Array | np.ndarray, "b ..."]]
Labels = Int[Array | np.ndarray, " b"]
Keys = Key[Array, " b"]


def arrays(x: Inputs) -> Inputs:
    """The leaves as JAX arrays."""
    return jax.tree.map(jnp.asarray, x)


def samples(x: PyTree) -> tuple[int, ...]:
    """(b,): the shape of one value for each sample."""
    return tuple(jax.tree.leaves(x)[0].shape[:1])


def dimensions(x: PyTree) -> int:
    """d: entries of one sample."""
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(x))


def flat(x: Inputs) -> Float[Array, "b d"]:
    """One row for each sample."""
    rows = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(x)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)


def unflat(rows: Float[Array, "b d"], like: PyTree) -> Inputs:
    """The inverse of `flat`, in the structure and number formats of `like`, whose number of samples does not matter."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([math.prod(leaf.shape[1:]) for leaf in leaves])[:-1]
    parts = jnp.split(rows, ends, axis=1) if len(leaves) > 1 else [rows]
    shaped = [part.reshape(len(rows), *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)]
    return treedef.unflatten([part.astype(leaf.dtype) for part, leaf in zip(shaped, leaves, strict=True)])


def directions(keys: Keys, number: int | Int[Array, ""], like: PyTree) -> Inputs:
    """Rademacher direction `number` of every sample, the same signs for a tree as for one vector of all its entries."""
    return unflat(rademacher(keys, number, (dimensions(like),)), like)


def sqnorm(a: Inputs) -> Float[Array, " b"]:
    """||a||^2 of every sample, summed in float32 or wider."""
    return dot(a, a)


def dot(a: Inputs, b: Inputs) -> Float[Array, " b"]:
    """Inner product of every sample, in float32 or wider; no matrix product, so no device lowers its precision."""
    return functools.reduce(operator.add, map(_dot, jax.tree.leaves(a), jax.tree.leaves(b)))


def _dot(a: Float[Array, "b *d"], b: Float[Array, "b *d"]) -> Float[Array, " b"]:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return (a.astype(wide) * b.astype(wide)).reshape(len(a), -1).sum(axis=1)
