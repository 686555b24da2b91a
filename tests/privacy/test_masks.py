"""Masks of shadow models: halves, complements, balance."""

import jax
import numpy as np
import pytest

from subspace_jax.memorization import stability
from subspace_jax.privacy import links
from subspace_jax.privacy.masks import independent_masks, shadow_masks


@pytest.mark.parametrize("samples", [2, 10, 1437])
def test_pairs_complement_each_other_and_each_sample_is_in_half_of_the_models(samples):
    masks = shadow_masks(jax.random.key(0), 6, samples)
    assert masks.shape == (6, samples)
    assert masks.dtype == bool
    assert set(masks.sum(axis=1)) == {samples // 2}
    assert not (masks[::2] & masks[1::2]).any()
    in_a_pair = masks[::2] | masks[1::2]
    assert set((~in_a_pair).sum(axis=1)) == {samples % 2}
    assert (~in_a_pair).sum(axis=0).max() <= 1, "a sample was left out twice before all others were"


def test_every_sample_is_left_out_once_before_one_is_twice():
    masks = shadow_masks(jax.random.key(1), 10, 5)
    np.testing.assert_array_equal(masks.sum(axis=0), 4)


def test_more_models_keep_the_first_pairs_and_another_key_changes_them():
    few, many = (shadow_masks(jax.random.key(2), models, 9) for models in (4, 8))
    np.testing.assert_array_equal(few, many[:4])
    assert (shadow_masks(jax.random.key(3), 4, 9) != few).any()


@pytest.mark.parametrize(("models", "samples", "match"), [(1, 4, "even"), (3, 4, "even"), (2, 1, "at least 2 samples")])
def test_what_makes_no_pairs_is_refused(models, samples, match):
    with pytest.raises(ValueError, match=match):
        shadow_masks(jax.random.key(0), models, samples)


def test_independent_masks_are_fair_coins_in_complementary_pairs():
    masks = independent_masks(jax.random.key(0), 400, 50)
    assert (masks[::2] == ~masks[1::2]).all()
    np.testing.assert_array_equal(masks.sum(axis=0), 200)
    sizes = masks[::2].sum(axis=1)
    assert abs(sizes.mean() - 25) < 5 * np.sqrt(50) / 2 / np.sqrt(200)
    assert 0.7 < sizes.std() / (np.sqrt(50) / 2) < 1.3, "sizes vary as those of independent samples"
    together = (2.0 * masks[::2] - 1).T @ (2.0 * masks[::2] - 1) / 200
    assert np.abs(together - np.eye(50)).max() < 5 / np.sqrt(200)


def test_memorization_is_estimated_without_bias_from_models_with_and_without_each_sample():
    """A planted table: sample i is right with its own chances IN and OUT."""
    rng, keep = np.random.default_rng(0), independent_masks(jax.random.key(1), 200, 1000)
    inside, outside = rng.uniform(0.2, 0.8, (2, 1000))
    outcome = (rng.random(keep.shape) < np.where(keep, inside, outside)).astype(np.float32)
    found = stability.memorization(outcome, keep)
    off = np.abs(np.asarray(found.value) - (inside - outside)) / np.asarray(found.stderr)
    assert (off < 4).mean() >= 0.999
    np.testing.assert_allclose(links.sampling_error(outcome, keep), found.stderr * np.sqrt(100 / 99), rtol=1e-4)


@pytest.mark.parametrize(("models", "samples", "match"), [(3, 4, "even"), (2, 0, "at least 1 sample")])
def test_what_makes_no_independent_pairs_is_refused(models, samples, match):
    with pytest.raises(ValueError, match=match):
        independent_masks(jax.random.key(0), models, samples)
