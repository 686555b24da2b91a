"""DeepSqueeze: exact messages are plain gossip, the mean stays, and what is lost of the models stays between them."""

import jax
import numpy as np
import pytest

from subspace_jax.core import compress
from subspace_jax.decentralized.deep_squeeze import deep_squeeze
from subspace_jax.decentralized.low_precision import gossip_only
from subspace_jax.decentralized.qgm import qgm
from tests.decentralized import cases


def squeeze(**settings):
    return deep_squeeze(cases.loss, comm=cases.COMM, lr=0.1, **({"weights": cases.GRAPHS["ring"]} | settings))


def test_exact_messages_at_full_rate_are_plain_gossip_on_a_graph_that_changes():
    w = cases.GRAPHS["one_peer_exponential"]
    found, _ = cases.run(squeeze(weights=w, compressor=compress.identity(), gamma=1.0), steps=5)
    plain, _ = cases.run(qgm(cases.loss, comm=cases.COMM, weights=w, lr=0.1, mu=0.0, beta=0.0), steps=5)
    cases.assert_close(found.params, plain.params)
    cases.assert_close(found.memory, jax.tree.map(np.zeros_like, found.params))


@pytest.mark.parametrize("compressor", [compress.top_k(0.8), compress.qsgd(4)], ids=["top_k", "qsgd"])
def test_the_mean_of_all_agents_stays(compressor):
    start = cases.variables(apart=1.0)
    method = gossip_only(
        comm=cases.COMM, weights=cases.GRAPHS["chain"], gamma=0.1, compressor=compressor, method="deep_squeeze"
    )
    for params in cases.rounds(method, start, every=3, count=2):
        cases.assert_close(cases.mean(params), cases.mean(start["params"]))
        assert cases.distance(params) != cases.distance(start["params"])


def test_the_distance_falls_to_a_floor_above_zero():
    start = {"params": {"x": np.random.default_rng(0).normal(size=(cases.AGENTS, 1000))}, "batch_stats": {}}
    sparse = compress.top_k(0.9)
    method = gossip_only(
        comm=cases.COMM, weights=cases.GRAPHS["ring"], gamma=0.1, compressor=sparse, method="deep_squeeze"
    )
    distances = [cases.distance(params) for params in cases.rounds(method, start, every=100, count=8)]
    assert 850 < cases.distance(start["params"]) < 900
    assert min(distances[2:]) > 4.5
    assert max(distances[2:]) < 6.5


def test_what_was_lost_is_kept_and_what_is_sent_is_counted():
    state, infos = cases.run(squeeze(compressor=compress.qsgd(4), gamma=0.3), steps=30)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.memory))
    sizes = [leaf[0].size for leaf in jax.tree.leaves(state.params)]
    np.testing.assert_array_equal(infos.bytes_model, 2 * sum(-(-4 * n // 8) + 8 for n in sizes))
    np.testing.assert_array_equal(infos.bytes_cross, 0)
    assert infos.loss[-5:].mean() < 0.7 * infos.loss[:5].mean()


def test_a_rate_beyond_one_is_refused():
    with pytest.raises(ValueError, match="gamma must lie"):
        squeeze(compressor=compress.identity(), gamma=1.1)
