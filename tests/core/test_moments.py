import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from subspace_jax.core import moments

SHAPES = st.sampled_from([(7, 3), (2, 5, 3), (1, 3)])
SEEDS = st.integers(0, 2**31 - 1)
FLOAT32_SUM = 1e-5


def draw(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnames="dtype")
def from_rows(rows, **options):
    return moments.from_rows(rows, **options)


def oracle(rows):
    rows = np.asarray(rows, np.float64)
    return np.einsum("...nd,...ne->...de", rows, rows), rows.sum(-2), float(rows.shape[-2])


def assert_close(ours, theirs, atol=FLOAT32_SUM):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@given(SHAPES, SEEDS)
def test_from_rows_is_the_sum_of_outer_products(shape, seed):
    rows = draw(seed, shape)
    assert_close(from_rows(rows), oracle(rows))


@pytest.mark.parametrize("shape", [(23, 6), (2, 23, 7), (10, 6), (4, 9)])
@pytest.mark.parametrize(("kind", "chunk"), [(np.float32, 5), (np.complex64, 5), (np.float32, 24)])
def test_wide_rows_in_parts_are_one_product(monkeypatch, shape, kind, chunk):
    monkeypatch.setattr(moments, "WIDE", 6)
    monkeypatch.setattr(moments, "CHUNK", chunk)
    rows = draw(0, shape).astype(kind) + (1j * draw(1, shape) if kind is np.complex64 else 0)
    gram = np.asarray(jax.jit(moments.from_rows)(rows).gram)
    wide = rows.astype(np.complex128)
    np.testing.assert_allclose(gram, np.einsum("...nd,...ne->...de", wide.conj(), wide), atol=FLOAT32_SUM)
    half = shape[-1] // 2
    if shape[-2] >= shape[-1]:  # fewer rows than columns are one product
        upper = gram[..., :half, half:]
        np.testing.assert_array_equal(gram[..., half:, :half], upper.conj().swapaxes(-1, -2))
    assert gram.dtype == kind


@given(SEEDS)
def test_merging_batches_is_one_large_batch(seed):
    rows = draw(seed, (21, 3))
    parts = [from_rows(part) for part in (rows[:7], rows[7:14], rows[14:])]
    assert_close(moments.merge(*parts), oracle(rows))


@given(SEEDS)
def test_mean_and_covariance_are_those_of_numpy(seed):
    rows = draw(seed, (7, 3))
    seen = from_rows(rows)
    np.testing.assert_allclose(moments.mean(seen), rows.mean(0), atol=FLOAT32_SUM)
    np.testing.assert_allclose(moments.covariance(seen), np.cov(rows.T, bias=True), atol=FLOAT32_SUM)


@given(SEEDS)
def test_kept_rows_are_the_only_ones_that_count(seed):
    rows, kept = draw(seed, (7, 3)), draw(seed + 1, (7,)) > 0
    masked = np.where(kept[:, None], rows, np.float32([np.nan, np.inf, -np.inf]))  # which may hold anything
    assert_close(from_rows(masked, kept=kept), oracle(rows[kept]))


def test_no_rows_are_zero_moments_with_a_zero_mean():
    nothing = from_rows(np.zeros((0, 3), np.float32))
    assert_close(nothing, moments.zeros(3))
    np.testing.assert_array_equal(moments.covariance(nothing), np.zeros((3, 3)))


def test_devices_add_up_to_the_whole_batch():
    rows = draw(0, (28, 3))
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    add = jax.shard_map(
        lambda part: moments.psum(moments.from_rows(part), "batch"),
        mesh=mesh, in_specs=PartitionSpec("batch"), out_specs=PartitionSpec(),
    )  # fmt: skip
    assert_close(add(rows), oracle(rows))


def test_float64_sums_see_what_float32_sums_lose():
    rows = np.float32([[1e4], *[[1]] * 100])
    with jax.enable_x64(True):
        wide = from_rows(rows, dtype=jnp.float64)
    assert float(wide.gram[0, 0]) == 1e8 + 100


def test_host_moments_stay_float64_when_merged():
    rows = np.random.default_rng(0).normal(size=(5, 2))
    host = moments.Moments(rows.T @ rows, rows.sum(0), np.float64(5))
    both = moments.merge({"layer": host}, {"layer": host})["layer"]
    assert both.gram.dtype == moments.covariance(both).dtype == np.float64
    np.testing.assert_allclose(moments.covariance(both), np.cov(rows.T, bias=True), atol=1e-12)


def test_float64_without_x64_is_refused():
    with pytest.raises(ValueError, match=r"float64 sums need `with jax.enable_x64\(True\):`"):
        moments.from_rows(jnp.ones((2, 2)), dtype=jnp.float64)


@pytest.mark.parametrize("other", [{"a": moments.zeros(3)}, {"b": moments.zeros(2)}])
def test_moments_of_other_layers_do_not_add(other):
    with pytest.raises(ValueError, match="different layers do not add"):
        moments.merge({"a": moments.zeros(2)}, other)
