"""The edit of whole networks: against explicit rows, its grid, its samples, and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import capture, moments, subspace
from subspace_jax.unlearning import class_projection, evaluation
from subspace_jax.unlearning.class_projection import (
    unlearn_classes,
    unlearn_projector,
    unlearn_search,
)
from subspace_jax.unlearning.samples import check_samples, select_samples
from tests.unlearning import networks
from tests.unlearning.networks import CLASSES, conv, mlp

SEEDS = st.integers(0, 2**31 - 1)
NETS = pytest.mark.parametrize("net", [mlp, conv])
ROUNDED = 1e-6  # a float32 kernel of order one


@functools.cache
def measured(net):
    """A trained network, its table, and its moments on classes 1.. and 0."""
    x, y = networks.samples(net, 0, 24)
    params = networks.train(net, networks.draw(net, 0), x, y)
    kept, gone = x[y != 0], x[y == 0]
    retain, forget = (capture.collect(net, params, [rows], dtype=np.float64) for rows in (kept, gone))
    return params, capture.layers(net, params, x), retain, forget, kept, gone


@NETS
def test_every_kernel_is_the_projector_of_its_own_rows_times_it(net):
    params, table, retain, forget, kept, gone = measured(net)
    edited = unlearn_classes(table, params, retain, forget, alpha_r=30, alpha_f=10)
    record = jax.jit(lambda x: capture.record(net, params, x)[1])
    rows_r, rows_f = record(kept), record(gone)
    before, after = capture.kernels(table, params), capture.kernels(table, edited)
    for path, kernel in before.items():
        grams = [np.asarray(rows[path], np.float64).T @ np.asarray(rows[path]) for rows in (rows_r, rows_f)]
        expected = unlearn_projector(*grams, 30, 10) @ np.asarray(kernel)
        np.testing.assert_allclose(after[path], expected, atol=ROUNDED)
        assert not np.allclose(after[path], kernel, atol=1e-3)


@NETS
def test_no_strength_changes_no_bit_and_what_is_not_edited_is_the_same_object(net):
    params, table, retain, forget, *_ = measured(net)
    chex.assert_trees_all_equal(unlearn_classes(table, params, retain, forget, alpha_f=0), params)
    head = unlearn_classes(table, params, retain, forget, layers=["head/kernel"])
    chex.assert_trees_all_equal_shapes_and_dtypes(head, params)
    same = jax.tree.map(lambda a, b: a is b, head, params)
    assert not same["head"].pop("kernel")
    assert all(jax.tree.leaves(same))


def test_float32_moments_under_jit_give_the_same():
    params, table, retain, forget, *_ = measured(mlp)
    narrow = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), side) for side in (retain, forget)]
    edit = jax.jit(functools.partial(unlearn_classes, table))
    chex.assert_trees_all_close(edit(params, *narrow), unlearn_classes(table, params, retain, forget), atol=2e-4)


def test_kernels_of_a_scan_are_edited_one_by_one():
    def net(params, x):
        return jax.lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), x, params["kernels"])[0]

    rng = np.random.default_rng(0)
    params = {"kernels": rng.normal(size=(2, 5, 5)).astype(np.float32)}
    sides = [capture.collect(net, params, [rng.normal(size=(8, 5)).astype(np.float32)]) for _ in range(2)]
    edited = unlearn_classes(capture.layers(net, params, jnp.ones((8, 5))), params, *sides)
    grams = [np.asarray(side["kernels"].gram, np.float64) for side in sides]
    for i in range(2):
        expected = unlearn_projector(grams[0][i], grams[1][i], 100.0, 3.0) @ params["kernels"][i]
        np.testing.assert_allclose(edited["kernels"][i], expected, atol=2e-5)


@NETS
def test_one_network_forgets_and_the_search_finds_it(net):
    params, table, retain, forget, *_ = measured(net)
    x, y = networks.samples(net, 1, 24)
    apply = jax.jit(net)

    def accuracies(params):
        return evaluation.class_accuracy(apply(params, x), y, forget=[0])

    def score(params):
        return float(evaluation.forget_score(*accuracies(params)))

    found = unlearn_search(table, params, retain, forget, score)
    after = accuracies(found.params)
    assert after.retain > 0.9
    assert after.forget < 0.1
    assert found.scores.max() == pytest.approx(score(found.params))
    assert score(params) < 0.1
    without = unlearn_search(table, params, retain, forget, score, alphas_r=(0,))
    assert found.scores.max() >= without.scores.max()


def test_the_grid_is_the_edit_of_each_pair_and_solves_each_strength_once(monkeypatch):
    params, table, retain, forget, *_ = measured(mlp)
    seen, solves, resolvent = [], [], subspace.resolvent
    monkeypatch.setattr(subspace, "resolvent", lambda *args: solves.append(args) or resolvent(*args))
    found = unlearn_search(
        table, params, retain, forget, lambda p: seen.append(p) or -len(seen), alphas_r=(3, 30.0), alphas_f=(1, 10, 100)
    )
    assert len(solves) == len(table) * (2 + 3)
    np.testing.assert_array_equal(found.scores, -np.arange(1, 7).reshape(3, 2).T)
    assert (found.alpha_r, found.alpha_f) == (3.0, 1.0)
    pairs = [(alpha_r, alpha_f) for alpha_f in (1, 10, 100) for alpha_r in (3, 30)]
    for (alpha_r, alpha_f), params_there in zip(pairs, seen, strict=True):
        expected = unlearn_classes(table, params, retain, forget, alpha_r=alpha_r, alpha_f=alpha_f)
        chex.assert_trees_all_equal(params_there, expected)
    chex.assert_trees_all_equal(found.params, seen[0])


def test_layers_that_read_one_input_are_solved_once(monkeypatch):
    def net(params, x):
        return x @ params["query"] + x @ params["key"]

    params, solves, resolvent = {"query": jnp.ones((3, 2)), "key": jnp.ones((3, 2))}, [], subspace.resolvent
    side = capture.collect(net, params, [jnp.eye(3)])
    saved = jax.tree.map(jnp.array, side)  # reloaded moments are no longer one object
    monkeypatch.setattr(subspace, "resolvent", lambda *args: solves.append(args) or resolvent(*args))
    unlearn_classes(capture.layers(net, params, jnp.eye(3)), params, saved, saved)
    assert len(solves) == 2


def test_a_score_that_is_no_number_is_never_chosen():
    params, table, retain, forget, *_ = measured(mlp)
    scores = iter([np.nan, 0.25, np.nan, 0.75])
    search = functools.partial(unlearn_search, table, params, retain, forget, alphas_r=(1, 3), alphas_f=(1, 3))
    found = search(lambda _: next(scores))
    assert (found.alpha_r, found.alpha_f) == (3.0, 3.0)
    with pytest.raises(ValueError, match="no pair of strengths has a finite score"):
        search(lambda _: np.nan)


def test_classes_are_forgotten_together_or_one_after_the_other():
    params, *_ = measured(mlp)
    x, y = networks.samples(mlp, 0, 24)
    apply, table = jax.jit(mlp), capture.layers(mlp, params, x)
    stay = select_samples(jax.random.key(0), y, forget=[0, 1]).retain

    def without(params, *classes):
        batches = x[stay], x[np.isin(y, classes)]
        sides = [capture.collect(mlp, params, [batch], dtype=np.float64) for batch in batches]
        return unlearn_classes(table, params, *sides, alpha_r=10, alpha_f=100)

    for edited in (without(params, 0, 1), without(without(params, 0), 1)):
        after = evaluation.class_accuracy(apply(edited, x), y, forget=[0, 1])
        assert after.forget < 0.1
        assert after.retain > 0.9


@given(SEEDS)
def test_samples_are_even_over_classes_disjoint_and_follow_the_key(seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), [30, 30, 3, 30, 30]))
    samples = select_samples(jax.random.key(seed), labels, forget=[1, 4], retain_count=40, forget_count=21)
    counts = np.bincount(labels[samples.retain], minlength=5)
    assert counts[2] == 3  # gives all it has
    assert sorted(counts[[0, 3]]) == [18, 19]
    assert counts[[1, 4]].sum() == 0
    assert sorted(np.bincount(labels[samples.forget])[[1, 4]]) == [10, 11]
    assert len(set(samples.retain) | set(samples.forget)) == 61
    again = select_samples(jax.random.key(seed), labels, forget=[1, 4], retain_count=40, forget_count=21)
    chex.assert_trees_all_equal(samples, again)
    everything = select_samples(jax.random.key(seed), labels, forget=[1])
    assert len(everything.retain) == 93


LABELS = np.repeat(np.arange(CLASSES), 3)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (LABELS, {"forget": [9]}, "class 9 is to be forgotten but has no sample; there are 0, 1, 2, 3"),
        (LABELS, {"forget": range(CLASSES)}, "no class stays"),
        (LABELS, {"forget": []}, r"forget names the classes to forget .*; got \[\]"),
        (LABELS[:-2], {"forget": [3]}, "a forget set has at least 2 samples; got 1"),
        (LABELS, {"forget": [0], "forget_count": 1}, "each set takes at least 2 samples"),
        (LABELS, {"forget": [0], "retain_count": -5}, "each set takes at least 2 samples"),
        (np.ones(4, int) > 0, {"forget": [0]}, "labels must be one integer per sample.* got bool"),
    ],
)
def test_bad_samples_are_refused(labels, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        select_samples(jax.random.key(0), labels, **options)


def test_sets_chosen_by_hand_are_checked_for_every_class():
    check_samples(np.array([2, 2]), np.array([0, 1]), forget=[0, 1])
    with pytest.raises(ValueError, match="class 1 is to be forgotten but is in the retain set"):
        check_samples(np.array([1, 2]), np.array([0, 1]), forget=[0, 1])
    with pytest.raises(ValueError, match="class 2 stays but is in the forget set"):
        check_samples(np.array([3, 3]), np.array([0, 0, 2]), forget=[0])


BAD = {
    "no layer 'none'; there are first/kernel": {"layers": ["none"]},
    "the single string": {"layers": "head/kernel"},
    "alpha is the strength": {"alpha_f": -1.0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_are_refused(message, unchecked):
    params, table, retain, forget, *_ = measured(mlp)
    with pytest.raises(ValueError, match=message):
        unlearn_classes(table, params, retain, forget, **BAD[message])


@pytest.mark.parametrize("alphas", [(), (1.0, -1.0), (float("nan"), 1.0)])
def test_a_bad_grid_is_refused_before_anything_is_scored(alphas):
    params, table, retain, forget, *_ = measured(mlp)
    with pytest.raises(ValueError, match="the grid needs strengths of at least 0"):
        unlearn_search(table, params, retain, forget, pytest.fail, alphas_f=alphas)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (None, "retain has no moments of 'head/kernel'"),
        (moments.from_rows(jnp.ones((2, 5))), "is not the Gram of 24 inputs"),
        (moments.zeros(24), "hold no rows"),
        (moments.from_rows(jnp.ones((2, 24)))._replace(gram=jnp.full((24, 24), jnp.nan)), "retain set must be finite"),
    ],
)
def test_bad_moments_are_refused_by_the_name_of_the_layer(head, message):
    params, table, retain, forget, *_ = measured(mlp)
    retain = {"first/kernel": retain["first/kernel"], **({} if head is None else {"head/kernel": head})}
    with pytest.raises(ValueError, match=message):
        unlearn_classes(table, params, retain, forget)
    class_projection.unlearn_classes(table, params, retain, forget, layers=["first/kernel"])


def test_a_layer_without_energy_stays():
    params, table, retain, forget, *_ = measured(mlp)
    dead = {**forget, "head/kernel": forget["head/kernel"]._replace(gram=np.zeros((24, 24)))}
    edited = unlearn_classes(table, params, retain, dead)
    chex.assert_trees_all_equal(edited["head"], params["head"])
