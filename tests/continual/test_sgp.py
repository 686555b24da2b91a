"""Importances against the formulas of the paper by SVD of the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.continual import gpm, sgp
from subspace_jax.core import capture
from tests.continual.cases import FLOAT32, basis_by_svd, empty, host, moments_of, projector, rows

SHAPES = st.sampled_from([(40, 6), (4, 9)])
SEEDS = st.integers(0, 2**31 - 1)
ROUNDED = 1e-5  # of float32 products of some ten numbers
TABLE = capture.layers(lambda p, x: x @ p["w"], {"w": jnp.zeros((8, 5))}, jnp.zeros((1, 8)))


def learned(tasks, **options):
    d, lead = tasks[0].shape[-1], tasks[0].shape[:-2]
    state = sgp.SGPState(empty(d, *lead), {"w": jnp.zeros((*lead, d))})
    for x in tasks:
        state = sgp.update(state, moments_of(x), **options)
    return state


def scaled_projector_by_svd(tasks, energy, a):
    """M diag(importance) M' after the tasks."""
    importance = np.zeros(0)
    for t, x in enumerate(tasks):
        basis = basis_by_svd(tasks[: t + 1], energy)
        old = basis[:, : len(importance)]
        u, c, _ = np.linalg.svd(old @ old.T @ x.T, full_matrices=False)
        sigma = np.sqrt(((old.T @ u) ** 2 * c**2).sum(1))
        fresh = np.linalg.svd(x.T - old @ old.T @ x.T, compute_uv=False)[: basis.shape[1] - len(importance)]
        values = np.concatenate([sigma, fresh])
        new = (a + 1) * values / (a * values + values.max())
        new[: len(importance)] = np.clip(new[: len(importance)] + importance, 0, 1)
        importance = new
    return basis * importance @ basis.T


@given(SHAPES, SEEDS, st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from([0.0, 1.0, 10.0]))
def test_the_scaled_projector_is_that_of_the_paper(shape, seed, energy, a):
    tasks = [rows(seed + 2 * t, *shape) for t in range(3)]
    state = learned(tasks, energy=energy, a=a)
    basis, importance = np.asarray(state.bases["w"].basis, np.float64), np.asarray(state.importance["w"], np.float64)
    np.testing.assert_allclose(basis * importance @ basis.T, scaled_projector_by_svd(tasks, energy, a), atol=ROUNDED)
    rank = int(state.bases["w"].rank)
    assert ((importance[:rank] > 0) & (importance[:rank] <= 1)).all()
    assert not importance[rank:].any()


@given(SEEDS)
def test_importances_never_fall_and_the_same_task_again_raises_them(seed):
    x = rows(seed, 20, 6)
    once, twice = (learned([x] * n, energy=0.9, a=1.0).importance["w"] for n in (1, 2))
    rank = int((once > 0).sum())
    np.testing.assert_allclose(twice[:rank], np.minimum(2 * once[:rank], 1), atol=ROUNDED)


def test_a_large_slope_is_gpm():
    x, params = rows(0, 20, 8), {"w": jnp.asarray(host(1, 8, 5), jnp.float32)}
    state = learned([x], energy=0.9, a=1e9)
    hard = gpm.GPMState(gpm.update(empty(8), moments_of(x), energy=0.9))
    soft, _ = sgp.sgp(TABLE).update(params, state)
    expected, _ = gpm.gpm(TABLE).update(params, hard)
    np.testing.assert_allclose(soft["w"], expected["w"], atol=ROUNDED)


@pytest.mark.parametrize("width", [5, 9])
def test_an_update_loses_its_share_of_each_direction(width):
    table = capture.layers(lambda p, x: x @ p["w"], {"w": jnp.zeros((8, width))}, jnp.zeros((1, 8)))
    state, updates = learned([rows(0, 20, 8)], energy=0.9, a=3.0), {"w": jnp.asarray(host(1, 8, width), jnp.float32)}
    passed, after = jax.jit(sgp.sgp(table).update)(updates, state)
    basis = np.asarray(state.bases["w"].basis, np.float64)
    kept = (1 - np.asarray(state.importance["w"], np.float64))[:, None] * (basis.T @ updates["w"])
    outside = updates["w"] - projector(state.bases["w"]) @ updates["w"]
    np.testing.assert_allclose(passed["w"], outside + basis @ kept, atol=ROUNDED)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_leading_axes_are_a_batch():
    tasks = [np.stack([rows(6 * t + 2 * i, 20, 6) for i in range(3)]) for t in range(2)]
    together = learned(tasks, energy=0.9, a=3.0).importance["w"]
    for i in range(3):
        alone = learned([x[i] for x in tasks], energy=0.9, a=3.0).importance["w"]
        np.testing.assert_allclose(together[i], alone, atol=FLOAT32)


def test_a_layer_without_energy_is_finite():
    x = rows(0, 20, 6)
    state = learned([0 * x, x, 0 * x], energy=0.9)
    np.testing.assert_array_equal(state.importance["w"], learned([x], energy=0.9).importance["w"])


def test_the_state_is_found_and_set_in_a_chain_and_passes_everything_at_first():
    params = {"w": jnp.asarray(host(1, 8, 5), jnp.float32)}
    tx = optax.chain(optax.sgd(1.0), sgp.sgp(TABLE))
    opt_state = tx.init(params)
    updates, opt_state = tx.update(params, opt_state, params)
    np.testing.assert_array_equal(updates["w"], -params["w"])
    state = sgp.update(optax.tree.get(opt_state, "SGPState"), moments_of(rows(0, 20, 8)), energy=0.9)
    opt_state = optax.tree.set(opt_state, SGPState=state)
    jax.tree.map(np.testing.assert_array_equal, optax.tree.get(opt_state, "bases"), state.bases)
    updates, _ = jax.jit(tx.update)(params, opt_state, params)
    assert np.linalg.norm(updates["w"]) < np.linalg.norm(params["w"])
