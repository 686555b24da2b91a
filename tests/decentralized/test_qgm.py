"""Quasi-global momentum against its formula in NumPy, and against plain gossip SGD."""

import jax
import numpy as np
import pytest

from subspace_jax.decentralized.qgm import qgm
from tests.decentralized import cases

STEPS = 10


def decay(step):
    return 0.1 / (1 + step)


def oracle(x, m, g, w, *, lr, mu, beta, gamma, weight_decay):
    """One step of one tensor of all agents."""
    g = g + weight_decay * x
    half = x - lr * (g + beta * (beta * m + g))
    new = half + gamma * (np.tensordot(w, half, 1) - half)
    return new, mu * m + (1 - mu) * (x - new) / lr


def test_ten_steps_equal_the_formula_on_a_graph_that_changes():
    weights = cases.GRAPHS["one_peer_exponential"]
    settings = {"mu": 0.8, "beta": 0.9, "gamma": 0.7, "weight_decay": 1e-2}
    method = qgm(cases.loss, comm=cases.COMM, weights=weights, lr=decay, **settings)
    state, _ = cases.run(method, steps=STEPS)
    x = cases.variables()["params"]
    m = jax.tree.map(np.zeros_like, x)
    for t in range(STEPS):
        g, w = cases.gradients(x, cases.batch(t)), weights[t % len(weights)]
        pairs = {name: oracle(x[name], m[name], g[name], w, lr=decay(t), **settings) for name in x}
        x, m = ({name: pair[k] for name, pair in pairs.items()} for k in (0, 1))
    cases.assert_close((state.params, state.memory), (x, m), atol=1e-11)  # m divides by lr


def test_without_momentum_it_is_adapt_then_combine():
    w = cases.GRAPHS["ring"]
    state, infos = cases.run(qgm(cases.loss, comm=cases.COMM, weights=w, lr=0.1, mu=0.0, beta=0.0), steps=2)
    x = cases.variables()["params"]
    for t in range(2):
        x = jax.tree.map(lambda a, g: np.tensordot(w, a - 0.1 * g, 1), x, cases.gradients(x, cases.batch(t)))
    cases.assert_close(state.params, x)
    np.testing.assert_allclose(infos.cosine, 1, atol=1e-6)
    size = sum(leaf[0].nbytes for leaf in jax.tree.leaves(x))
    np.testing.assert_array_equal(infos.bytes_model, 2 * size)
    np.testing.assert_array_equal(infos.bytes_cross, 0)


def test_a_step_of_rate_zero_only_mixes_and_lets_the_buffer_decay():
    method = qgm(cases.loss, comm=cases.COMM, weights=cases.GRAPHS["ring"], lr=lambda step: 0.1 * (step == 0))
    (first, _), (second, _) = (cases.run(method, steps=steps) for steps in (1, 2))
    cases.assert_close(second.memory, jax.tree.map(lambda m: 0.9 * m, first.memory))
    mixed = jax.tree.map(lambda a: np.tensordot(cases.GRAPHS["ring"], a, 1), first.params)
    cases.assert_close(second.params, mixed)
    cases.assert_close(cases.mean(second.params), cases.mean(first.params))


@pytest.mark.parametrize("name", ["mu", "beta", "gamma"])
def test_shares_outside_the_unit_interval_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\]; got 1.5"):
        qgm(cases.loss, comm=cases.COMM, weights=cases.GRAPHS["ring"], lr=0.1, **{name: 1.5})
