import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.memorization import confident_learning as cl

SEEDS = st.integers(0, 2**31 - 1)
find = jax.jit(cl.confident_learning)


@given(SEEDS, st.sampled_from([3, 5]))  # of 5 classes one or two often have no samples
def test_flags_and_ranking_are_those_of_the_plain_loop(seed, classes):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), 12).astype(np.float32)
    y = rng.integers(0, 3, 12)
    threshold = {j: np.mean([p[i, j] for i in range(12) if y[i] == j]) for j in set(y)}
    flagged = [any(p[i, j] >= threshold[j] for j in threshold if j != y[i]) for i in range(12)]
    out = find(p, y)
    np.testing.assert_array_equal(out.flagged, flagged)
    order = sorted(range(12), key=lambda i: (not flagged[i], p[i, y[i]]))
    np.testing.assert_array_equal(np.argsort(-out.score, stable=True), order)


def test_certain_and_right_is_never_flagged():
    y = np.array([0, 1, 2, 1])
    out = find(np.eye(4, dtype=np.float32)[y], y)
    assert not np.asarray(out.flagged).any()
    np.testing.assert_array_equal(out.score, 0)


def test_as_confident_as_the_average_is_flagged():
    out = find(np.full((2, 2), 0.5), np.array([0, 1]))
    assert np.asarray(out.flagged).all()


@given(SEEDS, st.sampled_from([(13, 3), (2, 3), (50, 2)]))
def test_folds_are_of_equal_size_within_one_and_follow_the_key(seed, sizes):
    samples, count = sizes
    fold = cl.folds(jax.random.key(seed), samples, count=count)
    members = np.bincount(fold, minlength=count)
    assert members.sum() == samples
    assert np.ptp(members) <= 1
    np.testing.assert_array_equal(fold, cl.folds(jax.random.key(seed), samples, count=count))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 2\); got {label} at position 1"):
        cl.confident_learning(np.full((2, 2), 0.5), np.array([0, label]))
