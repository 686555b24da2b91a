"""Gossip and D-PSGD against dense NumPy."""

from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import exchange, topology
from subspace_jax.decentralized import gossip, ngc, qgm, state
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, COMM, GRAPHS

MIX = {name: gossip.mixing(COMM, weights) for name, weights in GRAPHS.items()}


def test_the_gradients_that_formulas_are_tested_with_are_those_of_the_loss():
    params, batch = cases.variables(apart=0.5)["params"], cases.batch(0)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda params, batch: cases.loss(params, {}, batch, None)[0])
        everywhere = jax.jit(jax.vmap(jax.vmap(gradient, (0, None)), (None, 0)))  # [i, j]: data of i, model of j
        found = jax.device_get(everywhere(params, batch))
    cases.assert_close(cases.pairs(params, batch), found)
    own = jax.tree.map(lambda leaf: leaf[np.arange(AGENTS), np.arange(AGENTS)], found)
    cases.assert_close(cases.gradients(params, batch), own)


@pytest.mark.parametrize("name", GRAPHS)
def test_mixing_is_the_dense_product_keeps_the_mean_and_sends_one_copy_to_each_who_hears_it(name):
    tree, stack = cases.variables(apart=1.0)["params"], GRAPHS[name].reshape(-1, AGENTS, AGENTS)
    with jax.enable_x64(True):
        run = jax.jit(exchange.vmap(lambda own, t: MIX[name](t, own, own), COMM, shared=(1,)))
        for t in range(len(stack) + 1):
            found, sent = jax.device_get(run(tree, np.int32(t)))
            cases.assert_close(found, cases.dense(stack[t % len(stack)], tree))
            cases.assert_close(cases.mean(found), cases.mean(tree))
            hear = (stack[t % len(stack)] > 0).sum(0) - 1
            np.testing.assert_array_equal(sent, hear * 8 * (5 * 4 + 4 + 4 * 3))


@pytest.mark.parametrize(("gamma", "momentum"), [(1.0, 0.0), (0.3, 0.9)])
def test_d_psgd_is_its_formula(gamma, momentum):
    weights, schedule = GRAPHS["chain"], lambda t: jnp.where(t < 1, 0.1, 0.05)
    method = gossip.d_psgd(
        cases.loss, comm=COMM, weights=weights, lr=schedule, gamma=gamma, momentum=momentum, weight_decay=0.01
    )
    found, _ = cases.run(method, steps=3)
    x = cases.variables()["params"]
    velocity = jax.tree.map(np.zeros_like, x)
    for t in range(3):
        grads = jax.tree.map(lambda g, p: g + 0.01 * p, cases.gradients(x, cases.batch(t)), x)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        update = jax.tree.map(lambda g, v: g + momentum * v if momentum else v, grads, velocity)
        lr = 0.1 if t < 1 else 0.05
        mixed = cases.dense(weights, x)
        x = jax.tree.map(lambda p, m, u, lr=lr: p + gamma * (m - p) - lr * u, x, mixed, update)
    cases.assert_close(found.params, x)


@pytest.mark.parametrize(("graph", "gamma"), [("chain", 0.3), ("one_peer_exponential", 1.0)])
def test_the_step_before_the_exchange_is_quasi_global_momentum_without_momentum(graph, gamma):
    common = {"comm": COMM, "weights": GRAPHS[graph], "lr": 0.1, "gamma": gamma, "weight_decay": 0.01}
    orders = {order: gossip.d_psgd(cases.loss, order=order, **common) for order in get_args(gossip.Order)}
    found = {order: cases.run(method, steps=4)[0].params for order, method in orders.items()}
    other, _ = cases.run(qgm.qgm(cases.loss, mu=0.5, beta=0.0, **common), steps=4)
    cases.assert_close(found["adapt_then_combine"], other.params)
    assert np.abs(found["adapt_then_combine"]["kernel"] - found["combine_then_adapt"]["kernel"]).max() > 1e-3
    apart = {order: cases.distance(params) for order, params in found.items()}
    assert apart["adapt_then_combine"] < apart["combine_then_adapt"]


def test_without_exchange_every_agent_runs_its_own_sgd_bit_for_bit():
    alone = cases.run(gossip.d_psgd(cases.loss, comm=COMM, weights=np.eye(AGENTS), lr=0.1, gamma=0.0), steps=3)[0]
    crossed = ngc.ngc(cases.loss, comm=COMM, weights=np.eye(AGENTS), lr=0.1, gamma=0.0)
    chex.assert_trees_all_equal(cases.run(crossed, steps=3)[0].params, alone.params)
    x = cases.variables()["params"]
    for t in range(3):
        x = jax.tree.map(lambda p, g: p - 0.1 * g, x, cases.gradients(x, cases.batch(t)))
    cases.assert_close(alone.params, x)


def test_one_by_one_is_all_at_once():
    """Also where a device has several agents."""
    reference, _ = cases.run(gossip.d_psgd(cases.loss, comm=COMM, weights=GRAPHS["ring"], lr=0.1), steps=3)
    for comm, runner in ((COMM, exchange.vmap), (exchange.Comm(AGENTS, 2), exchange.shard_map)):
        method = gossip.d_psgd(cases.loss, comm=comm, weights=GRAPHS["ring"], lr=0.1, loop="map")
        cases.assert_close(cases.run(method, comm, runner, 3)[0].params, reference.params)


def test_weights_of_the_wrong_kind_are_refused(unchecked):
    wrong = np.eye(AGENTS)
    wrong[0, 0] = 1.1
    with pytest.raises(ValueError, match=r"column 0 of the mixing weights sums to 1\.1"):
        gossip.mixing(COMM, wrong)
    with pytest.raises(ValueError, match="10"):
        gossip.mixing(COMM, topology.weights("ring", 10))
    for gamma in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"gamma must lie in \[0, 1\]; got {gamma}"):
            gossip.d_psgd(cases.loss, comm=COMM, weights=GRAPHS["ring"], lr=0.1, gamma=gamma)
    with pytest.raises(ValueError, match="order is one of combine_then_adapt, adapt_then_combine; got 'adapt'"):
        gossip.d_psgd(cases.loss, comm=COMM, weights=GRAPHS["ring"], lr=0.1, order="adapt")


def test_the_cosine_of_nothing_is_nothing():
    a = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    np.testing.assert_allclose(state.cosine(a, jax.tree.map(lambda leaf: -2 * leaf, a)), -1, rtol=1e-6)
    assert state.cosine(a, jax.tree.map(jnp.zeros_like, a)) == 0
