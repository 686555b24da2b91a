"""One layer against the singular values of its rows: all of the paper's properties, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.compression import utilized_rank
from subspace_jax.compression.eigenpairs import spectra
from subspace_jax.core import capture
from tests.compression.layers import count, draw, fn, layer, moments_of
from tests.compression.layers import table as sizes_to_table

SEEDS = st.integers(0, 2**31 - 4)
ENERGIES = st.sampled_from([0.8, 0.99, 0.99999, 1.0])
RANKS = st.sampled_from([2, 5, 8])
LOSSLESS = 1e-5  # relative; a projected kernel is rounded to float32 once


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@given(SEEDS, ENERGIES, RANKS)
def test_ranks_are_those_of_the_singular_values(seed, energy, rank):
    x, kernel, table, params, moments = layer(seed, rank=rank)
    use = utilized_rank.utilization(table, params, moments, energy=energy)["w"]
    assert (use.inputs, use.outputs) == (count(x, energy), count(x @ kernel, energy))
    assert use.rank == min(use.inputs, use.outputs)
    assert 0 < use.share == use.rank / 6 <= 1
    assert use.inputs <= rank
    if energy == 1:
        assert use.outputs <= use.inputs == rank


@given(SEEDS, RANKS)
def test_projection_on_the_full_spans_is_lossless_and_of_the_rank(seed, rank):
    x, kernel, table, params, moments = layer(seed, rank=rank)
    edited = utilized_rank.project(table, params, moments, energy=1.0)
    cut = np.asarray(edited["w"], np.float64)
    use = utilized_rank.utilization(table, params, moments, energy=1.0)["w"]
    assert relative(x @ cut, x @ kernel) < LOSSLESS
    assert np.linalg.matrix_rank(cut, tol=LOSSLESS * np.linalg.norm(cut)) <= use.rank
    twice = utilized_rank.project(table, edited, moments, energy=1.0)["w"]
    np.testing.assert_allclose(twice, cut, atol=LOSSLESS * np.abs(cut).max())


@given(SEEDS, ENERGIES)
def test_the_projection_is_the_one_of_the_svd(seed, energy):
    x, kernel, table, params, moments = layer(seed)
    k_s, k_t = count(x, energy), count(x @ kernel, energy)
    v, w = np.linalg.svd(x)[2][:k_s], np.linalg.svd(x @ kernel)[2][:k_t]
    cut = utilized_rank.project(table, params, moments, energy=energy)["w"]
    np.testing.assert_allclose(cut, v.T @ v @ kernel @ w.T @ w, atol=LOSSLESS * np.abs(kernel).max())


@given(SEEDS, ENERGIES, st.sampled_from([1e-3, 7.0, 1e4]))
def test_scale_and_repetition_and_unused_inputs_change_no_rank(seed, energy, scale):
    x, _, table, params, moments = layer(seed)
    pick = lambda table, params, moments: utilized_rank.utilization(table, params, moments, energy=energy)["w"][:3]  # noqa: E731
    expected = pick(table, params, moments)
    assert pick(table, params, moments_of(scale * x)) == expected
    assert pick(table, {"w": np.float32(scale) * np.asarray(params["w"])}, moments) == expected
    assert pick(table, params, moments_of(np.concatenate([x, x]))) == expected
    wide = {"w": np.concatenate([params["w"], np.ones((3, 6), np.float32)])}
    padded = np.concatenate([x, np.zeros((64, 3))], 1)
    assert pick(sizes_to_table(11, 6), wide, moments_of(padded)) == expected


@given(SEEDS, st.sampled_from([0.99, 1.0]))
def test_factors_are_the_projected_layer_and_never_more_parameters(seed, energy):
    x, _, table, params, moments = layer(seed, d_in=12, d_out=12)
    factorised = utilized_rank.factorise(table, params, moments, energy=energy)
    expected = fn(utilized_rank.project(table, params, moments, energy=energy), jnp.asarray(x, jnp.float32))
    assert relative(capture.run_factorised(fn, params)(factorised, jnp.asarray(x, jnp.float32)), expected) < LOSSLESS
    size = sum(leaf.size for leaf in jax.tree.leaves(factorised))
    kept = utilized_rank.ranks(utilized_rank.utilization(table, params, moments, energy=energy))
    assert size == round(utilized_rank.parameters_ratio(table, kept) * 144) <= 144


def test_full_rank_changes_nothing_and_is_not_factorised():
    _, kernel, table, params, _ = layer(0)
    moments = moments_of(draw(9, 64, 8))
    edited = utilized_rank.project(table, params, moments, energy=1.0)["w"]
    np.testing.assert_allclose(edited, kernel, atol=LOSSLESS)
    factorised = utilized_rank.factorise(table, params, moments, energy=1.0)
    assert factorised["factors"] == {}
    assert utilized_rank.mean_utilization(utilized_rank.utilization(table, params, moments, energy=1.0)) == 1


def test_entries_of_a_scan_are_layers_of_their_own():
    scanned = lambda p, x: jax.lax.scan(lambda h, w: (h @ w, None), x, p["w"])[0]  # noqa: E731
    params, x = {"w": jnp.asarray(draw(0, 2, 5, 5), jnp.float32)}, jnp.ones((3, 5))
    rows = np.stack([draw(1, 20, 2) @ draw(2, 2, 5), draw(3, 20, 5)])
    table, moments = capture.layers(scanned, params, x), moments_of(rows)
    use = utilized_rank.utilization(table, params, moments, energy=1.0)
    np.testing.assert_array_equal(use["w"].rank, [2, 5])
    assert utilized_rank.mean_utilization(use) == pytest.approx((0.4 + 1) / 2)
    assert utilized_rank.ranks(use) == {"w": 5}
    edited = utilized_rank.project(table, params, moments, energy=1.0)["w"]
    for i in range(2):
        assert relative(rows[i] @ np.asarray(edited[i]), rows[i] @ np.asarray(params["w"][i])) < LOSSLESS


@pytest.mark.parametrize(("values", "expected"), [([1, 1, 1, 1], 4), ([3, 0, 0, 0], 1), ([0, 0, 0, 0], 0)])
def test_effective_rank_at_its_limits(values, expected):
    assert float(utilized_rank.effective_rank(np.asarray(values, np.float64))) == pytest.approx(expected)


def test_effective_rank_does_not_hide_behind_one_massive_channel():
    _, _, table, params, _ = layer(0)
    rows = draw(1, 64, 8) * np.array([100, *[1] * 7])
    use = utilized_rank.utilization(table, params, moments_of(rows), energy=0.99)["w"]
    assert use.inputs == 1 < use.effective_inputs
    p = np.linalg.svd(rows, compute_uv=False) ** 2
    p /= p.sum()
    assert use.effective_inputs == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_parameters_of_a_vision_transformer_at_the_published_utilization():
    """ViT-B/16 at u = .35: 768 x 768 layers keep .70, the MLP's .44; together about half, as published."""
    sizes = {"q": (768, 768), "k": (768, 768), "v": (768, 768), "o": (768, 768), "up": (768, 3072), "down": (3072, 768)}
    params = {path: jax.ShapeDtypeStruct(size, jnp.float32) for path, size in sizes.items()}
    x = {path: jax.ShapeDtypeStruct((1, size[0]), jnp.float32) for path, size in sizes.items()}
    table = capture.layers(lambda p, x: [x[path] @ p[path] for path in p], params, x)
    ratio = utilized_rank.parameters_ratio(table, dict.fromkeys(table, round(0.35 * 768)))
    assert ratio == pytest.approx(0.525, abs=0.002)
    assert utilized_rank.parameters_ratio(table, dict.fromkeys(table, 768)) == 1


def test_spectra_are_the_squared_singular_values_and_serve_as_moments():
    x, kernel, table, params, moments = layer(0, rank=5)
    solved = spectra(table, params, moments)
    np.testing.assert_allclose(solved["w"].inputs.energies[:5], np.linalg.svd(x)[1][:5] ** 2, rtol=1e-9)
    np.testing.assert_allclose(solved["w"].outputs.energies[:5], np.linalg.svd(x @ kernel)[1][:5] ** 2, rtol=1e-9)
    assert not solved["w"].inputs.energies[5:].any()
    assert spectra(table, params, solved)["w"] is solved["w"]
    for energy in (0.8, 1.0):
        one, other = (utilized_rank.project(table, params, m, energy=energy)["w"] for m in (moments, solved))
        np.testing.assert_array_equal(one, other)


def test_layers_that_read_the_same_rows_share_one_solve():
    fork = lambda p, x: (x @ p["a"], x @ p["b"])  # noqa: E731
    params = {name: jnp.asarray(draw(seed, 4, 3), jnp.float32) for seed, name in enumerate("ab")}
    x = jnp.asarray(draw(2, 20, 4), jnp.float32)
    moments = capture.collect(fork, params, [x], dtype="float64")
    solved = spectra(capture.layers(fork, params, x), params, moments)
    assert solved["a"].inputs is solved["b"].inputs


def test_ranks_are_rounded_up():
    _, _, table, params, moments = layer(0, rank=5)
    use = utilized_rank.utilization(table, params, moments, energy=1.0)
    assert utilized_rank.ranks(use, multiple=8) == {"w": 8}
    assert utilized_rank.ranks(use) == {"w": 5}
