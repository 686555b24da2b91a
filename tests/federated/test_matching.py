"""Structural similarity and best matches against plain loops in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.federated import matching

SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.sampled_from([(8, 8, 1), (9, 7, 2)])
FLOAT32 = 2e-5  # a quotient of small variances


def images(seed, n, shape):
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


def by_hand(a, b):
    """Window after window, channel after channel."""
    a, b, found = a.astype(float), b.astype(float), []
    for c in range(a.shape[2]):
        for i in range(a.shape[0] - 6):
            for j in range(a.shape[1] - 6):
                p, q = (image[i : i + 7, j : j + 7, c].ravel() for image in (a, b))
                (s_p, s_pq), (_, s_q) = np.cov(p, q)
                top = (2 * p.mean() * q.mean() + 1e-4) * (2 * s_pq + 9e-4)
                found.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (s_p + s_q + 9e-4)))
    return np.mean(found)


@given(SEEDS, SHAPES)
def test_similarity_of_all_pairs_is_that_of_loops(seed, shape):
    x, y = images(seed, 2, shape), images(seed + 1, 3, shape)
    expected = [[by_hand(a, b) for b in y] for a in x]
    np.testing.assert_allclose(matching.ssim(x, y), expected, atol=FLOAT32)
    np.testing.assert_allclose(np.diag(matching.ssim(x, x)), 1, atol=FLOAT32)


@given(SEEDS)
def test_each_measure_takes_its_own_best_match(seed):
    x, y = images(seed, 3, (8, 8, 1)), images(seed + 1, 4, (8, 8, 1))
    squared = ((x[:, None].astype(float) - y[None]) ** 2).mean((2, 3, 4))
    found = matching.best_match(x, y)
    np.testing.assert_allclose(found.mse, squared.min(1), rtol=1e-5)
    np.testing.assert_allclose(found.psnr, -10 * np.log10(squared.min(1)), rtol=1e-5)
    np.testing.assert_array_equal(found.which, squared.argmin(1))
    np.testing.assert_allclose(found.ssim, [max(by_hand(a, b) for b in y) for a in x], atol=FLOAT32)


def test_a_private_image_among_those_made_is_found_exactly():
    x, y = images(0, 3, (8, 8, 1)), images(1, 4, (8, 8, 1))
    found = matching.best_match(x[1:2], np.concatenate([y, x]))
    assert (found.mse[0], found.which[0]) == (0, 5)
    assert found.psnr[0] == pytest.approx(120)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.zeros((0, 8, 8, 1)), "there is no image to match"),
        (np.zeros((1, 8, 9, 1)), r"images have one size; got \(8, 8, 1\) and \(8, 9, 1\)"),
        (np.full((1, 8, 8, 1), np.nan), "images that were made must be finite.*lower its lr"),
    ],
)
def test_bad_images_are_refused(made, message, unchecked):
    with pytest.raises(ValueError, match=message):
        matching.best_match(images(0, 2, (8, 8, 1)), made.astype(np.float32))
    with pytest.raises(ValueError, match=r"images are \(n, height, width, channels\); got \(2, 64\)"):
        matching.ssim(np.ones((2, 64), np.float32), np.ones((2, 64), np.float32))
    with pytest.raises(ValueError, match="at least 7 x 7 pixels, one window; got"):
        matching.ssim(jnp.zeros((1, 6, 8, 1)), jnp.zeros((1, 6, 8, 1)))
