"""Averages over a sparse graph against powers of W in NumPy, and closed forms of their rates."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import topology
from subspace_jax.parallel import asap
from tests.parallel import cases

SEEDS = st.integers(0, 2**31 - 1)
FLOAT64 = 1e-12


@given(SEEDS, st.sampled_from([*cases.UNDIRECTED, *cases.DIRECTED]), st.integers(0, 6))
def test_the_mean_is_kept_and_the_distance_from_it_falls_by_the_bound(seed, name, rounds):
    w = cases.weights(name, 6, seed)
    x = np.random.default_rng(seed).normal(size=(len(w), 3, 2))
    found = asap.stochastic_reduce(x, w, rounds=rounds)
    expected = (np.linalg.matrix_power(w, rounds) @ x.reshape(len(w), -1)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, atol=FLOAT64)
    np.testing.assert_allclose(found.mean(0), x.mean(0), atol=FLOAT64)
    before, after = (np.linalg.norm(values - x.mean(0)) for values in (x, found))
    assert after <= asap.contraction(w) ** rounds * before + FLOAT64


def test_one_round_is_exact_on_the_complete_graph_and_log_n_rounds_of_pairs_are():
    x = np.random.default_rng(0).normal(size=(8, 3))
    for w, rounds in ((topology.weights("full", 8), 1), (topology.one_peer_exponential(8), 3)):
        found = asap.stochastic_reduce(x, w, rounds=rounds)
        np.testing.assert_allclose(found, np.tile(x.mean(0), (8, 1)), atol=FLOAT64)


def test_rows_alone_lead_to_the_mean_of_their_left_eigenvector():
    w = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.1, 0.0, 0.9]])
    values, vectors = np.linalg.eig(w.T)
    pi = np.real(vectors[:, np.argmax(values.real)])
    x = np.random.default_rng(0).normal(size=(3, 2))
    found = asap.stochastic_reduce(x, w, rounds=400)
    np.testing.assert_allclose(found, np.tile(pi @ x / pi.sum(), (3, 1)), atol=1e-9)


@pytest.mark.parametrize("n", [5, 8, 16])
def test_the_rate_of_a_ring_is_its_closed_form_and_the_cost_follows(n):
    rho = (1 + 2 * np.cos(2 * np.pi / n)) / 3
    w = topology.weights("ring", n)
    assert asap.contraction(w) == pytest.approx(rho, abs=FLOAT64)
    cost = asap.reduce_cost(w, error=0.01)
    assert rho**cost.rounds <= 0.01 < rho ** (cost.rounds - 1)
    assert cost.messages == 2 * cost.rounds
    assert asap.reduce_cost(topology.weights("full", n), error=0.01) == (1, n - 1)


def test_pairs_in_a_directed_ring_need_not_come_closer():
    w = np.roll(np.eye(3), 1, 1)
    assert asap.contraction(w) == pytest.approx(1)
    with pytest.raises(ValueError, match="need not bring the workers closer"):
        asap.reduce_cost(w, error=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asap.stochastic_reduce(np.ones((4, 1)), np.kron(np.eye(2), np.full((2, 2), 0.5)), rounds=1), "2 comp"),
        (lambda: asap.stochastic_reduce(np.ones((2, 1)), np.full((2, 2), 0.6), rounds=1), "sums to 1.2"),
        (lambda: asap.stochastic_reduce(np.ones((3, 1)), np.full((2, 2), 0.5), rounds=1), "weights are of 2 agents"),
        (lambda: asap.stochastic_reduce(np.ones((2, 1)), np.full((2, 2), 0.5), rounds=-1), "rounds are at least 0"),
        (lambda: asap.reduce_cost(topology.weights("ring", 4), error=1.0), "error is the share"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(SEEDS, st.sampled_from([(6, 3), (8, 4), (9, 2), (7, 6)]))
def test_a_random_regular_graph_is_one(seed, size):
    n, degree = size
    adjacency = topology.random_regular(jax.random.key(seed), n, degree=degree)
    assert adjacency.dtype == bool
    np.testing.assert_array_equal(adjacency, adjacency.T)
    assert not adjacency.diagonal().any()
    np.testing.assert_array_equal(adjacency.sum(0), degree)


def test_the_best_expander_is_connected_and_the_best_of_those_drawn():
    key, radii = jax.random.key(3), []
    for trial in range(12):
        adjacency = topology.random_regular(jax.random.fold_in(key, trial), 8, degree=2)
        w = topology.metropolis_hastings(adjacency)
        radii.append(np.sort(np.abs(np.linalg.eigvalsh(w)))[-2])
    assert max(radii) > 1 - FLOAT64  # two rings among them
    best = topology.best_expander(key, 8, degree=2, trials=12)
    assert topology.components(best) == 1
    assert topology.spectral_radius(topology.metropolis_hastings(best)) == pytest.approx(min(radii))
    assert topology.spectral_gap(topology.metropolis_hastings(topology.best_expander(key, 16, degree=4))) > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: topology.random_regular(key, 5, degree=3), "n 5 and degree 3"),
        (lambda key: topology.random_regular(key, 4, degree=4), "n 4 and degree 4"),
        (lambda key: topology.best_expander(key, 6, degree=3, trials=0), "trials must be at least 1"),
        (lambda key: topology.best_expander(key, 6, degree=1, trials=5), "none of 5 graphs"),
    ],
)
def test_graphs_that_do_not_exist_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0))
