"""Several processes of one program: the part that each computes, and how all of them get the whole.

`jax.distributed.initialize` joins them. A process that was not joined is the only one, and nothing here does anything.
All processes must call `gathered`, `stacked`, `told` and `finished`, in the same order: they wait for each other.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from subspace_jax.core.keys import is_key
from subspace_jax.typing import PyTree

MOVED = 64 << 20  # bytes of each process that are on the devices at a time, beside those that came from the others


def first() -> bool:
    """Whether this process writes what all have: the only one, or the first of several."""
    return jax.process_index() == 0


def part(pieces: int) -> np.ndarray:
    """Which of so many pieces this process computes, in order; equally many in each, so that the last come again."""
    own = -(-pieces // jax.process_count())
    return np.minimum(np.arange(own) + own * jax.process_index(), pieces - 1)


def gathered(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, of which each has equally many, one after the other; bytes are moved as they are."""
    if jax.process_count() == 1:
        return rows
    plain = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    whole = np.empty((jax.process_count(), *plain.shape), np.uint8)
    step = max(1, MOVED // max(1, plain.shape[1]))
    for start in range(0, len(plain) if plain.size else 0, step):
        whole[:, start : start + step] = multihost_utils.process_allgather(plain[start : start + step])
    together = whole.reshape(whole.shape[0] * len(rows), plain.shape[1])
    return together.view(rows.dtype).reshape(len(together), *rows.shape[1:])


def stacked(tree: PyTree, count: int) -> PyTree:
    """Arrays and keys of `count` things, of which each process has its `part` on the first axis."""
    if jax.process_count() == 1:
        return tree

    def gather(leaf: Any) -> Any:
        if is_key(leaf):
            return jax.random.wrap_key_data(gather(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jax.numpy.asarray(gathered(np.asarray(leaf))[:count])

    return jax.tree.map(gather, tree)


def told(value: int) -> int:
    """What the first process says: where one decides by files that another may not see yet, all must decide alike."""
    return int(gathered(np.array([value]))[0])


def finished() -> None:
    """Wait until all processes are here: what the first one has written, the others can then read."""
    told(0)


def here(tree: PyTree) -> PyTree:
    """Arrays on the devices of several processes as those of this one; all others as they are."""

    def take(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer) or leaf.is_fully_addressable:
            return leaf
        return leaf.addressable_data(0) if leaf.is_fully_replicated else whole(leaf, tiled=True)

    whole = multihost_utils.process_allgather
    return jax.tree.map(take, tree)
