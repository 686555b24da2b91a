"""Cross-Gradient Aggregation: the quadratic programme against its conditions and another solver, and a whole step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from subspace_jax.core import compress, topology
from subspace_jax.decentralized.cga import RIDGE, aggregate, cga, least_quadratic
from subspace_jax.decentralized.gossip import d_psgd
from tests.decentralized import cases

RING = cases.GRAPHS["ring"]
MARGIN = 0.5
SEEDS = st.integers(0, 2**31 - 1)
DEGREES = st.sampled_from([2, 4])
FLOAT32_VALUE = 1e-4  # of the value of the programme, whose matrix has a condition of up to 1e6

solve = jax.jit(least_quadratic, static_argnums=2)
combine = jax.jit(aggregate, static_argnums=2)


def programme(seed, degree, n=12):
    """A random own gradient, and cross-gradients that share a direction, so that all kinds of active sets occur."""
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=n), rng.normal(size=n)
    return own, rng.normal(size=(degree, n)) + rng.choice([-2, 0, 2]) * shared - rng.choice([0, 1, 3]) * own


def matrices(own, cross):
    gram = cross @ cross.T
    return gram / gram.trace() + RIDGE * np.eye(len(cross)), cross @ own / gram.trace()


def value(v, P, q):
    return v @ P @ v / 2 + q @ v


def by_active_sets(P, q):
    """The same programme as a least-squares problem over what exceeds the margin, P = R'R."""
    R = np.linalg.cholesky(P).T
    return MARGIN + nnls(R, -np.linalg.solve(R.T, q) - R @ np.full(len(q), MARGIN))[0]


@given(SEEDS, DEGREES)
def test_the_solution_meets_the_conditions_of_karush_kuhn_and_tucker(seed, degree):
    P, q = matrices(*programme(seed, degree))
    with jax.enable_x64(True):
        v = np.asarray(solve(P, q, MARGIN))
    pull = P @ v + q
    assert (v >= MARGIN).all()
    assert (pull > -1e-9).all()
    np.testing.assert_allclose((v - MARGIN) * pull, 0, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", [2, 4])
def test_the_solution_equals_that_of_an_active_set_solver(seed, degree):
    P, q = matrices(*programme(seed, degree))
    with jax.enable_x64(True):
        found = np.asarray(solve(P, q, MARGIN))
    np.testing.assert_allclose(found, by_active_sets(P, q), atol=1e-8)


@given(SEEDS, DEGREES)
def test_in_float32_the_direction_is_as_good(seed, degree):
    own, cross = programme(seed, degree)
    P, q = matrices(own, cross)
    with jax.enable_x64(True):
        exact = np.asarray(solve(P, q, MARGIN))
    found = np.asarray(solve(jnp.float32(P), jnp.float32(q), MARGIN), np.float64)
    assert value(found, P, q) <= value(exact, P, q) + FLOAT32_VALUE * (1 + abs(value(exact, P, q)))
    direction = combine(jnp.float32(own), jnp.float32(cross), MARGIN)
    np.testing.assert_allclose(direction, own + exact @ cross, atol=2e-2 * np.abs(own).max())


def test_with_margin_zero_no_neighbour_objects():
    own, cross = programme(3, 3)
    assert (cross @ own).min() < 0
    with jax.enable_x64(True):
        direction = np.asarray(combine(own, cross, 0.0))
    assert (cross @ direction).min() > -1e-4


def test_equal_gradients_keep_their_direction_and_absent_neighbours_add_nothing():
    own = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for degree in (2, 4):
        np.testing.assert_allclose(combine(own, np.stack([own] * degree), MARGIN), own * (1 + degree / 2), rtol=1e-5)
    some = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    padded = np.concatenate([some, np.zeros_like(some)])
    np.testing.assert_allclose(combine(own, padded, MARGIN), combine(own, some, MARGIN), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(combine(own, np.zeros_like(some), MARGIN), own)


def test_a_gradient_that_is_no_number_is_not_hidden():
    ones, broken = np.ones((3, 4), np.float32), np.ones((2, 3, 4), np.float32)
    broken[1, 0, 2] = np.nan
    assert np.isnan(combine(ones, broken, MARGIN)[0, 2])
    assert np.isnan(combine(broken[1], np.stack([ones, ones]), MARGIN)[0, 2])


def test_a_step_equals_the_formula_on_an_irregular_graph():
    w, start, gamma = cases.GRAPHS["chain"], cases.variables(apart=0.5), 0.3
    state, infos = cases.run(cga(cases.loss, comm=cases.COMM, weights=w, lr=0.1, gamma=gamma), start=start)
    g = cases.pairs(start["params"], cases.batch(0))
    for name, x in start["params"].items():
        for i in range(cases.AGENTS):
            others = [j for j in range(cases.AGENTS) if j != i and w[i, j]]
            own, cross = w[i, i] * g[name][i, i].ravel(), np.stack([w[i, j] * g[name][j, i].ravel() for j in others])
            direction = own + by_active_sets(*matrices(own, cross)) @ cross
            expected = x[i] - 0.1 * direction.reshape(x[i].shape) + gamma * (np.tensordot(w[i], x, 1) - x[i])
            np.testing.assert_allclose(state.params[name][i], expected, atol=1e-6)
    degree = (w > 0).sum(1) - 1
    size = sum(leaf[0].nbytes for leaf in jax.tree.leaves(start["params"]))
    np.testing.assert_array_equal(infos.bytes_model[0], degree * size)
    np.testing.assert_array_equal(infos.bytes_cross[0], degree * size)
    assert (infos.cosine < 1).all()


def test_compressed_gradients_keep_their_errors_and_are_counted():
    method = cga(cases.loss, comm=cases.COMM, weights=RING, lr=0.1, compressor=compress.sign())
    state, infos = cases.run(method, steps=60)
    assert len(state.memory) == 3
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.memory))
    sizes = [leaf[0].size for leaf in jax.tree.leaves(state.params)]
    np.testing.assert_array_equal(infos.bytes_cross, 2 * sum(-(-n // 8) + 8 for n in sizes))
    np.testing.assert_array_equal(infos.bytes_model, 2 * 8 * sum(sizes))
    assert infos.loss[-10:].mean() < 0.7 * infos.loss[:10].mean()


def test_the_mean_of_all_agents_stays_where_no_step_is_taken():
    start = cases.variables(apart=1.0)
    method = cga(cases.loss, comm=cases.COMM, weights=cases.GRAPHS["chain"], lr=0.0)
    state, _ = cases.run(method, steps=3, start=start)
    cases.assert_close(cases.mean(state.params), cases.mean(start["params"]))
    assert cases.distance(state.params) < cases.distance(start["params"])


def test_agents_alone_train_alone():
    method = cga(cases.loss, comm=cases.COMM, weights=np.eye(cases.AGENTS), lr=0.1)
    plain = d_psgd(cases.loss, comm=cases.COMM, weights=np.eye(cases.AGENTS), lr=0.1)
    cases.assert_close(cases.run(method, steps=2)[0].params, cases.run(plain, steps=2)[0].params, atol=0)


def test_bad_settings_are_refused():
    def build(weights=RING, agents=8, **settings):
        return cga(cases.loss, comm=cases.Comm(agents), weights=weights, lr=0.1, **settings)

    with pytest.raises(ValueError, match=r"but the reverse edge .* is missing"):
        build(topology.weights("directed_ring", 8))
    with pytest.raises(ValueError, match="all sets of at most 8 neighbours; this graph takes 9"):
        build(topology.weights("full", 10), agents=10)
    with pytest.raises(ValueError, match="one square matrix"):
        build(np.stack([RING, RING]))
    with pytest.raises(ValueError, match="margin is the least weight of a cross-gradient, not negative; got -1"):
        build(margin=-1.0)
    with pytest.raises(ValueError, match="gamma must lie"):
        build(gamma=-0.1)
    with pytest.raises(ValueError, match="keeps running statistics"):
        build().init(None, {"params": {}, "batch_stats": {"mean": np.zeros(3)}})
