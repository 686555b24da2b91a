"""Snapping against a loop over tiles with percentiles, the published examples, and what all pruned kernels promise."""

import math
import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import training
from subspace_jax.hardware import adc_pruning, snapping
from subspace_jax.hardware.snapping import bins, levels, magnitude, snap, tile_sparsity, whole_tiles

SEEDS = st.integers(0, 2**31 - 1)
ROWS = 16


def draw(seed, shape=(3, 3, 4, 19)):
    """Weights of many sizes, so that tiles fall into many bins; a few of them are zero."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape) * np.exp(rng.normal(size=shape[-1]) * 2) * (rng.random(shape) > 0.1)
    return w.astype(np.float32)


def slow(kernel, threshold, *, fix, exact):
    """One tile after the other, column by column."""
    matrix = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1).copy()
    sparsities = [1 - 2.0**-k for k in range(int(math.log2(ROWS)) + 2)]
    last = len(sparsities) - 1
    for i in range(0, len(matrix), ROWS):
        for j in range(0, matrix.shape[1], ROWS):
            tile = matrix[i : i + ROWS, j : j + ROWS]
            s = min((np.abs(column) <= threshold).mean() for column in tile)
            k = max(k for k, own in enumerate(sparsities) if own <= s)
            if k == last or (k == last - 1 and not fix):
                tile[...] = 0
                continue
            if k < last - 1 and s >= (sparsities[k] + sparsities[k + 1]) / 2:
                k += 1
            for column in tile:
                if exact:
                    column[np.argsort(np.abs(column), kind="stable")[: math.ceil(sparsities[k] * len(column))]] = 0
                else:
                    column[np.abs(column) <= np.percentile(np.abs(column).astype(np.float64), 100 * sparsities[k])] = 0
    return matrix.reshape(kernel.shape[-1], kernel.shape[2], 3, 3).transpose(2, 3, 1, 0)


@given(SEEDS, st.sampled_from([30.0, 70.0, 95.0]), st.booleans())
def test_snapping_is_that_of_a_loop(seed, percentile, exact):
    kernel = draw(seed)
    if not exact:  # the quirk breaks ties in another way
        kernel = np.where(kernel == 0, np.linspace(1, 2, kernel.size).reshape(kernel.shape), kernel).astype(np.float32)
    threshold = np.percentile(np.abs(kernel), percentile)
    found = snap({"w": kernel}, ROWS, percentiles=[percentile], exact=exact)
    np.testing.assert_array_equal(found.kernels["w"], slow(kernel, threshold, fix=True, exact=exact))
    found = snap({"w": kernel}, ROWS, tolerance=float(threshold), exact=exact)
    np.testing.assert_array_equal(found.kernels["w"], slow(kernel, threshold, fix=False, exact=exact))


@given(SEEDS, st.sampled_from([0.0, 60.0, 90.0]))
def test_columns_have_the_zeros_of_their_level_and_a_second_snap_changes_nothing(seed, percentile):
    kernel = draw(seed, (3, 3, 16, 32))  # whole tiles alone
    kernel = np.where(kernel == 0, np.float32(1e-6), kernel)
    found = snap({"w": kernel}, ROWS, percentiles=[percentile])
    blocks = found.kernels["w"].transpose(3, 2, 0, 1).reshape(2, ROWS, 9, ROWS).transpose(0, 2, 1, 3)
    zeros = (blocks == 0).sum(-1)
    assert (zeros == zeros[..., :1]).all()  # balanced
    np.testing.assert_allclose(
        zeros[..., 0] / ROWS, np.minimum(np.ceil(ROWS * levels(ROWS)) / ROWS, 1)[found.bins["w"]]
    )
    np.testing.assert_array_equal(tile_sparsity(found.kernels["w"], ROWS), zeros[..., 0] / ROWS)
    kept = np.abs(found.kernels["w"][found.kernels["w"] != 0]).min(initial=np.inf)
    again = snap(found.kernels and {"w": found.kernels["w"]}, ROWS, tolerance=0.5 * min(float(kept), 1.0))
    one_left = found.bins["w"] == int(math.log2(ROWS))  # which a tolerance empties
    if not one_left.any():
        np.testing.assert_array_equal(again.kernels["w"], found.kernels["w"])
    np.testing.assert_array_equal(found.masks["w"], found.kernels["w"] != 0)
    survivors = found.kernels["w"][found.masks["w"]]
    np.testing.assert_array_equal(survivors, kernel[found.masks["w"]])


@pytest.mark.parametrize(("zeros", "expected"), [(41, 48), (39, 32), (40, 48), (0, 0), (63, 63), (64, 64), (15, 0)])
def test_forced_and_loosened_as_published(zeros, expected):
    """A crossbar of 64 rows whose densest column has so many small weights; .625 itself is forced."""
    kernel = np.tile(np.linspace(1, 2, 64, dtype=np.float32)[:, None], (1, 64))
    kernel[:zeros] /= 1e3
    found = snap({"w": kernel}, 64, tolerance=0.5)
    if zeros == 63:  # a tolerance empties the tile, a percentile keeps its level
        assert (found.kernels["w"] == 0).all()
        found = snap({"w": kernel}, 64, percentiles=[98.0])
    assert ((found.kernels["w"] == 0).sum(0) == expected).all()


def test_the_authors_rule_zeroes_one_weight_more_where_nothing_is_saved():
    kernel = np.linspace(1, 2, 64 * 64, dtype=np.float32).reshape(64, 64)
    for level, count in zip(range(6), (1, 32, 48, 56, 60, 62), strict=True):
        own = np.sort(kernel, 0)
        own[: int(64 * levels(64)[level])] /= 1e3
        found = snap({"w": own}, 64, tolerance=0.5, exact=False)
        assert ((found.kernels["w"] == 0).sum(0) == count).all()


def test_levels_and_bins():
    np.testing.assert_array_equal(levels(64), [0, 0.5, 0.75, 0.875, 0.9375, 0.96875, 0.984375, 0.9921875])
    kernel = np.ones((9, 3), np.float32)  # one tile of 9 rows
    for zeros, k in ((0, 0), (4, 0), (5, 1), (7, 2), (8, 3), (9, 5)):
        kernel[:zeros] = 0
        assert bins(kernel, 16).tolist() == [[k]]
    assert bins(np.float32([[0.2], [3.0]]), 2, threshold=0.5).tolist() == [[1]]


def test_ordinary_pruning_and_whole_tiles():
    kernels = {"a": draw(0), "b": draw(1, (3, 3, 2, 5))}
    found = magnitude(kernels, ROWS, percentiles=[50.0, 80.0])
    assert [float((part == 0).mean()) for part in found.kernels.values()] == pytest.approx([0.5, 0.8], abs=0.01)
    kernel = np.concatenate([np.full((16, 4), 1e-3), np.full((16, 4), 1.0)]).astype(np.float32)
    kernel[20, 0] = 1e-3
    emptied = whole_tiles({"w": kernel}, 16, tolerance=1e-2)
    assert emptied.bins["w"].tolist() == [[5, 0]]
    np.testing.assert_array_equal(emptied.kernels["w"][16:], kernel[16:])


def test_a_scan_finds_what_each_layer_bears(monkeypatch):
    """Accuracy falls by .002 each percent of w and not at all of v."""
    params = {"w": np.linspace(1, 2, 16, dtype=np.float32).reshape(4, 4), "v": np.ones((4, 2), np.float32)}

    def apply(params, x):
        return x @ params["w"] @ params["v"]

    monkeypatch.setattr(training, "evaluate", lambda apply, own, x, y: 0.9 - 0.2 * float((own["w"] == 0).mean()))
    x = np.ones((3, 4), np.float32)
    layers = adc_pruning.mapped(apply, params, x, rows=4, dense=True)
    found = snapping.sensitivity(apply, params, layers, x, np.zeros(3, int), max_drop=0.07)
    assert list(found.percentiles) == ["w", "v"]
    assert found.percentiles["w"] == 30  # 5 of 16 are zero; at 35 % it is 6
    assert found.accuracy["w"].shape == (20,)
    assert found.accuracy["w"][0] == 0.9
    with pytest.raises(ValueError, match="the accuracy that may be lost is above 0; got 0"):
        snapping.sensitivity(apply, params, layers, x, np.zeros(3, int), max_drop=0.0)


@pytest.mark.parametrize(
    ("kernels", "options", "message"),
    [
        ({"w": np.ones((4, 4))}, {"percentiles": [10.0, 20.0]}, "one percentile a kernel, 1 for w; got 2"),
        ({"w": np.ones((4, 4))}, {"percentiles": [100.0]}, "percentiles are in [0, 100), since at 100 nothing is left"),
        ({"w": np.ones((4, 4))}, {}, "a threshold is given by percentiles or by a tolerance: give one of them"),
        ({"w": np.ones((4, 4))}, {"tolerance": -1.0}, "the tolerance is at least 0; got -1.0"),
        ({"w": np.full((4, 4), np.nan)}, {"tolerance": 1.0}, "kernels 'w' must be finite; got nan"),
    ],
)
def test_what_cannot_be_is_refused(kernels, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        snap(kernels, 4, **options)


def test_snapping_is_not_traced():
    with pytest.raises(ValueError, match="snapping computes on the host, in NumPy"):
        jax.jit(lambda w: bins(w, 4))(np.ones((4, 4)))
