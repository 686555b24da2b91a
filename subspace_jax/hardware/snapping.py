"""Zeros where they save a converter's bit: kernels cut to the levels of sparsity 1 - 2^-k, tile by tile.

A tile of `rows` inputs is in bin k if in its densest column the share of zeros lies in [S_k, S_k+1), S_k = 1 - 2^-k, k
= 0..log2(rows) + 1; the last one means that nothing is left. `snap` moves every tile to one of these levels and gives
all its columns the same number of zeros (Ibrayev et al., 2024, arXiv 2403.13082). `magnitude` is ordinary pruning,
layer by layer; `whole_tiles` empties only tiles that fall into the last bin. All of it runs on the host.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from subspace_jax import training
from subspace_jax.core import capture, convolution
from subspace_jax.core.checks import check_data, check_filled, check_finite, check_host
from subspace_jax.hardware import adc_pruning
from subspace_jax.hardware.adc_pruning import Kernels, check_rows
from subspace_jax.typing import ApplyFn, Array, Float, Int, Variables

SHARES = np.arange(0, 100, 5)  # percent of a layer that a scan zeroes


class Pruned(NamedTuple):
    """Kernels after pruning.

    Attributes:
      kernels: {path: kernel}, the same values or zero.
      masks: {path: whether an entry is left}.
      bins: {path: bin of each tile (down, across)}, by its exact zeros.
    """

    kernels: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    bins: dict[str, Int[np.ndarray, "down across"]]


class Scan(NamedTuple):
    """What each layer bears.

    Attributes:
      percentiles: {path: largest share (%) with a loss of accuracy below the bound}.
      accuracy: {path: accuracy at each of the shares 0, 5, ..., 95 %}.
    """

    percentiles: dict[str, float]
    accuracy: dict[str, Float[np.ndarray, " shares"]]


def levels(rows: int) -> Float[np.ndarray, " levels"]:
    """S_k = 1 - 2^-k for k = 0..log2(rows) + 1: 0, .5, .75, ...; at the last one a column of `rows` is empty.

    Raises:
      ValueError: as `check_rows`.
    """
    return 1 - 0.5 ** np.arange(_last(rows) + 1)


def bins(kernel: Array | np.ndarray, rows: int, *, threshold: float = 0.0) -> Int[np.ndarray, "down across"]:
    """The bin of each tile, where weights of at most the threshold count as zeros.

    Raises:
      ValueError: as `check_rows`; called inside `jit`.
    """
    blocks, there = _tiles(kernel, rows)
    return _bin(*_densest(blocks, there, threshold), _last(rows))


def tile_sparsity(kernel: Array | np.ndarray, rows: int, *, threshold: float = 0.0) -> Float[np.ndarray, "down across"]:
    """Share of zeros in the densest column of each tile; edge tiles over the rows that they have.

    Raises:
      ValueError: as `bins`.
    """
    zeros, length = _densest(*_tiles(kernel, rows), threshold)
    return zeros / length


def snap(
    kernels: Kernels, rows: int, *, percentiles: Sequence[float] | None = None, tolerance: float | None = None,
    exact: bool = True,
) -> Pruned:  # fmt: skip
    """Every tile at a level of sparsity, the same one in all its columns.

    Weights up to a threshold, a percentile of the layer's magnitudes or the tolerance, count as zeros and give the bin
    k of a tile. If its share of zeros reaches the middle of S_k and S_k+1 the tile is forced to S_k+1, else loosened to
    S_k. Each column then loses its ceil(S length) smallest weights; zeros beyond stay. A tile below the threshold as a
    whole is emptied. Where one weight of a column is left, a percentile keeps it and a tolerance empties the tile.

    Args:
      kernels: {path: kernel}.
      rows: of a crossbar, a power of two above 1.
      percentiles: one a kernel, in their order, in [0, 100).
      tolerance: one threshold for all, instead of percentiles; the authors' is 1e-3.
      exact: False zeroes all weights up to the interpolated percentile S of a column, as the authors' code does: also
        one weight of each column at S = 0, and other numbers in edge tiles.

    Raises:
      ValueError: as `check_rows` and `thresholds`; called inside `jit`.
    """
    given = thresholds(kernels, percentiles=percentiles, tolerance=tolerance)
    return _pruned(
        kernels, rows, lambda path, blocks, there: _levelled(blocks, there, given[path], tolerance is None, exact)
    )


def magnitude(kernels: Kernels, rows: int, *, percentiles: Sequence[float]) -> Pruned:
    """Ordinary pruning: the smallest weights of each layer are zero, wherever they are.

    Raises:
      ValueError: as `snap`.
    """
    given = thresholds(kernels, percentiles=percentiles)
    return _pruned(kernels, rows, lambda path, blocks, there: np.abs(blocks) > given[path])


def whole_tiles(
    kernels: Kernels, rows: int, *, percentiles: Sequence[float] | None = None, tolerance: float | None = None
) -> Pruned:
    """Tiles whose weights are all up to the threshold are empty; all others stay as they are: after a group lasso.

    Raises:
      ValueError: as `snap`.
    """
    given = thresholds(kernels, percentiles=percentiles, tolerance=tolerance)

    def left(path: str, blocks: np.ndarray, there: np.ndarray) -> np.ndarray:
        empty = _bin(*_densest(blocks, there, given[path]), _last(rows)) == _last(rows)
        return np.broadcast_to(~empty[..., None, None], blocks.shape)

    return _pruned(kernels, rows, left)


def thresholds(
    kernels: Kernels, *, percentiles: Sequence[float] | None = None, tolerance: float | None = None
) -> dict[str, float]:
    """{path: largest magnitude that counts as zero}.

    Raises:
      ValueError: both or none of percentiles and tolerance; percentiles that are not one a kernel or outside [0, 100);
        a tolerance below 0; kernels that are not finite.
    """
    if (percentiles is None) == (tolerance is None):
        raise ValueError("a threshold is given by percentiles or by a tolerance: give one of them.")
    check_host("snapping", dict(kernels))
    check_finite("kernels", dict(kernels), remedy="train the network anew")
    for path, kernel in kernels.items():
        check_filled(f"kernel {path!r}", kernel)
    if tolerance is not None:
        if not tolerance >= 0:
            raise ValueError(f"the tolerance is at least 0; got {tolerance}.")
        return dict.fromkeys(kernels, float(tolerance))
    assert percentiles is not None
    if len(percentiles) != len(kernels):
        raise ValueError(
            f"there is one percentile a kernel, {len(kernels)} for {', '.join(kernels)}; got {len(percentiles)}."
        )
    if bad := [p for p in percentiles if not 0 <= p < 100]:
        raise ValueError(f"percentiles are in [0, 100), since at 100 nothing is left; got {bad[0]}.")
    pairs = zip(kernels.items(), percentiles, strict=True)
    return {path: float(np.percentile(np.abs(np.asarray(kernel)), p)) for (path, kernel), p in pairs}


def sensitivity(
    apply: ApplyFn, variables: Variables, layers: capture.Layers, x: Any, y: Any, *, max_drop: float = 0.01
) -> Scan:
    """The percentile that each layer alone bears: the largest of 0, 5, ..., 95 % with a loss below `max_drop`.

    Args:
      apply: (variables, x) -> logits.
      variables: of the network.
      layers: from `adc_pruning.mapped`.
      x: samples that it was not trained on, or a part of those that it was.
      y: their labels.
      max_drop: accuracy that may be lost.

    Raises:
      ValueError: a bound that is not above 0; samples that are not finite or have no label each.
    """
    if not max_drop > 0:
        raise ValueError(f"the accuracy that may be lost is above 0; got {max_drop}.")
    check_data(x, y)
    whole, found = training.evaluate(apply, variables, x, y), {}
    for path, kernel in adc_pruning.kernels(layers, variables).items():
        own = np.asarray(kernel)
        cuts = np.percentile(np.abs(own), SHARES)
        cuts[0] = -1.0  # nothing, where the smallest weight would be cut
        pruned = (adc_pruning.write(layers, variables, {path: np.where(np.abs(own) > cut, own, 0)}) for cut in cuts)
        found[path] = np.array([float(training.evaluate(apply, part, x, y)) for part in pruned])
    borne = {path: float(SHARES[whole - line < max_drop].max(initial=0)) for path, line in found.items()}
    return Scan(borne, found)


def _last(rows: int) -> int:
    """The bin of empty tiles."""
    check_rows(rows)
    return rows.bit_length()


def _tiles(kernel: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    check_rows(rows)
    check_host("snapping", kernel)
    check_filled("a kernel", kernel)
    check_finite("a kernel", kernel)
    return convolution.tiles(np.asarray(kernel), rows)


def _densest(blocks: np.ndarray, there: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Zeros of the densest column of each tile, and the length of its columns."""
    zeros = ((np.abs(blocks) <= threshold) & there).sum(-1)
    return np.where(there.any(-1), zeros, blocks.shape[-1]).min(-1), there.sum(-1).max(-1)


def _bin(zeros: np.ndarray, length: np.ndarray, last: int) -> np.ndarray:
    """The largest k with S_k <= zeros / length, in whole numbers."""
    k = 2 ** np.arange(1, last + 1)
    return ((k - 1) * length[..., None] <= k * zeros[..., None]).sum(-1)


def _levelled(blocks: np.ndarray, there: np.ndarray, threshold: float, keep_one: bool, exact: bool) -> np.ndarray:
    """What `snap` leaves of one kernel's tiles."""
    last = _last(blocks.shape[-1])
    zeros, length = _densest(blocks, there, threshold)
    k = _bin(zeros, length, last)
    forced = (length - zeros) * 2 ** (k + 2) <= 3 * length  # zeros / length >= (S_k + S_k+1) / 2
    target = k + (forced & (k < last - 1))
    if not keep_one:
        target = np.where(k == last - 1, last, target)
    part = 2**target - 1  # S = part / 2^target
    count = -(-part * length // 2**target) if exact else part * (length - 1) // 2**target + 1
    count = np.where(target == last, length, count)
    order = np.argsort(np.where(there, np.abs(blocks), np.inf), axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable") >= count[..., None, None]


def _pruned(kernels: Kernels, rows: int, left: Callable) -> Pruned:
    """Each kernel with zeros where left(path, blocks, there) is False."""
    made: dict[str, np.ndarray] = {}
    for path, kernel in kernels.items():
        blocks, there = _tiles(kernel, rows)
        made[path] = np.asarray(convolution.untile(np.where(left(path, blocks, there), blocks, 0), kernel.shape))
    masks: Mapping[str, np.ndarray] = jax.tree.map(lambda kernel: kernel != 0, made)
    return Pruned(made, dict(masks), {path: bins(kernel, rows) for path, kernel in made.items()})
