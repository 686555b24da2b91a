import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.memorization.duplicates import conflicting_copies

DTYPES = st.sampled_from([np.bool_, np.uint8, np.int64, np.float16, np.float32, np.float64])
SHAPES = st.sampled_from([(), (3,), (2, 2, 1), (8, 8, 3)])


@given(st.integers(0, 2**31 - 1), DTYPES, SHAPES)
def test_groups_are_those_of_comparing_every_pair(seed, dtype, shape):
    rng = np.random.default_rng(seed)
    image, label = rng.integers(0, 5, (30, *shape)).astype(dtype), rng.integers(0, 3, 30)
    image[rng.choice(30, 6, replace=False)] = image[rng.choice(30, 6, replace=False)]
    copies = [[j for j in range(30) if np.array_equal(image[i], image[j])] for i in range(30)]
    oracle = {tuple(group) for group in copies if len(set(label[group])) > 1}
    for pixels in (image, np.asfortranarray(image)):
        found = conflicting_copies(pixels, label)
        assert {tuple(group) for group in found} == oracle
        assert len(found) == len(oracle)


@pytest.mark.parametrize("label", [[1, 1, 0], [0, 1, 1]])
def test_only_copies_whose_labels_differ_conflict(label):
    image = np.array([[0.5, 0.25], [0.5, 0.25], [0.5, 0.75]])
    assert len(conflicting_copies(image, np.array(label))) == (label[0] != label[1])
