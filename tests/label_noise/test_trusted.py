import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.label_noise.trusted import check_trusted, select_members, select_trusted

SEEDS = st.integers(0, 2**31 - 1)
CLASSES, N = 3, 36


def draw(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=N), rng.permutation(np.arange(N) % CLASSES)


@given(SEEDS, st.sampled_from([0.0, 0.1, 0.5]))
def test_the_lowest_curvatures_of_each_class_after_the_skipped_ones(seed, skip):
    curvature, y = draw(seed)
    chosen = select_trusted(curvature, y, per_class=4, skip=skip)
    for label, found in enumerate(chosen.reshape(CLASSES, 4)):
        start = int(skip * N / CLASSES)
        assert curvature[found].tolist() == sorted(curvature[y == label])[start : start + 4]
        assert (y[found] == label).all()


@given(SEEDS)
def test_the_choice_moves_with_the_samples(seed):
    curvature, y = draw(seed)
    order = np.random.default_rng(seed + 1).permutation(N)
    moved = select_trusted(curvature[order], y[order], per_class=4)
    np.testing.assert_array_equal(order[moved], select_trusted(curvature, y, per_class=4))


def test_equal_curvatures_are_taken_in_their_order():
    np.testing.assert_array_equal(select_trusted(np.zeros(4), np.array([1, 0, 1, 0]), per_class=1), [1, 0])


@given(SEEDS)
def test_members_are_balanced_random_and_do_not_depend_on_their_order(seed):
    _, y = draw(seed)
    members, key = np.flatnonzero(np.arange(N) % 4), jax.random.key(seed)
    chosen = select_members(key, members, y, per_class=2)
    np.testing.assert_array_equal(y[chosen], [0, 0, 1, 1, 2, 2])
    assert set(chosen) <= set(members)
    assert len(set(chosen)) == 6
    np.testing.assert_array_equal(select_members(key, members[::-1], y, per_class=2), chosen)
    assert set(select_members(jax.random.key(seed + 1), members, y, per_class=2)) != set(chosen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curvature": np.zeros(2)}, "curvature and labels must have one entry per sample; got 2 and 3"),
        ({"curvature": np.array([0, np.nan, 1])}, "curvature must be finite; got nan at position 1"),
        ({"per_class": 0}, "per_class is at least 1.*got 0"),
        ({"skip": 1.0}, r"skip in \[0, 1\); got 1 and 1.0"),
        ({"skip": float("nan")}, r"skip in \[0, 1\); got 1 and nan"),
        ({"per_class": 2}, "class 1 has 1 samples to choose from; 2 are asked for"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(change, message):
    case = {"curvature": np.zeros(3), "y": np.array([0, 0, 1]), "per_class": 1, "skip": 0.0, **change}
    with pytest.raises(ValueError, match=message):
        select_trusted(case.pop("curvature"), case.pop("y"), **case)


def test_a_trusted_set_without_a_class_is_refused_by_name():
    y = np.array([0, 1, 2, 0, 1, 3])
    check_trusted(np.array([0, 1, 2, 5]), y, classes=4)
    with pytest.raises(ValueError, match="class 3 has no trusted sample"):
        check_trusted(np.array([0, 1, 2, 3]), y, classes=4)
    with pytest.raises(ValueError, match="3 trusted samples for 4 classes"):
        check_trusted(np.array([0, 1, 2, 2]), y, classes=4)
    check_trusted(np.array([0, 2, 5]), y, classes=[0, 2, 3])
    with pytest.raises(ValueError, match="class 2 has no trusted sample"):
        check_trusted(np.array([0, 3, 5]), y, classes=np.array([0, 2, 3]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\); got 3"):
        check_trusted(np.array([0, 1, 2, 5]), y, classes=3)


def test_samples_that_are_trusted_and_choose_alpha_are_told():
    y = np.array([0, 1, 0])
    check_trusted(np.array([0, 1]), y, classes=2, selection=np.array([2]))
    with pytest.warns(UserWarning, match="1 samples are trusted and choose alpha too"):
        check_trusted(np.array([0, 1]), y, classes=2, selection=np.array([1, 2]))
