"""Masks of shadow models: halves, complements, balance."""

import jax
import numpy as np
import pytest

from subspace_jax.privacy.masks import shadow_masks


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
