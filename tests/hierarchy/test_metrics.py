import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.hierarchy import baselines, metrics, tree
from tests.hierarchy.trees import SHAPES, by_search, drawn

CASES = st.tuples(st.sampled_from(SHAPES), st.integers(0, 2**31 - 1))
N = 20


def answers(found, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, found.classes, N), rng.integers(0, found.classes, N)


@given(CASES)
def test_the_coefficient_is_error_times_severity_counted_sample_by_sample(case):
    shape, seed = case
    found = drawn(shape, seed)
    said, true = answers(found, seed)
    far = np.array([by_search(found)[a, b] for a, b in zip(said, true, strict=True)], float)
    measured = metrics.severity(said, true, found)
    wrong = said != true
    np.testing.assert_allclose(measured.coefficient, far.mean(), rtol=1e-6)
    np.testing.assert_allclose(measured.error, wrong.mean(), rtol=1e-6)
    np.testing.assert_allclose(measured.severity, far[wrong].mean() if wrong.any() else 0, rtol=1e-6)
    np.testing.assert_allclose(measured.error * measured.severity, measured.coefficient, rtol=1e-5)
    paths = np.asarray(found.paths)
    np.testing.assert_allclose(measured.levels, (paths[said] == paths[true]).mean(0), rtol=1e-6)
    assert 0 <= measured.coefficient <= 2 * found.levels
    if found.levels == 1:
        np.testing.assert_allclose(measured.coefficient, 2 * wrong.mean(), rtol=1e-6)
    joined = metrics.catastrophic_coefficient(np.append(said, true), np.append(true, true), found)
    np.testing.assert_allclose(joined, measured.coefficient / 2, rtol=1e-5)  # linear in the counts


def test_right_answers_cost_nothing_and_a_mistake_at_the_root_all():
    found = tree.from_nested({"a": {"b": ["x", "y"]}, "c": ["z"]})
    right = metrics.severity(np.array([0, 1, 2]), np.array([0, 1, 2]), found)
    assert (right.error, right.severity, right.coefficient) == (0, 0, 0)
    worst = metrics.severity(np.array([2, 2]), np.array([0, 1]), found)
    assert (worst.error, worst.severity, worst.coefficient) == (1, 6, 6)


@given(CASES)
def test_heads_agree_where_all_lie_on_the_path_of_the_last_one(case):
    shape, seed = case
    found = drawn(shape, seed)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(0, min(2, size), N) for size in found.sizes])
    rows[-1] = rng.integers(0, found.classes, N)
    agree = [all(found.paths[row[-1]][level] == row[level] for level in range(found.levels)) for row in rows.T]
    np.testing.assert_allclose(metrics.head_agreement(rows, found), np.mean(agree), rtol=1e-6)


@given(CASES)
def test_the_least_expected_distance_by_loops(case):
    shape, seed = case
    found = drawn(shape, seed)
    rows = np.random.default_rng(seed).dirichlet(np.ones(found.classes), N).astype(np.float32)
    chosen = np.asarray(baselines.least_expected_distance(rows, found))
    costs = rows.astype(float) @ by_search(found).astype(float)
    np.testing.assert_allclose(costs[np.arange(N), chosen], costs.min(1), rtol=1e-6)
    if found.levels == 1:
        np.testing.assert_array_equal(chosen, rows.argmax(1))


@given(CASES, st.sampled_from([0.0, 0.5, 3.0]))
def test_soft_labels_fall_with_the_distance(case, beta):
    found = drawn(*case)
    shares = np.exp(-beta * by_search(found))
    expected = shares / shares.sum(1, keepdims=True)
    np.testing.assert_allclose(baselines.soft_labels(found, beta=beta), expected, rtol=1e-5)


def test_the_weights_of_branches_move_from_coarse_to_fine():
    weights = baselines.branch_weights(100)
    assert [int(np.argmax(weights(step))) for step in (0, 9, 10, 19, 20, 29, 30, 99)] == [0, 0, 1, 1, 2, 2, 2, 2]
    np.testing.assert_allclose(weights(29), (0.1, 0.2, 0.7))
    np.testing.assert_allclose(weights(30), (0, 0, 1))


FLAT = tree.flat(2)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: metrics.severity(np.array([2]), np.array([0]), FLAT), r"answers must lie in \[0, 2\)"),
    (lambda: metrics.severity(np.array([0]), np.array([-1]), FLAT), r"labels must lie in \[0, 2\)"),
    (lambda: metrics.severity(np.array([0, 1]), np.array([0]), FLAT), "answers and labels must have one entry"),
    (lambda: metrics.severity(np.zeros(0, int), np.zeros(0, int), FLAT), "at least one sample"),
    (lambda: metrics.head_agreement(np.zeros((2, 3), int), FLAT), "one row a level, 1; got 2"),
    (lambda: baselines.least_expected_distance(np.full((1, 3), 1 / 3), FLAT), "tree has 2 classes; got .* of 3"),
    (lambda: baselines.least_expected_distance(np.array([[2.0, -1.0]]), FLAT), "apply softmax"),
    (lambda: baselines.soft_labels(FLAT, beta=-1.0), r"in \[0, inf\); got -1"),
    (lambda: baselines.branch_weights(0), "at least 1 step; got 0"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
