"""CHOCO-SGD: exact messages are plain gossip, the mean stays, and the distance from it falls without a floor."""

import jax
import numpy as np
import pytest

from subspace_jax.core import compress
from subspace_jax.decentralized.choco_sgd import choco_sgd
from subspace_jax.decentralized.low_precision import gossip_only
from subspace_jax.decentralized.qgm import qgm
from tests.decentralized import cases

RING = cases.GRAPHS["ring"]


def choco(**settings):
    return choco_sgd(cases.loss, comm=cases.COMM, lr=0.1, **({"weights": RING} | settings))


def test_exact_messages_at_full_rate_are_plain_gossip():
    w = cases.GRAPHS["chain"]
    found, _ = cases.run(choco(weights=w, compressor=compress.identity(), gamma=1.0), steps=5)
    plain, _ = cases.run(qgm(cases.loss, comm=cases.COMM, weights=w, lr=0.1, mu=0.0, beta=0.0), steps=5)
    cases.assert_close(found.params, plain.params)
    cases.assert_close(found.memory.mixed, found.params)  # S = W x^, and x^ was x before the exchange


@pytest.mark.parametrize("compressor", [compress.top_k(0.8), compress.qsgd(4, biased=True)], ids=["top_k", "qsgd"])
def test_the_mean_of_all_agents_stays(compressor):
    start = cases.variables(apart=1.0)
    method = gossip_only(
        comm=cases.COMM, weights=cases.GRAPHS["chain"], gamma=0.1, compressor=compressor, method="choco"
    )
    for params in cases.rounds(method, start, every=3, count=2):
        cases.assert_close(cases.mean(params), cases.mean(start["params"]))
        assert cases.distance(params) != cases.distance(start["params"])


def test_the_distance_falls_by_the_same_factor_without_a_floor():
    start = {"params": {"x": np.random.default_rng(0).normal(size=(cases.AGENTS, 1000))}, "batch_stats": {}}
    sparse = compress.top_k(0.9)
    method = gossip_only(comm=cases.COMM, weights=RING, gamma=0.1, compressor=sparse, method="choco")
    distances = np.array([cases.distance(params) for params in cases.rounds(method, start, every=100, count=10)])
    factors = distances[2:] / distances[1:-1]
    assert factors.max() < 0.02  # exact messages at this rate give (1 - .1 gap)^200 = .0193
    assert factors.max() / factors.min() < 1.1
    assert distances[-1] < 1e-16 * cases.distance(start["params"])


def test_what_an_agent_knows_of_its_neighbourhood_is_the_mean_of_their_copies():
    state, infos = cases.run(choco(compressor=compress.top_k(0.5), gamma=0.3), steps=30)
    expected = jax.tree.map(lambda own: np.tensordot(RING, own, 1), state.memory.own)
    cases.assert_close(state.memory.mixed, expected)
    kept = sum(leaf[0].size // 2 for leaf in jax.tree.leaves(state.params))
    np.testing.assert_array_equal(infos.bytes_model, 2 * kept * (8 + 4))  # to two neighbours: a value and its place
    np.testing.assert_array_equal(infos.bytes_cross, 0)
    assert infos.loss[-5:].mean() < 0.7 * infos.loss[:5].mean()


def test_a_graph_that_changes_is_refused():
    with pytest.raises(ValueError, match="CHOCO takes one mixing matrix for all steps; got 3: use DeepSqueeze"):
        choco(weights=cases.GRAPHS["one_peer_exponential"], compressor=compress.identity())


def test_a_rate_beyond_one_is_refused():
    with pytest.raises(ValueError, match="gamma must lie"):
        choco(compressor=compress.identity(), gamma=1.1)
