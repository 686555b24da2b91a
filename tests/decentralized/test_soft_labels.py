"""Soft labels on the wire and merged: against dense sums over neighbours in NumPy."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import exchange, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import soft_labels
from tests.decentralized.cases import AGENTS, COMM, GRAPHS

SAMPLES, CLASSES = 11, 3
SEEDS, RULES = st.integers(0, 2**31 - 1), ("mean", "owner", "hop")
ROUNDED = 1e-6  # float32 sums of at most eight probabilities


def labels_of(seed):
    """(labels, mask, held) of all agents; labels are zero where the mask is False."""
    rng = np.random.default_rng(seed)
    mask = rng.random((AGENTS, SAMPLES)) < 0.4
    labels = rng.dirichlet(np.ones(CLASSES), (AGENTS, SAMPLES)).astype(np.float32) * mask[..., None]
    return labels, mask, rng.integers(0, 4, (AGENTS, CLASSES)).astype(np.int32)


@functools.cache
def merge(graph="ring", rule="mean", devices=1):
    comm = Comm(AGENTS, devices)
    run = exchange.vmap if devices == 1 else exchange.shard_map
    spread = jax.jit(run(soft_labels.merger(comm, GRAPHS[graph], rule), comm))
    return lambda labels, mask, held: exchange.fetch(spread(*exchange.place((labels, mask, held), comm)))


def choose(rule, agent, givers, labels, held, sample):
    """The merged label of one sample at one agent."""
    if rule == "hop" and agent in givers:
        return labels[agent, sample]
    if rule == "owner":
        best = max(givers, key=lambda j: (held[j, labels[j, sample].argmax()], -j))
        return labels[best, sample]
    return np.mean([labels[j, sample] for j in givers], axis=0)


def dense(rule, labels, mask, held, graph="ring"):
    heard = GRAPHS[graph].reshape(-1, AGENTS, AGENTS).any(0)
    found, covered = np.zeros_like(labels), np.zeros_like(mask)
    for i, sample in np.ndindex(*mask.shape):
        givers = [j for j in range(AGENTS) if mask[j, sample] and (heard[i, j] or i == j)]
        covered[i, sample] = bool(givers)
        if givers:
            found[i, sample] = choose(rule, i, givers, labels, held, sample)
    return found, covered


def size(mask, classes=CLASSES):
    """Bytes of one message."""
    return -(-mask.shape[-1] // 8) + 4 * classes * mask.sum(-1)


@given(SEEDS, st.sampled_from(RULES))
def test_a_merged_label_is_what_the_rule_says_of_all_neighbours(seed, rule):
    labels, mask, held = labels_of(seed)
    found, covered, _ = merge(rule=rule)(labels, mask, held)
    expected = dense(rule, labels, mask, held)
    np.testing.assert_array_equal(covered, expected[1])
    np.testing.assert_allclose(found, expected[0], atol=ROUNDED)
    np.testing.assert_allclose(found.sum(-1), covered, atol=ROUNDED)
    assert (found[~covered] == 0).all()


@pytest.mark.parametrize("graph", ["chain", "one_peer_exponential"])
def test_any_graph_serves_one_that_changes_by_all_its_edges(graph):
    labels, mask, held = labels_of(1)
    found, covered, _ = merge(graph, "owner")(labels, mask, held)
    expected = dense("owner", labels, mask, held, graph)
    np.testing.assert_array_equal(covered, expected[1])
    np.testing.assert_allclose(found, expected[0], atol=ROUNDED)


@given(SEEDS)
def test_a_message_arrives_as_it_was_sent_and_is_as_long_as_its_mask_says(seed):
    labels, mask, held = (part[0] for part in labels_of(seed))
    wire = jax.jit(soft_labels.encode)(labels, mask)
    sent, count = int(soft_labels.nbytes(wire)), int(mask.sum())
    assert sent == size(mask) == np.asarray(wire.mask).nbytes + np.asarray(wire.rows[:count]).nbytes
    travelled = np.asarray(wire.mask).tobytes() + np.asarray(wire.rows[:count]).tobytes()
    bits, rest = travelled[:2], np.frombuffer(travelled[2:], np.float32).reshape(-1, CLASSES)
    received = soft_labels.Wire(
        np.frombuffer(bits, np.uint8), np.concatenate([rest, np.zeros((SAMPLES - count, CLASSES), np.float32)])
    )
    found, given = soft_labels.decode(jax.tree.map(jax.numpy.asarray, received))
    np.testing.assert_array_equal(given, mask)
    np.testing.assert_array_equal(found, labels)
    assert int(soft_labels.nbytes(wire._replace(held=held))) == sent + 4 * CLASSES


@pytest.mark.parametrize("rule", RULES)
def test_bytes_are_two_messages_on_a_ring(rule):
    labels, mask, held = labels_of(2)
    sent = merge(rule=rule)(labels, mask, held)[2]
    np.testing.assert_array_equal(sent, 2 * (size(mask) + 4 * CLASSES * (rule == "owner")))


@given(SEEDS, st.sampled_from(RULES))
def test_a_single_giver_is_believed(seed, rule):
    labels, mask, held = labels_of(seed)
    alone = mask & (np.arange(AGENTS) == seed % AGENTS)[:, None]
    found, covered, _ = merge("full", rule)(labels * alone[..., None], alone, held)
    giver = seed % AGENTS
    np.testing.assert_array_equal(covered, np.broadcast_to(mask[giver], mask.shape))
    np.testing.assert_array_equal(found, np.broadcast_to(labels[giver], labels.shape))


@pytest.mark.parametrize("rule", ["mean", "owner"])
def test_on_a_complete_graph_all_hold_the_same_labels(rule):
    found, covered, _ = merge("full", rule)(*labels_of(3))
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), atol=ROUNDED)
    assert (covered == covered[0]).all()


@given(SEEDS)
def test_the_mean_does_not_depend_on_who_is_who_and_stays_between_its_labels(seed):
    labels, mask, held = labels_of(seed)
    order = np.random.default_rng(seed).permutation(AGENTS)
    found = merge("full")(labels, mask, held)[0]
    moved = merge("full")(labels[order], mask[order], held[order])[0]
    np.testing.assert_allclose(moved, found[order], atol=ROUNDED)
    low = np.where(mask[..., None], labels, 1).min(0)
    covered = mask.any(0)
    assert (found[:, covered] >= low[covered] - ROUNDED).all()
    assert (found[:, covered] <= labels.max(0)[covered] + ROUNDED).all()


@pytest.mark.parametrize("rule", RULES)
def test_each_exchange_spreads_labels_by_one_edge(rule):
    labels, mask, held = labels_of(4)
    own, hops = mask, (GRAPHS["ring"] > 0).astype(int)
    for k in range(1, 4):
        labels, mask, _ = merge(rule=rule)(labels, mask, held)
        np.testing.assert_array_equal(mask, np.linalg.matrix_power(hops, k) @ own.astype(int) > 0)
        np.testing.assert_allclose(labels.sum(-1), mask, atol=ROUNDED)


def test_over_devices_it_is_the_same():
    for found, expected in zip(merge(devices=2)(*labels_of(5)), merge()(*labels_of(5)), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("weights", "rule", "message"),
    [
        (GRAPHS["ring"], "median", "one of mean, owner, hop; got 'median'"),
        (topology.weights("ring", 5), "mean", "5"),
        (np.ones((AGENTS, AGENTS)), "mean", "sum"),
    ],
)
def test_what_merges_nothing_is_refused(weights, rule, message, unchecked):
    with pytest.raises(ValueError, match=message):
        soft_labels.merger(COMM, weights, rule)
