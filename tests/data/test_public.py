"""Samples in common: moved, drawn, read, and recognised among others."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.data import public

SEEDS = st.integers(0, 2**31 - 1)


@given(SEEDS, st.sampled_from([0, 1, 2]))
def test_an_image_is_moved_by_so_many_pixels_and_no_more(seed, by):
    image = np.random.default_rng(seed).integers(1, 9, (40, 5, 4, 2), np.uint8)
    found = public.moved(jax.random.key(seed), image, by=by)
    assert found.dtype == image.dtype
    seen = set()
    for old, new in zip(image, found, strict=True):
        wide = np.pad(old, ((by, by), (by, by), (0, 0)))
        corners = [(i, j) for i in range(2 * by + 1) for j in range(2 * by + 1)
                   if (wide[i : i + 5, j : j + 4] == new).all()]  # fmt: skip
        assert corners
        seen |= set(corners)
    assert len(seen) > 2 * by
    np.testing.assert_array_equal(found, public.moved(jax.random.key(seed), image, by=by))


@given(SEEDS)
def test_noise_fills_the_range_of_the_samples(seed):
    like = np.random.default_rng(seed).integers(3, 17, (9, 4, 4, 1), np.uint8)
    found = public.noise(jax.random.key(seed), like, count=300)
    low, high = like.min(), like.max()
    assert found.shape == (300, 4, 4, 1)
    assert found.dtype == np.float32
    assert low <= found.min() < low + 0.02 * (high - low)
    assert high >= found.max() > high - 0.02 * (high - low)
    assert abs(found.mean() - (low + high) / 2) < 0.02 * (high - low)  # 4 deviations of 4,800 numbers


@given(SEEDS)
def test_samples_are_known_by_all_their_numbers(seed):
    rng = np.random.default_rng(seed)
    samples, others = rng.integers(0, 2, (20, 2, 2, 1), np.uint8), rng.integers(0, 2, (6, 2, 2, 1), np.uint8)
    expected = [(sample == others).all((1, 2, 3)).any() for sample in samples]
    np.testing.assert_array_equal(public.among(samples, others), expected)
    assert public.among(others, others[::-1]).all()


def test_a_file_needs_no_labels(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(tmp_path / "images.npz", image=image, label=["cat", "dog"])
    np.testing.assert_array_equal(public.read(tmp_path / "images.npz"), image[..., None])
    np.savez(tmp_path / "rows.npz", x=np.ones((3, 2)))
    assert public.read(tmp_path / "rows.npz").dtype == np.float32


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pixels": np.ones(3)}, "no image and no x: save"), ({"image": np.ones((2, 3))}, "image has the shape"),
        ({"x": np.array([[np.nan]])}, "finite"), ({"image": np.full((1, 2, 2), 300)}, "pixels 0..255"),
    ],
)  # fmt: skip
def test_a_file_without_samples_is_refused(columns, message, tmp_path):
    np.savez(tmp_path / "a.npz", **columns)
    with pytest.raises(ValueError, match=message):
        public.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: public.moved(jax.random.key(0), np.ones((2, 3))), r"images .* got \(2, 3\) and 1"),
        (lambda: public.moved(jax.random.key(0), np.ones((2, 3, 3, 1)), by=-1), "and -1"),
        (lambda: public.noise(jax.random.key(0), np.ones((2, 3)), count=-1), "got -1"),
        (lambda: public.noise(jax.random.key(0), np.ones((0, 3)), count=1), "like 0"),
        (lambda: public.among(np.ones((2, 3)), np.ones((2, 4))), r"got \(2, 3\) and \(2, 4\)"),
    ],
)
def test_bad_input(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
