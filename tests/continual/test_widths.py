"""The channels that a task needs: counted from covariances, against the card's own recursion on the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.continual import widths
from subspace_jax.core import moments as _moments
from subspace_jax.core.moments import Moments

SEEDS = st.integers(0, 2**31 - 1)
SHARES = st.sampled_from([0.3, 0.8, 0.95, 0.999])
M, N = 9, 40


def rows(seed, n=N, m=M):
    """Outputs whose channels depend on each other, not centred."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, m)) * 0.6 ** np.arange(m) @ rng.normal(size=(m, m)) + rng.normal(size=m)


def sums(x):
    return Moments(x.T @ x, x.sum(0), float(len(x)))


def covariance(x):
    return _moments.covariance(sums(x))


def wide(fn, cov, *args, **options):
    with jax.enable_x64(True):
        return int(fn(jnp.asarray(cov, jnp.float64), *args, **options))


def count_by_projection(x, core, v):
    """R = A - Q Q'A on the rows themselves, and the loop of the paper."""
    x = x - x.mean(0)
    basis = np.linalg.svd(x[:, :core], full_matrices=False)[0] if core else np.zeros((len(x), 0))
    rest = x[:, core:] - basis @ (basis.T @ x[:, core:])
    total, energies = (x[:, core:] ** 2).sum(), np.linalg.svd(rest, compute_uv=False) ** 2
    explained, k = (total - energies.sum()) / total, 0
    while explained < v:
        explained, k = explained + energies[k] / total, k + 1
    return k


@given(SEEDS, st.integers(0, M - 1), SHARES)
def test_the_schur_complement_counts_what_the_projection_of_the_rows_counts(seed, core, v):
    x = rows(seed)
    assert wide(widths.residual_count, covariance(x), core, v=v) == count_by_projection(x, core, v)


@given(SEEDS, SHARES)
def test_the_first_task_counts_the_singular_values_below_the_share(seed, v):
    x = rows(seed)
    energies = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    expected = int((np.cumsum(energies) / energies.sum() < v).sum())
    assert wide(widths.pca_count, covariance(x), v=v) == expected
    assert wide(widths.residual_count, covariance(x), 0, v=v) == expected + 1


@given(SEEDS, st.integers(1, M), SHARES)
def test_combinations_of_the_core_need_nothing(seed, core, v):
    x = rows(seed)
    x[:, core:] = x[:, :core] @ np.random.default_rng(seed).normal(size=(core, M - core))
    assert wide(widths.residual_count, covariance(x), core, v=v) == 0


@given(SEEDS, st.integers(0, M), SHARES, st.sampled_from([1e-3, 7.0]))
def test_scale_and_constants_do_not_count(seed, core, v, scale):
    x = rows(seed)
    other = scale * x + np.random.default_rng(seed).normal(size=M)
    assert wide(widths.residual_count, covariance(other), core, v=v) == wide(
        widths.residual_count, covariance(x), core, v=v
    )


@given(SEEDS, st.integers(0, M))
def test_a_larger_share_counts_no_fewer_and_no_more_than_there_are(seed, core):
    x = rows(seed)
    counts = [wide(widths.residual_count, covariance(x), core, v=v) for v in (0.2, 0.5, 0.8, 0.95, 1.0)]
    assert counts == sorted(counts)
    assert counts[-1] <= M - core


@given(SEEDS, st.integers(1, M))
def test_the_whole_variance_takes_as_many_directions_as_the_rows_have(seed, rank):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=shape))[0] for shape in [(N, rank), (M, rank)])
    assert wide(widths.residual_count, covariance((left - left.mean(0)) @ right.T), 0, v=1) == rank


def test_dead_channels_count_nothing_and_a_dead_core_explains_nothing():
    x = rows(0)
    x[:, 4:] = 1.5
    assert wide(widths.residual_count, covariance(x), 4, v=0.9) == 0
    assert (
        wide(widths.residual_count, np.zeros((M, M)), 0, v=0.9) == wide(widths.pca_count, np.zeros((M, M)), v=0.9) == 0
    )
    x = rows(0)
    x[:, :4] = 0
    assert wide(widths.residual_count, covariance(x), 4, v=0.9) == wide(
        widths.residual_count, covariance(x[:, 4:]), 0, v=0.9
    )


def test_counts_run_compiled_over_layers_and_cores():
    covs = jnp.asarray(np.stack([covariance(rows(seed)) for seed in range(3)]), jnp.float32)
    cores = jnp.array([0, 2, 5])
    count = lambda cov, core: widths.residual_count(cov, core, v=0.8)  # noqa: E731
    one_by_one = [count(cov, core) for cov, core in zip(covs, cores, strict=True)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(count))(covs, cores), jnp.stack(one_by_one))


def test_widths_say_what_bounds_them():
    few, dead = {"a": sums(rows(0, n=5))}, {"a": sums(np.ones((N, M)))}
    with pytest.warns(UserWarning, match="a: 5 rows cannot count 9 channels; measure 900 or more"):
        widths.task_widths(few, {"a": 0}, v=0.9)
    with pytest.warns(UserWarning, match="a: its outputs do not vary; at least 1 channel"):
        assert widths.task_widths(dead, {"a": 0}, v=0.9) == {"a": 1}
    one = {"a": sums(np.outer(np.arange(N), np.arange(M)) * 1.0)}  # one direction holds any share: 0 of it are below
    assert widths.task_widths(one, {"a": 0}, v=0.9) == {"a": 1}
    assert widths.task_widths({"a": sums(rows(0))}, {"a": M}, v={"a": 1.0}) == {"a": M}


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match="got 2"):
        widths.pca_count(jnp.eye(2), v=2)
