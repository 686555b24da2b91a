"""Kernels of one rank, compared by their loss on the rows."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.compression import baselines, utilized_rank
from subspace_jax.compression.eigenpairs import spectra
from tests.compression.layers import layer

SEEDS = st.integers(0, 2**31 - 4)
RANKS = st.sampled_from([1, 3, 5])
ROUNDING = 1e-6  # of a float32 kernel, relative to the energy of the outputs


def loss(x, kernel, edited):
    """Share of the output energy that is lost."""
    return np.sum((x @ kernel - x @ np.asarray(edited["w"], np.float64)) ** 2) / np.sum((x @ kernel) ** 2)


@given(SEEDS, RANKS)
def test_output_only_and_whitened_svd_lose_the_tail_of_the_output_spectrum(seed, rank):
    x, kernel, table, params, moments = layer(seed)
    values = np.linalg.svd(x @ kernel, compute_uv=False) ** 2
    tail = 1 - values[:rank].sum() / values.sum()
    for method in (baselines.output_only, baselines.whitened_svd):
        edited = method(table, params, moments, ranks={"w": rank})
        assert loss(x, kernel, edited) == pytest.approx(tail, abs=ROUNDING)
        assert np.linalg.matrix_rank(edited["w"], tol=1e-5 * np.linalg.norm(kernel)) <= rank


@given(SEEDS, st.sampled_from([0.9, 0.99]))
def test_output_only_is_the_best_at_the_rank_of_the_projected_layer(seed, energy):
    x, kernel, table, params, moments = layer(seed)
    ranks = utilized_rank.ranks(utilized_rank.utilization(table, params, moments, energy=energy))
    best = loss(x, kernel, baselines.output_only(table, params, moments, ranks=ranks)) - ROUNDING
    assert best <= loss(x, kernel, utilized_rank.project(table, params, moments, energy=energy))
    assert best <= loss(x, kernel, baselines.plain_svd(table, params, ranks=ranks))
    assert best <= loss(x, kernel, baselines.input_only(table, params, moments, ranks=ranks))


@given(SEEDS, RANKS)
def test_cuts_are_those_of_the_svd_and_a_second_one_changes_nothing(seed, rank):
    x, kernel, table, params, moments = layer(seed)
    v, (u, s, wt) = np.linalg.svd(x)[2][:rank], np.linalg.svd(kernel, full_matrices=False)
    expected = {"input_only": v.T @ v @ kernel, "plain_svd": (u[:, :rank] * s[:rank]) @ wt[:rank]}
    for name in ("input_only", "output_only", "whitened_svd", "plain_svd"):
        measured = () if name == "plain_svd" else (moments,)
        cut = lambda params, name=name, measured=measured: getattr(baselines, name)(  # noqa: E731
            table, params, *measured, ranks={"w": rank}
        )
        once = cut(params)["w"]
        np.testing.assert_allclose(cut({"w": once})["w"], once, atol=1e-5 * np.abs(kernel).max())
        if name in expected:
            np.testing.assert_allclose(once, expected[name], atol=1e-5 * np.abs(kernel).max())


def test_whitened_svd_is_zero_outside_the_inputs():
    x, kernel, table, params, moments = layer(0, rank=4)
    edited = baselines.whitened_svd(table, params, moments, ranks={"w": 6})
    outside = np.linalg.svd(x)[2][4:]
    np.testing.assert_allclose(outside @ np.asarray(edited["w"]), 0, atol=1e-6)
    assert loss(x, kernel, edited) < ROUNDING


def test_spectra_serve_as_moments():
    _, _, table, params, moments = layer(0)
    solved = spectra(table, params, moments)
    for name in ("input_only", "output_only", "whitened_svd"):
        one, other = (getattr(baselines, name)(table, params, m, ranks={"w": 3})["w"] for m in (moments, solved))
        np.testing.assert_array_equal(one, other)


@given(SEEDS, RANKS)
def test_random_subspaces_keep_the_rank_and_their_share_of_the_kernel(seed, rank):
    x, kernel, table, params, moments = layer(seed, rows=400, d_in=40, d_out=40)
    cut = lambda key: np.asarray(baselines.random_subspaces(jax.random.key(key), table, params, ranks={"w": rank})["w"])  # noqa: E731
    edited = cut(seed)
    assert np.linalg.matrix_rank(edited, tol=1e-5 * np.linalg.norm(kernel)) == rank
    assert loss(x, kernel, {"w": edited}) > 0.5
    assert loss(x, kernel, baselines.output_only(table, params, moments, ranks={"w": rank})) < 0.5
    np.testing.assert_array_equal(cut(seed), edited)
    assert not np.array_equal(cut(seed + 1), edited)
    s, t = np.linalg.svd(edited)[0][:, :rank], np.linalg.svd(edited)[2][:rank]
    np.testing.assert_allclose(s @ (s.T @ kernel @ t.T) @ t, edited, atol=1e-5)


def test_random_subspaces_of_full_rank_keep_the_kernel():
    _, kernel, table, params, _ = layer(0)
    edited = baselines.random_subspaces(jax.random.key(0), table, params, ranks={"w": 9})["w"]
    np.testing.assert_allclose(edited, kernel, atol=1e-5)


@pytest.mark.parametrize(("rank", "kept"), [(1, 1), (2, 3), (3, 5), (4, 6)])
def test_pruning_keeps_the_largest_columns_that_the_factors_would_pay_for(rank, kept):
    _, kernel, table, params, _ = layer(0)
    edited = np.asarray(baselines.magnitude_pruning(table, params, ranks={"w": rank})["w"])
    norms = np.linalg.norm(kernel, axis=0)
    largest = np.argsort(-norms)[:kept]
    expected = np.zeros_like(edited)
    expected[:, largest] = np.asarray(params["w"])[:, largest]
    np.testing.assert_array_equal(edited, expected)
    assert kept * 8 <= max(rank * (8 + 6), 8)


@pytest.mark.parametrize("ranks", [{"w": 0}, {"v": 1}])
def test_bad_ranks_are_refused(ranks):
    _, _, table, params, moments = layer(0)
    with pytest.raises(ValueError, match="ranks are at least 1, of layers that were measured; got"):
        baselines.output_only(table, params, moments, ranks=ranks)
    with pytest.raises(ValueError, match="ranks are at least 1"):
        baselines.plain_svd(table, params, ranks=ranks)
    with pytest.raises(ValueError, match="ranks are at least 1"):
        baselines.random_subspaces(jax.random.key(0), table, params, ranks=ranks)
