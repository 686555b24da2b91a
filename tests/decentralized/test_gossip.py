"""Gossip and D-PSGD against dense NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import exchange, topology
from subspace_jax.decentralized import gossip, ngc, state
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, COMM, GRAPHS

MIX = {name: gossip.mixing(COMM, weights) for name, weights in GRAPHS.items()}


def gradients(params, at):
    """Own gradients of all agents."""
    with jax.enable_x64(True):
        grads = jax.vmap(jax.grad(lambda p, x, y: cases.loss(p, {}, (x, y), None)[0]))
        return jax.device_get(grads(params, *cases.batch(at)))


def dense(weights, tree):
    return jax.tree.map(lambda leaf: np.einsum("ij,j...->i...", weights, leaf), tree)


@pytest.mark.parametrize("name", GRAPHS)
def test_mixing_is_the_dense_product_and_keeps_the_mean(name):
    tree, stack = cases.variables(apart=1.0)["params"], GRAPHS[name].reshape(-1, AGENTS, AGENTS)
    with jax.enable_x64(True):
        run = jax.jit(exchange.vmap(lambda own, t: MIX[name](t, own, own)[0], COMM, shared=(1,)))
        for t in range(len(stack) + 1):
            found = jax.device_get(run(tree, np.int32(t)))
            cases.assert_close(found, dense(stack[t % len(stack)], tree))
            cases.assert_close(cases.mean(found), cases.mean(tree))


def test_an_agent_sends_one_copy_to_each_who_hears_it():
    tree = cases.variables(np.float32)["params"]
    for name, weights in GRAPHS.items():
        run = jax.jit(exchange.vmap(lambda own, t, name=name: MIX[name](t, own, own)[1], COMM, shared=(1,)))
        heard = (weights.reshape(-1, AGENTS, AGENTS)[0] > 0).sum(0) - 1
        np.testing.assert_array_equal(run(tree, np.int32(0)), heard * 4 * (5 * 4 + 4 + 4 * 3))


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
        grads = jax.tree.map(lambda g, p: g + 0.01 * p, gradients(x, t), x)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        update = jax.tree.map(lambda g, v: g + momentum * v if momentum else v, grads, velocity)
        lr = 0.1 if t < 1 else 0.05
        mixed = dense(weights, x)
        x = jax.tree.map(lambda p, m, u, lr=lr: p + gamma * (m - p) - lr * u, x, mixed, update)
    cases.assert_close(found.params, x)


def test_without_exchange_every_agent_runs_its_own_sgd_bit_for_bit():
    alone = cases.run(gossip.d_psgd(cases.loss, comm=COMM, weights=np.eye(AGENTS), lr=0.1, gamma=0.0), steps=3)[0]
    crossed = ngc.ngc(cases.loss, comm=COMM, weights=np.eye(AGENTS), lr=0.1, gamma=0.0)
    chex.assert_trees_all_equal(cases.run(crossed, steps=3)[0].params, alone.params)
    params = cases.variables()["params"]
    with jax.enable_x64(True):
        for i in range(AGENTS):
            x = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), params)
            for t in range(3):
                own = jax.tree.map(lambda part, i=i: part[i], cases.batch(t))
                x = jax.tree.map(lambda p, g: p - 0.1 * g, x, jax.grad(cases.loss, has_aux=True)(x, {}, own, None)[0])
            cases.assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], alone.params), jax.device_get(x))


def test_one_by_one_is_all_at_once():
    """Also where a device has several agents."""
    reference, _ = cases.run(gossip.d_psgd(cases.loss, comm=COMM, weights=GRAPHS["ring"], lr=0.1), steps=3)
    for comm, runner in ((COMM, exchange.vmap), (exchange.Comm(AGENTS, 2), exchange.shard_map)):
        method = gossip.d_psgd(cases.loss, comm=comm, weights=GRAPHS["ring"], lr=0.1, loop="map")
        cases.assert_close(cases.run(method, comm, runner, 3)[0].params, reference.params)


def test_weights_of_the_wrong_kind_are_refused():
    wrong = np.eye(AGENTS)
    wrong[0, 0] = 1.1
    with pytest.raises(ValueError, match=r"column 0 of the mixing weights sums to 1\.1"):
        gossip.mixing(COMM, wrong)
    with pytest.raises(ValueError, match="10"):
        gossip.mixing(COMM, topology.weights("ring", 10))
    for gamma in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"gamma must lie in \[0, 1\]; got {gamma}"):
            gossip.d_psgd(cases.loss, comm=COMM, weights=GRAPHS["ring"], lr=0.1, gamma=gamma)


def test_the_cosine_of_nothing_is_nothing():
    a = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    np.testing.assert_allclose(state.cosine(a, jax.tree.map(lambda leaf: -2 * leaf, a)), -1, rtol=1e-6)
    assert state.cosine(a, jax.tree.map(jnp.zeros_like, a)) == 0
