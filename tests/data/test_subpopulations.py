import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax import data
from subspace_jax.data import subpopulations as kinds

SIZES = 5, 9, 7  # of three well separated clusters


def planted(seed):
    """Two classes of three clusters each, shuffled; the true clusters, 0 the largest."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat([2, 0, 1], SIZES)] * 2)
    labels = np.repeat([0, 1], sum(SIZES))
    place = rng.normal(size=(2, 3, 4)) * 100
    order = rng.permutation(len(labels))
    rows = place[labels, truth] + rng.normal(size=(len(labels), 4))
    return rows[order], labels[order], truth[order], place


@settings(max_examples=4)
@given(st.integers(0, 2**31 - 1))
def test_clusters_are_found_numbered_by_size_and_the_same_for_any_order(seed):
    rows, labels, truth, place = planted(seed)
    found = kinds.subpopulations(rows, labels, per_class=3)
    np.testing.assert_array_equal(found.number, truth)
    np.testing.assert_allclose(found.centres, place, atol=3)
    far = np.linalg.norm(rows[:, None] - found.centres[labels], axis=2)
    np.testing.assert_array_equal(kinds.nearest(found, rows, labels), far.argmin(1))


def test_the_kinds_of_digits_are_numbered_by_size_and_do_not_depend_on_the_order_of_rows():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    found = kinds.subpopulations(train["image"], train["label"], index=train["index"])
    order = np.argsort(train["label"], kind="stable")[::-1]
    again = kinds.subpopulations(train["image"][order], train["label"][order], index=train["index"][order])
    np.testing.assert_array_equal(again.number, found.number[order])
    for k in range(10):
        sizes = np.bincount(found.number[train["label"] == k], minlength=4)
        assert (np.diff(sizes) <= 0).all()
        assert sizes.sum() == (train["label"] == k).sum()
    number = kinds.nearest(found, test["image"], test["label"])
    assert set(number) == {0, 1, 2, 3}


@given(st.integers(0, 2**31 - 1))
def test_fine_classes_are_numbered_inside_their_class(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.permutation(np.arange(12) % 4)  # of each fine class
    fine = rng.permutation(np.repeat(np.arange(12), 2))
    number = kinds.numbered(fine, coarse[fine])
    for f, n in zip(fine, number, strict=True):
        assert n == sum(coarse[g] == coarse[f] for g in range(f))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 20])
def test_the_fixed_shifts_take_half_of_the_kinds(count):
    found = [kinds.targets(count, split) for split in range(3)]
    assert all(len(set(one)) == count // 2 for one in found)
    assert set(found[0]).isdisjoint(found[1])
    assert all(max(one) < count for one in found)
    if count > 2:
        assert all(set(a) != set(b) for a, b in itertools.combinations(found, 2))
    assert [kinds.targets(4, k) for k in range(3)] == [(0, 1), (2, 3), (3, 0)]


def test_source_and_target_share_nothing():
    number = np.array([0, 1, 2, 3, 1])
    source, target = kinds.shifted(number, source=(2, 3), target=(0, 1))
    assert source.tolist() == [False, False, True, True, False]
    assert target.tolist() == [True, True, False, False, True]


ROWS, LABELS = np.zeros((4, 2)), np.array([0, 0, 1, 1])
FOUND = kinds.Subpopulations(np.zeros(4, int), np.zeros((2, 2, 2)))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kinds.subpopulations(ROWS, LABELS, per_class=1), "at least 2 subpopulations of each; got 1"),
    (lambda: kinds.subpopulations(ROWS, LABELS, per_class=3), "class 0 has 2 samples for 3 subpopulations"),
    (lambda: kinds.subpopulations(ROWS * np.nan, LABELS, per_class=2), "x must be finite"),
    (lambda: kinds.subpopulations(ROWS, LABELS, per_class=2, index=np.arange(3)), "labels and index must have one"),
    (lambda: kinds.nearest(FOUND, ROWS, LABELS + 1), r"labels must lie in \[0, 2\)"),
    (lambda: kinds.nearest(FOUND, ROWS[:, :1], LABELS), "of 2 numbers a sample; got 1"),
    (lambda: kinds.numbered(np.array([0, 1, 0, 1]), LABELS), "fine class 0 has samples of two classes"),
    (lambda: kinds.numbered(np.array([0, 1, 2, 2]), LABELS), "class 1 has one fine class"),
    (lambda: kinds.targets(1, 0), "of at least 2 kinds; got split 0 of 1"),
    (lambda: kinds.targets(4, 3), "splits 0, 1 and 2"),
    (lambda: kinds.shifted(LABELS, source=(0, 1), target=(1,)), "kind 1 is in source and target"),
    (lambda: kinds.shifted(LABELS, source=(0,), target=()), "at least one kind each"),
])  # fmt: skip
def test_what_is_no_shift_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
