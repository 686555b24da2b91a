"""Inputs that no data set holds, and images brought to another shape."""

import jax
import numpy as np
import pytest

from subspace_jax.ood import outliers

SHAPE = (400, 8, 8, 3)


@pytest.mark.parametrize("name", outliers.NOISES)
def test_noises_are_pixels_and_differ_between_images(name):
    images = np.asarray(outliers.NOISES[name](jax.random.key(0), SHAPE))
    assert images.shape == SHAPE
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.mean() == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(images.reshape(400, -1), axis=0)) == 400


def test_each_noise_is_what_its_name_says():
    images = {name: np.asarray(make(jax.random.key(1), SHAPE)) for name, make in outliers.NOISES.items()}
    assert set(np.unique(images["salt_pepper"])) == {0, 1}
    assert np.ptp(images["constant"], axis=(1, 2)).max() == 0
    assert images["uniform"].std() == pytest.approx(12**-0.5, abs=0.01)
    inside = (images["gaussian"] > 0) & (images["gaussian"] < 1)
    assert inside.mean() == pytest.approx(0.9545, abs=0.01)  # two deviations
    step = {name: np.abs(np.diff(found, axis=1)).mean() for name, found in images.items()}
    assert step["blur"] < step["uniform"] / 2


def test_known_images_are_inverted_and_their_pixels_moved_alike():
    image = np.random.default_rng(0).random((5, 4, 4, 2))
    np.testing.assert_allclose(outliers.inverted(outliers.inverted(image)), image)
    moved = outliers.permuted(jax.random.key(0), image)
    np.testing.assert_allclose(np.sort(moved, axis=None), np.sort(image, axis=None))
    counted = outliers.permuted(jax.random.key(0), np.broadcast_to(np.arange(16.0).reshape(1, 4, 4, 1), (2, 4, 4, 1)))
    np.testing.assert_array_equal(counted[0], counted[1])
    assert (counted[0].ravel() != np.arange(16)).any()


def test_images_are_cropped_padded_grey_and_repeated():
    image = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
    np.testing.assert_array_equal(outliers.fitted(image, (4, 3, 3)), image[:, 1:5, 1:4])
    padded = outliers.fitted(image, (9, 5, 3))
    np.testing.assert_array_equal(padded[:, 1:7], image)
    assert (padded[:, 0] == 0).all()
    assert (padded[:, 7:] == 0).all()
    luma = np.rint(image @ [0.299, 0.587, 0.114])
    np.testing.assert_array_equal(outliers.fitted(image, (6, 5, 1))[..., 0], luma)
    np.testing.assert_array_equal(outliers.fitted(image, (6, 5, 3), grey=True)[..., 2], luma)
    np.testing.assert_array_equal(outliers.fitted(image[..., :1], (6, 5, 3))[..., 1], image[..., 0])
    with pytest.raises(ValueError, match=r"images are \(n, h, w, 1 or 3\)"):
        outliers.fitted(image[..., :2], (6, 5, 3))
