"""Push-sum finds the true mean where weights are not balanced, and is plain gossip SGD where they are."""

import jax
import numpy as np
import pytest

from subspace_jax.core import compress, topology
from subspace_jax.decentralized.deep_squeeze import deep_squeeze
from subspace_jax.decentralized.push_sum import push_sum
from tests.decentralized import cases


def irregular():
    """A directed ring with three chords: every agent shares its model equally between itself and who hears it."""
    adjacency = topology.directed_ring(cases.AGENTS)
    adjacency[[3, 5, 6], [0, 0, 2]] = True
    shares = adjacency + np.eye(cases.AGENTS)
    return shares / shares.sum(0)


def times(p, tree):
    """Every agent's tree times its scalar."""
    return jax.tree.map(lambda leaf: np.einsum("i,i...->i...", p, leaf), tree)


def test_without_steps_everybody_finds_the_true_mean():
    start, w = cases.variables(apart=1.0), irregular()
    assert np.abs(w.sum(1) - 1).max() > 0.3
    state, infos = cases.run(push_sum(cases.loss, comm=cases.COMM, weights=w, lr=0.0), steps=300, start=start)
    expected = jax.tree.map(lambda leaf: np.broadcast_to(leaf.mean(0), leaf.shape), start["params"])
    cases.assert_close(state.params, expected, atol=1e-11)
    np.testing.assert_allclose(np.sum(state.memory), cases.AGENTS, atol=1e-11)
    assert np.ptp(state.memory) > 0.3
    size = sum(leaf[0].nbytes for leaf in jax.tree.leaves(start["params"]))
    assert infos.bytes_model.min() >= size + 8


def test_the_sum_of_the_biased_models_stays():
    start = cases.variables(apart=1.0)
    state, _ = cases.run(push_sum(cases.loss, comm=cases.COMM, weights=irregular(), lr=0.0), steps=3, start=start)
    biased = times(state.memory, state.params)
    cases.assert_close(cases.mean(biased), cases.mean(start["params"]))


def test_two_steps_equal_the_formula():
    w, z, p = irregular(), cases.variables(apart=0.3)["params"], np.ones(cases.AGENTS)
    method = push_sum(cases.loss, comm=cases.COMM, weights=w, lr=0.1, weight_decay=0.01)
    state, _ = cases.run(method, steps=2, start={"params": z, "batch_stats": {}})

    for t in range(2):
        g = cases.gradients(z, cases.batch(t))
        x = jax.tree.map(lambda a, b, c: a - 0.1 * (b + 0.01 * c), times(p, z), g, z)
        p = w @ p
        z = times(1 / p, jax.tree.map(lambda leaf: np.tensordot(w, leaf, 1), x))
    cases.assert_close((state.params, state.memory), (z, p))


def test_balanced_weights_are_plain_gossip_and_the_scalar_stays_one():
    w, settings = cases.GRAPHS["chain"], {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    found, _ = cases.run(push_sum(cases.loss, comm=cases.COMM, weights=w, **settings), steps=5)
    exact = {"compressor": compress.identity(), "gamma": 1.0}
    plain, _ = cases.run(deep_squeeze(cases.loss, comm=cases.COMM, weights=w, **settings, **exact), steps=5)
    np.testing.assert_allclose(found.memory, 1, atol=cases.FLOAT64)
    cases.assert_close(found.params, plain.params)


def test_in_float32_the_scalar_is_float32():
    state, _ = cases.run(push_sum(cases.loss, comm=cases.COMM, weights=irregular(), lr=0.1), dtype=np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.memory))} == {np.dtype(np.float32)}


def test_columns_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="column 0 of the mixing weights sums to"):
        push_sum(cases.loss, comm=cases.COMM, weights=irregular().T.copy(), lr=0.1)
