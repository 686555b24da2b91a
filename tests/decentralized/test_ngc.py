"""NGC and CompNGC: the formula agent by agent, the limits in which they are other methods, what travels."""

import chex
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


def pairs(params, at):
    """g[i][j]: gradient on the data of i at the model of j."""
    x, y = cases.batch(at)
    with jax.enable_x64(True):
        grad = jax.jit(jax.grad(lambda p, x, y: cases.loss(p, {}, (x, y), None)[0]))
        models = [jax.tree.map(lambda leaf, j=j: leaf[j], params) for j in range(AGENTS)]
        return [[jax.device_get(grad(model, x[i], y[i])) for model in models] for i in range(AGENTS)]


def total(*terms):
    """Sum of (weight, tree)."""
    return jax.tree.map(lambda *leaves: sum(w * leaf for (w, _), leaf in zip(terms, leaves, strict=True)),
                        *(tree for _, tree in terms))  # fmt: skip


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("graph", ["ring", "chain", "lopsided"])
def test_the_gradient_is_the_weighted_mean_over_both_kinds(graph, alpha):
    weights, start = (GRAPHS | {"lopsided": LOPSIDED})[graph], cases.variables(apart=0.5)
    found, _ = cases.run(make(weights, alpha=alpha, gamma=0.4, self_grad_at="sent"), start=start)
    x = start["params"]
    g = pairs(x, 0)
    for i in range(AGENTS):
        terms = [(1 - alpha, g[i]), (alpha, [row[i] for row in g])]
        clustered = total(*((share * weights[i, j], kind[j]) for share, kind in terms for j in range(AGENTS)))
        mixed = jax.tree.map(lambda leaf, i=i: 0.6 * leaf[i] + 0.4 * np.einsum("j,j...->...", weights[i], leaf), x)
        expected = total((1, mixed), (-0.1, clustered))
        cases.assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], found.params), expected)


def test_the_own_gradient_at_the_mixed_model_is_the_one_there():
    start = cases.variables(apart=0.5)
    sent, mixed = (cases.run(make(alpha=0.0, gamma=0.4, self_grad_at=at), start=start)[0] for at in ("sent", "mixed"))
    weights, x = GRAPHS["ring"], start["params"]
    at = jax.tree.map(lambda leaf: 0.6 * leaf + 0.4 * np.einsum("ij,j...->i...", weights, leaf), x)
    there, here = pairs(at, 0), pairs(x, 0)
    for i in range(AGENTS):
        change = total((-0.1 * weights[i, i], there[i][i]), (0.1 * weights[i, i], here[i][i]))
        difference = jax.tree.map(lambda a, b, i=i: a[i] - b[i], mixed.params, sent.params)
        cases.assert_close(difference, change)
    still = [cases.run(make(gamma=0.0, self_grad_at=at), start=start)[0].params for at in ("sent", "mixed")]
    chex.assert_trees_all_equal(*still)


def test_on_a_full_graph_with_equal_models_it_is_sgd_on_all_data():
    found, _ = cases.run(make(GRAPHS["full"], self_grad_at="sent"), steps=3)
    params = jax.tree.map(lambda leaf: leaf[0], cases.variables()["params"])
    with jax.enable_x64(True):
        grad = jax.grad(lambda p, x, y: cases.loss(p, {}, (x, y), None)[0])
        for t in range(3):
            x, y = cases.batch(t)
            grads = grad(params, x.reshape(-1, x.shape[-1]), y.reshape(-1))
            params = jax.device_get(jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
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
    plain, _ = cases.run(make(self_grad_at="sent", **options), start=start, steps=2)
    given = cases.batch
    monkeypatch.setattr(cases, "batch", lambda step, dtype: tuple(part[turned] for part in given(step, dtype)))
    moved, _ = cases.run(
        make(self_grad_at="sent", **options), start=jax.tree.map(lambda leaf: leaf[turned], start), steps=2
    )
    cases.assert_close(moved.params, jax.tree.map(lambda leaf: leaf[turned], plain.params))


def test_what_travels_is_counted():
    degree = {"ring": 2, "chain": np.array([1, 2, 2, 2, 2, 2, 2, 1])}
    for graph, edges in degree.items():
        for options, cross in [
            ({"alpha": 0.0}, 0),
            ({}, 4 * PARAMETERS),
            ({"compressor": compress.sign()}, sum(-(-n // 8) + 4 for n in (20, 4, 12))),
        ]:
            _, infos = cases.run(make(GRAPHS[graph], **options), dtype=np.float32)
            np.testing.assert_array_equal(infos.bytes_model[0], edges * 4 * PARAMETERS)
            np.testing.assert_array_equal(infos.bytes_cross[0], edges * cross)


def test_errors_of_compression_are_fed_back_edge_by_edge():
    method, weights, start = make(compressor=compress.sign(), self_grad_at="sent"), GRAPHS["ring"], cases.variables()
    found, _ = cases.run(method, steps=2, start=start)
    x = start["params"]
    errors = jax.tree.map(lambda leaf: np.zeros((AGENTS, *leaf.shape)), x)  # [i, j]: of i's gradient at the model of j
    for t in range(2):
        g = pairs(x, t)
        matrix = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(AGENTS, AGENTS, *leaves[0].shape),
                              *(g[i][j] for i in range(AGENTS) for j in range(AGENTS)))  # fmt: skip
        held = jax.tree.map(np.add, matrix, errors)
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
