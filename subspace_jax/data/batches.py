"""Batches of fixed shape: shuffled ones for training, padded ones for scoring in order, and prefetching to a device."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_count
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Int, Key

Padded = tuple[tuple[np.ndarray, ...], np.ndarray]


def epoch_order(key: Key[Array, ""], epoch: int | Int[Array, ""], n: int, batch: int) -> Int[Array, "steps batch"]:
    """The samples of each step of one epoch: a permutation of n, cut into batches; the last partial one is dropped.

    A pure function of key and epoch, so that a resumed run sees the same batches as an uninterrupted one. Works
    under `jit` and `vmap` over keys and epochs; n and batch are static.

    Returns:
      int32 (n // batch, batch), no sample twice.

    Raises:
      ValueError: batch outside [1, n], a negative epoch.
    """
    key = as_key(key)
    if not 1 <= batch <= n:
        raise ValueError(f"batch is in [1, {n}], the number of samples; got {batch}.")
    check_count("epoch", epoch, 0)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return order[: n // batch * batch].reshape(-1, batch).astype(jnp.int32)


def padded(arrays: Sequence[np.ndarray], batch: int) -> Iterator[Padded]:
    """Every row once, in order, in batches of one shape, so that a jitted function compiles once; no sample is dropped.

    Args:
      arrays: of the same length n; n = 0 yields no batch.
      batch: rows per batch; the last is filled up with row 0, so that padding is valid input.

    Returns:
      Iterator of (arrays (batch, ...), mask bool (batch,)); the mask is False on padding.

    Raises:
      ValueError: batch below 1, arrays that differ in length.
    """
    lengths = [len(array) for array in arrays]
    if batch < 1:
        raise ValueError(f"batch is at least 1, got {batch}.")
    if len(set(lengths)) != 1:
        raise ValueError(f"arrays have one length, got {lengths}; select the same samples in each.")
    return (_filled(arrays, start, batch) for start in range(0, lengths[0], batch))


def _filled(arrays: Sequence[np.ndarray], start: int, batch: int) -> Padded:
    rows = [array[start : start + batch] for array in arrays]
    short = batch - len(rows[0])
    if short:
        rows = [np.concatenate([r, np.repeat(a[:1], short, axis=0)]) for r, a in zip(rows, arrays, strict=True)]
    return tuple(rows), np.arange(batch) < batch - short


def prefetch(iterator: Iterable[Any], size: int = 2, sharding: jax.sharding.Sharding | None = None) -> Iterator[Any]:
    """Copy pytrees of arrays to the device ahead of use: the next is copied while the current one is processed.

    Args:
      iterator: of pytrees; order is kept, and no more than `size` are drawn ahead.
      size: batches held on the device, the one in use included; 1 copies on demand.
      sharding: of every array in the pytrees; the default device when None.

    Raises:
      ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size is at least 1, got {size}.")
    return _ahead(iterator, size, sharding)


def _ahead(iterator: Iterable[Any], size: int, sharding: jax.sharding.Sharding | None) -> Iterator[Any]:
    held = collections.deque()
    for item in iterator:
        held.append(jax.device_put(item, sharding))
        if len(held) == size:
            yield held.popleft()
    while held:
        yield held.popleft()
