"""Stability memorization against enumeration of all subsets, closed forms and plain loops."""

import functools
import itertools
import math

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.memorization import stability

SEEDS = st.integers(0, 2**31 - 1)
ROUNDING = 1e-5  # float32 sums over 40 models of probabilities
SIGMAS = 4.0
memorization = jax.jit(stability.memorization)
COUNTS = {name: jax.jit(getattr(stability, name)) for name in ("memorization_sums", "influence_sums")}
estimate = jax.jit(stability.estimate)


def draw(seed, models=40, samples=12, points=None, prob=False):
    """Outcomes of models on points, and who was trained on what; every sample on both sides."""
    rng = np.random.default_rng(seed)
    mask = rng.random((models, samples)) < 0.5
    mask[:2] = [[True], [False]]
    outcome = rng.random((models, points or samples))
    return (outcome if prob else outcome.round()).astype(np.float32), mask


def loop(outcome, mask):
    """p1 - p0 and its standard error for every point and sample, one pair at a time."""
    value, stderr = np.zeros((2, outcome.shape[1], mask.shape[1]))
    for j, i in np.ndindex(value.shape):
        inside, outside = outcome[mask[:, i], j].astype(np.float64), outcome[~mask[:, i], j].astype(np.float64)
        value[j, i] = inside.mean() - outside.mean()
        stderr[j, i] = np.sqrt(sum(side.mean() * (1 - side.mean()) / len(side) for side in (inside, outside)))
    return value, stderr


# --- the estimates


@given(SEEDS, st.booleans())
def test_estimates_are_those_of_the_plain_loop(seed, prob):
    outcome, mask = draw(seed, points=5, prob=prob)
    table = estimate(COUNTS["influence_sums"](outcome, mask))
    chex.assert_trees_all_close(tuple(table), loop(outcome, mask), atol=ROUNDING)
    outcome, mask = draw(seed, prob=prob)
    own = tuple(np.diagonal(table) for table in loop(outcome, mask))
    chex.assert_trees_all_close(tuple(memorization(outcome, mask)), own, atol=ROUNDING)
    sums = COUNTS["memorization_sums"](outcome, mask)
    outside = [outcome[~mask[:, i], i].mean() for i in range(12)]
    np.testing.assert_allclose(stability.cscore(sums), outside, atol=ROUNDING)


@given(SEEDS)
def test_memorization_is_the_influence_on_oneself(seed):
    outcome, mask = draw(seed)
    table = jax.device_get(estimate(COUNTS["influence_sums"](outcome, mask)))
    chex.assert_trees_all_close(memorization(outcome, mask), jax.tree.map(np.diagonal, table), atol=1e-7)


@given(SEEDS, st.booleans())
def test_signs_and_bounds(seed, prob):
    outcome, mask = draw(seed, prob=prob)
    value = np.asarray(memorization(outcome, mask).value)
    assert (np.abs(value) <= 1).all()
    np.testing.assert_array_equal(memorization(outcome, ~mask).value, -value)
    np.testing.assert_array_equal(memorization(mask.astype(np.float32), mask).value, 1)
    for constant in (0.0, 1.0):
        np.testing.assert_array_equal(memorization(np.full_like(outcome, constant), mask).value, 0)
    np.testing.assert_allclose(memorization(np.full_like(outcome, 0.3), mask).value, 0, atol=ROUNDING)


@given(SEEDS, st.sampled_from([*COUNTS.values()]))
def test_groups_of_models_add_up_in_any_order(seed, count):
    outcome, mask = draw(seed)
    order = np.random.default_rng(seed).permutation(40)
    whole = count(outcome, mask)
    a, b, c = (count(outcome[rows], mask[rows]) for rows in np.split(order, [10, 20]))
    for merged in itertools.permutations((a, b, c)):
        chex.assert_trees_all_equal(functools.reduce(stability.merge, merged), whole)
    chex.assert_trees_all_equal(stability.merge(a, stability.merge(b, c)), whole)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
def test_a_sample_that_is_always_or_never_included_has_no_estimate(inside, count):
    outcome, mask = draw(0, prob=True)
    mask[:, 3] = inside
    for part in map(np.asarray, estimate(count(outcome, mask))):
        np.testing.assert_array_equal(np.isnan(part), np.broadcast_to(np.arange(12) == 3, part.shape))


@given(SEEDS)
def test_planted_probabilities_are_found_without_bias(seed):
    rng = np.random.default_rng(seed)
    p1, p0 = rng.uniform(0.1, 0.9, (2, 3000))
    subsets = stability.subset_tables(jax.random.key(seed), 3000, models=200, ratio=0.5)
    outcome = (rng.random((200, 3000)) < np.where(subsets.mask, p1, p0)).astype(np.float32)
    value, stderr = map(np.asarray, memorization(outcome, subsets.mask))
    error = (value - (p1 - p0)) / stderr
    assert (np.abs(error) <= SIGMAS).mean() >= 0.999
    assert abs(error.mean()) <= SIGMAS / np.sqrt(3000)
    assert error.std() == pytest.approx(1, abs=0.05)


# --- the definition, with a learner of which everything is known


def nearest(x, y):
    """The 1-nearest-neighbour learner: sample numbers to train on -> correctness on all samples."""
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    return lambda rows: (y[rows][distance[:, rows].argmin(axis=1)] == y).astype(np.float32)


def closed_form(x, y, size):
    """C-score of 1-NN: the chance that the nearest member of a subset without i has i's label, by counting."""
    n = len(y)
    order = np.argsort(((x[:, None] - x[None]) ** 2).sum(-1), axis=1, kind="stable")[:, 1:]
    chance = [math.comb(n - 2 - k, size - 1) / math.comb(n - 1, size) for k in range(n - 1)]
    return (y[order] == y[:, None]) @ chance


def all_subsets(n, size):
    return np.array([np.isin(np.arange(n), rows) for rows in itertools.combinations(range(n), size)])


def table(learner, mask):
    return np.stack([learner(np.flatnonzero(row)) for row in mask])


@given(SEEDS, st.sampled_from([(8, 4), (7, 2), (6, 5)]))
def test_all_subsets_give_the_closed_form_of_nearest_neighbours(seed, sizes):
    n, size = sizes
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.integers(0, 2, n)
    mask = all_subsets(n, size)
    outcome = table(nearest(x, y), mask)
    np.testing.assert_allclose(memorization(outcome, mask).value, 1 - closed_form(x, y, size), atol=ROUNDING)


@given(SEEDS, st.booleans(), st.sampled_from([0.5, 0.7]))
def test_random_subsets_reach_the_enumerated_value(seed, balanced, ratio):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(8, 2)), rng.integers(0, 2, 8)
    subsets = stability.subset_tables(jax.random.key(seed), 8, models=400, ratio=ratio, balanced=balanced)
    p0 = closed_form(x, y, int(8 * ratio))
    error = np.abs(np.asarray(memorization(table(nearest(x, y), subsets.mask), subsets.mask).value) - (1 - p0))
    outside = (~subsets.mask).sum(axis=0)
    assert (error <= SIGMAS * np.sqrt(p0 * (1 - p0) / outside) + ROUNDING).all()


@given(SEEDS)
def test_leave_one_out_of_nearest_neighbours_is_a_look_at_the_neighbour(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(9, 2)), rng.integers(0, 2, 9)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1) + np.diag(np.full(9, np.inf))
    oracle = y[distance.argmin(axis=1)] != y
    np.testing.assert_array_equal([stability.leave_one_out(nearest(x, y), 9, i) for i in range(9)], oracle)


@given(SEEDS)
def test_leave_one_out_is_two_trainings(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(9, 3)), rng.integers(0, 2, 9)

    def correct(x_train, y_train):
        return ((x @ np.linalg.lstsq(x_train, 2.0 * y_train - 1, rcond=None)[0]) > 0) == y

    for i in range(9):
        found = stability.leave_one_out(lambda rows: correct(x[rows], y[rows]), 9, i)
        without = correct(np.delete(x, i, axis=0), np.delete(y, i))
        assert found == int(correct(x, y)[i]) - int(without[i])


@given(SEEDS)
def test_a_copy_with_the_same_label_takes_memorization_away(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(8, 2)), rng.integers(0, 2, 8)
    y[0] = 2  # nobody else's label
    copied = x.copy(), y.copy()
    for part in copied:
        part[7] = part[0]
    mask = all_subsets(8, 5)
    lone, pair = (np.asarray(memorization(table(nearest(*data), mask), mask).value) for data in ((x, y), copied))
    assert lone[0] == 1
    left_out_too = 2 / 7
    np.testing.assert_allclose(pair[np.array([0, 7])], left_out_too, rtol=ROUNDING)


# --- subsets


@given(SEEDS, st.sampled_from([(10, 7, 0.7), (9, 6, 0.5), (100, 64, 0.5), (30, 5, 0.15)]), st.booleans())
def test_subsets_have_the_size_asked_for_and_equal_use(seed, sizes, balanced):
    samples, models, ratio = sizes
    index, mask = stability.subset_tables(jax.random.key(seed), samples, models=models, ratio=ratio, balanced=balanced)
    assert index.shape == (models, math.floor(ratio * samples))
    np.testing.assert_array_equal([np.flatnonzero(row) for row in mask], index)
    if balanced:
        assert np.ptp(mask.sum(axis=0)) <= 1
    again = stability.subset_tables(jax.random.key(seed), samples, models=models, ratio=ratio, balanced=balanced)
    np.testing.assert_array_equal(again.index, index)


@pytest.mark.parametrize("balanced", [True, False])
def test_every_pair_is_as_often_together_as_by_chance(balanced):
    mask = stability.subset_tables(jax.random.key(0), 6, models=4000, ratio=0.5, balanced=balanced).mask
    together = (mask[:, :, None] & mask[:, None]).mean(axis=0)[np.triu_indices(6, 1)]
    chance = (3 / 6) * (2 / 5)
    assert np.abs(together - chance).max() < SIGMAS * np.sqrt(chance * (1 - chance) / 4000)


# --- outcomes and pairs


def test_outcomes_are_correctness_or_probability_of_every_model():
    rng = np.random.default_rng(0)
    variables, x = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)
    y = rng.integers(0, 5, 7)
    logits = np.einsum("nd,mdc->mnc", x, variables)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    def apply(variables, x):
        return x @ variables

    broken = np.concatenate([variables, np.full_like(variables[:1], np.nan)])
    right = np.asarray(stability.outcomes(apply, broken, x, y))
    np.testing.assert_array_equal(right[:3], logits.argmax(-1) == y)
    np.testing.assert_array_equal(stability.outcomes(apply, broken, x, 0 * y)[-1], 0)  # not class 0
    found = np.asarray(stability.outcomes(apply, broken, x, y, signal="prob"))
    np.testing.assert_allclose(found[:3], p[:, np.arange(7), y], rtol=ROUNDING)
    assert np.isnan(found[-1]).all()


@pytest.mark.parametrize(("block", "top"), [(1, 3), (4, 1), (1024, 100)])
def test_high_influence_lists_the_pairs_of_the_plain_loop(block, top):
    outcome, mask = draw(3, models=12, points=9, prob=True)
    rng = np.random.default_rng(4)
    labels, test_labels = rng.integers(0, 2, 12), rng.integers(0, 2, 9)
    mem = rng.random(12)
    mem[:3] = np.nan, 0.25, 1.0
    influence = loop(outcome, mask)[0]
    mask[:, 2] = True  # no estimate
    oracle = []
    for j in range(9):
        partners = [i for i in range(12) if i != 2 and mem[i] >= 0.25 and labels[i] == test_labels[j]]
        partners = sorted(partners, key=lambda i: -influence[j, i])[:top]
        oracle += [(i, j, influence[j, i]) for i in partners if influence[j, i] >= 0.15]
    found = stability.high_influence(outcome, mask, labels, test_labels, mem, top=top, block=block)
    assert [pair[:2] for pair in found] == [pair[:2] for pair in sorted(oracle, key=lambda pair: -pair[2])]
    np.testing.assert_allclose([pair[2] for pair in found], sorted((v for *_, v in oracle), reverse=True), rtol=1e-4)
    assert len(found) > 2


# --- refusals


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, 0.09, math.nan])
def test_a_ratio_that_leaves_nothing_or_everything_is_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\) and leave at least one of 10 samples; got"):
        stability.subset_tables(jax.random.key(0), 10, models=3, ratio=ratio)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
@pytest.mark.parametrize("count", [stability.memorization_sums, stability.influence_sums])
def test_outcomes_that_are_no_probabilities_are_refused(value, count):
    outcome, mask = draw(0)
    outcome[5, 5] = value
    with pytest.raises(ValueError, match=r"outcomes are correctness or probabilities in \[0, 1\]; got"):
        count(outcome, mask)


def test_tables_that_do_not_fit_are_refused(unchecked):
    outcome, mask = draw(0)
    with pytest.raises(ValueError, match=r"outcome \(40, 11\) and mask \(40, 12\) must both be \(models, samples\)"):
        stability.memorization_sums(outcome[:, :11], mask)
    with pytest.raises(ValueError, match="outcome has 39 models and mask 40"):
        stability.influence_sums(outcome[1:], mask)
    with pytest.raises(ValueError, match=r"60000 samples on 10000 points is a table of 2\.2 GiB; .*`block`"):
        stability.influence_sums(np.ones((1, 10_000), np.float32), np.ones((1, 60_000), bool))


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\); got 7"):
        stability.outcomes(lambda v, x: x * v, np.ones(3), np.ones((4, 2), np.float32), np.array([0, 1, 7, 1]))
