"""NGC and CompNGC: the formula agent by agent, the limits in which they are other methods, what travels."""

import jax
import numpy as np
import pytest

from subspace_jax.core import compress, topology
from subspace_jax.decentralized import gossip, ngc
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, COMM, GRAPHS

# Doubly stochastic, every edge in both directions, but with other weights there than back.
LOPSIDED = (
    0.5 * np.eye(AGENTS)
    + 0.4 * np.eye(AGENTS)[(np.arange(AGENTS) + 1) % AGENTS]
    + 0.1 * np.eye(AGENTS)[(np.arange(AGENTS) - 1) % AGENTS]
)
PARAMETERS = 5 * 4 + 4 + 4 * 3


def make(weights=GRAPHS["ring"], **options):
    return ngc.ngc(cases.loss, comm=COMM, weights=weights, lr=0.1, **options)


@pytest.mark.parametrize(("graph", "alpha"), [("ring", 0.0), ("chain", 0.25), ("lopsided", 0.25), ("lopsided", 1.0)])
def test_the_gradient_is_the_weighted_mean_over_both_kinds(graph, alpha):
    weights, start = (GRAPHS | {"lopsided": LOPSIDED})[graph], cases.variables(apart=0.5)
    found, _ = cases.run(make(weights, alpha=alpha, gamma=0.4, self_grad_at="sent"), start=start)
    x, g = start["params"], cases.pairs(start["params"], cases.batch(0))
    mixed = cases.dense(0.6 * np.eye(AGENTS) + 0.4 * weights, x)

    def clustered(both):
        here, there = (np.einsum(f"ij,{kind}...->i...", weights, both) for kind in ("ij", "ji"))
        return (1 - alpha) * here + alpha * there

    cases.assert_close(found.params, jax.tree.map(lambda m, both: m - 0.1 * clustered(both), mixed, g))


def test_the_own_gradient_at_the_mixed_model_is_the_one_there():
    start, weights = cases.variables(apart=0.5), GRAPHS["ring"]
    sent, mixed = (cases.run(make(alpha=0.0, gamma=0.4, self_grad_at=at), start=start)[0] for at in ("sent", "mixed"))
    x = start["params"]
    here, there = (
        cases.gradients(at, cases.batch(0)) for at in (x, cases.dense(0.6 * np.eye(AGENTS) + 0.4 * weights, x))
    )
    own = np.diag(weights.diagonal())
    change = jax.tree.map(lambda a, b: -0.1 * (a - b), cases.dense(own, there), cases.dense(own, here))
    cases.assert_close(jax.tree.map(np.subtract, mixed.params, sent.params), change)
    assert gossip.toward(x, here, 0.0) is x  # without averaging both are taken at the same model


def test_on_a_full_graph_with_equal_models_it_is_sgd_on_all_data():
    found, _ = cases.run(make(GRAPHS["full"], self_grad_at="sent"), steps=3)
    params = jax.tree.map(lambda leaf: leaf[0], cases.variables()["params"])
    for t in range(3):
        x, y = cases.batch(t)
        grads = cases.gradients(params, (x.reshape(-1, x.shape[-1]), y.reshape(-1)))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    cases.assert_close(found.params, jax.tree.map(lambda leaf: np.stack([leaf] * AGENTS), params), atol=1e-10)


def test_with_equal_data_and_models_it_is_d_psgd(monkeypatch):
    x, y = cases.batch(0)
    same = np.stack([x[0]] * AGENTS), np.stack([y[0]] * AGENTS)
    monkeypatch.setattr(cases, "batch", lambda step, dtype: same)
    plain, _ = cases.run(gossip.d_psgd(cases.loss, comm=COMM, weights=GRAPHS["ring"], lr=0.1), steps=3)
    crossed, infos = cases.run(make(), steps=3)
    cases.assert_close(crossed.params, plain.params)
    np.testing.assert_allclose(infos.cosine, 1, atol=1e-12)


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {}, {"compressor": compress.sign()}])
def test_turning_the_ring_turns_the_result(options, monkeypatch):
    start, turned = cases.variables(apart=0.5), np.roll(np.arange(AGENTS), 3)
    method = make(self_grad_at="sent", **options)
    plain, _ = cases.run(method, start=start, steps=2)
    given = cases.batch
    monkeypatch.setattr(cases, "batch", lambda step, dtype: tuple(part[turned] for part in given(step, dtype)))
    moved, _ = cases.run(method, start=jax.tree.map(lambda leaf: leaf[turned], start), steps=2)
    cases.assert_close(moved.params, jax.tree.map(lambda leaf: leaf[turned], plain.params))


def test_what_travels_is_counted():
    edges = np.array([1, 2, 2, 2, 2, 2, 2, 1])  # of a chain
    for options, cross in [
        ({"alpha": 0.0}, 0),
        ({}, 4 * PARAMETERS),
        ({"compressor": compress.sign()}, sum(-(-n // 8) + 4 for n in (20, 4, 12))),
    ]:
        sent = cases.sent(make(GRAPHS["chain"], **options))
        np.testing.assert_array_equal(sent, [edges * 4 * PARAMETERS, edges * cross])


def test_errors_of_compression_are_fed_back_edge_by_edge():
    method, weights, start = make(compressor=compress.sign(), self_grad_at="sent"), GRAPHS["ring"], cases.variables()
    found, _ = cases.run(method, steps=2, start=start)
    x = start["params"]
    errors = jax.tree.map(lambda leaf: np.zeros((AGENTS, *leaf.shape)), x)  # [i, j]: of i's gradient at the model of j
    for t in range(2):
        held = jax.tree.map(np.add, cases.pairs(x, cases.batch(t)), errors)
        used = jax.tree.map(
            lambda c: np.where(c >= 0, 1, -1) * np.abs(c).mean(tuple(range(2, c.ndim)), keepdims=True), held
        )
        errors = jax.tree.map(np.subtract, held, used)
        got = jax.tree.map(lambda q: np.einsum("ij,ji...->i...", weights, q), used)  # alpha = 1: data-variant only
        mixed = jax.tree.map(lambda leaf: np.einsum("ij,j...->i...", weights, leaf), x)
        x = jax.tree.map(lambda m, u: m - 0.1 * u, mixed, got)
    cases.assert_close(found.params, x, atol=1e-10)


def test_bad_input_is_refused(unchecked):
    directed = topology.weights("directed_ring", AGENTS)
    with pytest.raises(ValueError, match="reverse edge"):
        make(directed)
    for name in ("alpha", "gamma"):
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\]; got 1.5"):
            make(**{name: 1.5})
    with pytest.raises(ValueError, match="nothing to compress"):
        make(alpha=0.0, compressor=compress.sign())
    with pytest.raises(ValueError, match='"sent" or "mixed"'):
        make(self_grad_at="late")
    with pytest.raises(ValueError, match="running statistics"):
        make().init(jax.random.key(0), {"params": {}, "batch_stats": {"mean": np.zeros(3)}})
