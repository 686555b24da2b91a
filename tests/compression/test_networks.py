"""Whole networks: lossless at the full spans, factorised as projected, and the search of energies."""

import jax
import numpy as np
import pytest

from subspace_jax.compression import utilized_rank
from subspace_jax.core import capture
from tests.compression.layers import MLP, ConvNet, draw

LOSSLESS = 1e-4  # relative, of float32 logits


@pytest.fixture(scope="module", params=["mlp", "conv"])
def net(request):
    """apply, variables, x, table, moments; the inputs span 3 of 8 features, 2 of 3 channels."""
    if request.param == "mlp":
        model, x = MLP(), draw(0, 160, 3) @ draw(1, 3, 8)
    else:
        model, x = ConvNet(), draw(0, 160, 6, 5, 2) @ draw(1, 2, 3)
    x = x.astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(2), x)
    apply = jax.jit(model.apply)
    moments = capture.collect(apply, variables, [x[:80], x[80:]], dtype="float64")
    return apply, variables, x, capture.layers(apply, variables, x), moments


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_full_spans_keep_the_logits(net):
    apply, variables, x, table, moments = net
    edited = utilized_rank.project(table, variables, moments, energy=1.0)
    assert relative(apply(edited, x), apply(variables, x)) < LOSSLESS
    first = next(iter(table))
    use = utilized_rank.utilization(table, variables, moments, energy=1.0)
    assert use[first].inputs == (3 if table[first].kind == "dense" else 12)
    assert use[first].share <= 3 / 8 or table[first].kind == "conv"
    before, after = (capture.kernels(table, params)[first] for params in (variables, edited))
    assert relative(after, before) > 0.1, "what the inputs do not use must be gone"


@pytest.mark.parametrize(("energy", "multiple"), [(0.8, 1), (0.9, 2)])
def test_the_factorised_network_is_the_projected_one(net, energy, multiple):
    apply, variables, x, table, moments = net
    edited = utilized_rank.project(table, variables, moments, energy=energy)
    factorised = utilized_rank.factorise(table, variables, moments, energy=energy, multiple=multiple)
    assert factorised["factors"]
    run = jax.jit(capture.run_factorised(apply, variables))
    assert relative(run(factorised, x), apply(edited, x)) < LOSSLESS
    size = sum(leaf.size for leaf in jax.tree.leaves(factorised))
    assert size < sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_layers_without_moments_stay(net):
    _, variables, _, table, moments = net
    head = list(table)[-1]
    rest = {path: sums for path, sums in moments.items() if path != head}
    edited = utilized_rank.project(table, variables, rest, energy=0.9)
    before, after = capture.kernels(table, variables), capture.kernels(table, edited)
    assert [path for path in table if np.array_equal(before[path], after[path])] == [head]


def test_search_keeps_the_score_and_lowers_the_rank(net):
    apply, variables, x, table, moments = net
    labels = np.asarray(apply(variables, x)).argmax(-1)
    seen = []

    def score(params):
        seen.append(float((np.asarray(apply(params, x)).argmax(-1) == labels).mean()))
        return seen[-1]

    found = utilized_rank.search_energy(table, variables, moments, score, max_drop=0.02)
    assert set(found) == set(table)
    assert set(found.values()) <= set(utilized_rank.ENERGIES)
    assert len(seen) <= 1 + len(table) * len(utilized_rank.ENERGIES)
    assert score(utilized_rank.project(table, variables, moments, energy=found)) >= 1 - 0.02 * len(table)
    loose = utilized_rank.search_energy(table, variables, moments, score, max_drop=1.0)
    assert set(loose.values()) == {min(utilized_rank.ENERGIES)}
    rank = lambda energy: utilized_rank.mean_utilization(  # noqa: E731
        utilized_rank.utilization(table, variables, moments, energy=energy)
    )
    assert rank(loose) <= rank(found) <= rank(1.0)


def test_a_layer_that_may_not_change_is_left_out_of_the_search(net):
    _, variables, _, table, moments = net
    scores = iter([1.0] + [0.0] * len(table))
    found = utilized_rank.search_energy(table, variables, moments, lambda _: next(scores), energies=[0.9, 0.8])
    assert found == {}
