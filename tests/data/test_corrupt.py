import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.data import corrupt

SIZES = st.sampled_from([(1, 2), (30, 3), (101, 10)])  # (samples, classes)
SEEDS = st.integers(0, 2**31 - 1)
FRACTIONS = st.sampled_from([0.0, 0.1, 0.35, 1.0])
KEY = jax.random.key(0)
LABELS = np.arange(10) % 3


def draw(size, seed):
    n, classes = size
    return jax.random.key(seed), np.random.default_rng(seed).integers(0, classes, n)


@given(SIZES, SEEDS, FRACTIONS, st.sampled_from([corrupt.symmetric, corrupt.pair]))
def test_exactly_the_asked_share_is_wrong(size, seed, fraction, kind):
    key, labels = draw(size, seed)
    before = labels.copy()
    noisy = kind(key, labels, fraction=fraction, classes=size[1])
    assert (noisy != labels).sum() == round(fraction * size[0])
    assert noisy.dtype == np.int32
    assert noisy.min() >= 0
    assert noisy.max() < size[1]
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(noisy, kind(key, labels, fraction=fraction, classes=size[1]))


@given(SIZES, SEEDS, FRACTIONS)
def test_pair_steps_to_the_next_class_on_the_samples_of_symmetric(size, seed, fraction):
    key, labels = draw(size, seed)
    paired = corrupt.pair(key, labels, fraction=fraction, classes=size[1])
    uniform = corrupt.symmetric(key, labels, fraction=fraction, classes=size[1])
    np.testing.assert_array_equal(paired, np.where(uniform != labels, (labels + 1) % size[1], labels))


def test_other_classes_are_equally_likely():
    n, classes = 30_000, 4
    noisy = corrupt.symmetric(KEY, np.full(n, 2), fraction=1.0, classes=classes)
    share = np.bincount(noisy, minlength=classes) / n
    assert share[2] == 0
    assert abs(share[[0, 1, 3]] - 1 / 3).max() < 5 * np.sqrt(2 / 9 / n)  # five standard errors


def test_keys_differ():
    a, b = (corrupt.symmetric(jax.random.key(s), np.zeros(50, int), fraction=0.5, classes=2) for s in (0, 1))
    assert (a != b).any()


@given(SIZES, SEEDS, st.sampled_from([0.0, 0.3]), st.booleans())
def test_duplicates(size, seed, avoided, most):
    key, labels = draw(size, seed)
    n, classes = size
    image = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1)
    avoid = np.random.default_rng(seed).random(n) < avoided
    pairs = (~avoid).sum().item() // 2 if most else 0
    found = corrupt.duplicates(key, image, labels, pairs=pairs, classes=classes, avoid=avoid)
    a, b = found.pairs.T
    assert found.pairs.shape == (pairs, 2)
    assert found.pairs.dtype == np.int64
    assert len(np.unique(found.pairs)) == 2 * pairs
    assert not avoid[found.pairs].any()
    np.testing.assert_array_equal(found.image[a], image[b])
    assert (found.label[a] != labels[b]).all()
    assert ((found.label >= 0) & (found.label < classes)).all()
    rest = np.setdiff1d(np.arange(n), a)
    np.testing.assert_array_equal(found.image[rest], image[rest])
    np.testing.assert_array_equal(found.label[rest], labels[rest])


def test_given_labels_are_taken_as_they_are():
    human = (LABELS + 1) % 3
    found = corrupt.given(LABELS, human.astype(np.uint8), classes=3)
    np.testing.assert_array_equal(found, human)
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corrupt.symmetric(KEY, LABELS, fraction=1.5, classes=3), r"in \[0, 1\]; got 1.5"),
        (lambda: corrupt.pair(KEY, LABELS, fraction=-0.1, classes=3), r"in \[0, 1\]; got -0.1"),
        (lambda: corrupt.pair(KEY, LABELS, fraction=float("nan"), classes=3), "got nan"),
        (lambda: corrupt.symmetric(KEY, LABELS, fraction=0.1, classes=2), r"in \[0, 2\); got 2 at position"),
        (lambda: corrupt.symmetric(KEY, LABELS - 1, fraction=0.1, classes=3), r"in \[0, 3\); got -1"),
        (lambda: corrupt.symmetric(KEY, LABELS * 0, fraction=0.1, classes=1), "at least 2 classes, got 1"),
        (lambda: corrupt.symmetric(KEY, LABELS / 2, fraction=0.1, classes=3), "cast them by"),
        (lambda: corrupt.symmetric(KEY, np.eye(3, dtype=int), fraction=0.1, classes=3), "argmax.* of one-hot labels"),
        (
            lambda: corrupt.given(LABELS, LABELS[:5], classes=3),
            "labels and other must have .*; got 10 and 5",
        ),
        (lambda: corrupt.given(LABELS, LABELS + 1, classes=3), r"in \[0, 3\); got 3"),
        (lambda: plant(pairs=6), r"pairs is in \[0, 5\], two of 10 free samples each; got 6"),
        (lambda: plant(pairs=-1), "got -1"),
        (lambda: plant(pairs=4, avoid=LABELS == 0), r"pairs is in \[0, 3\], two of 6 free samples each; got 4"),
        (lambda: plant(pairs=1, avoid=LABELS[:4] == 0), "label and avoid must have .*; got 10 and 4"),
        (lambda: plant(pairs=1, avoid=LABELS), "avoid marks samples .*booleans .*got int64"),
        (
            lambda: plant(pairs=1, image=np.zeros((9, 1))),
            "label and image must have .*; got 10 and 9",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def plant(*, pairs, image=None, avoid=None):
    image = np.zeros((10, 1)) if image is None else image
    return corrupt.duplicates(KEY, image, LABELS, pairs=pairs, classes=3, avoid=avoid)
