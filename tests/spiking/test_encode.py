"""The parts of an image by frequency, the accumulators that turn them into spikes, and Poisson spikes."""

import jax
import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.spiking import encode

ORDER = [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (3, 1), (2, 2), (1, 3), (2, 3),
         (3, 2), (3, 3)]  # fmt: skip
X = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
encoded = jax.jit(encode.dct_encode, static_argnames=("steps", "keep"))


def test_the_zigzag_order_is_that_of_jpeg_and_the_matrix_is_orthonormal():
    assert list(map(tuple, encode.zigzag(4))) == ORDER
    assert sorted(map(tuple, encode.zigzag(8))) == [(i, j) for i in range(8) for j in range(8)]
    for n in (2, 4, 8):
        np.testing.assert_allclose(encode.dct_matrix(n) @ encode.dct_matrix(n).T, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(encode.dct_matrix(4), scipy.fft.dct(np.eye(4), axis=0, norm="ortho"), atol=1e-12)


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_frames_are_the_blocks_one_frequency_at_a_time_and_sum_to_them(stride):
    frames = np.asarray(encode.dct_frames(X, block=4, stride=stride))
    expanded = encode.expand(X, block=4, stride=stride)
    assert frames.shape == (16, *expanded.shape)
    np.testing.assert_allclose(frames.sum(0), expanded, atol=1e-5)
    count = (8 - 4) // stride + 1
    for at in range(count):  # a diagonal of blocks, each by SciPy's transform
        whole = X[1, at * stride :, at * stride :, 0][:4, :4]
        found = scipy.fft.dctn(whole, norm="ortho")
        for number, place in enumerate(ORDER):
            one = np.zeros((4, 4))
            one[place] = found[place]
            mine = frames[number, 1, 4 * at : 4 * at + 4, 4 * at : 4 * at + 4, 0]
            np.testing.assert_allclose(mine, scipy.fft.idctn(one, norm="ortho"), atol=1e-5)


def test_colours_become_luma_and_chroma():
    """Of white, grey and the three primaries, by the table of JFIF."""
    pixels = np.array([[255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float32) / 255
    expected = [
        [255, 128, 128],
        [128, 128, 128],
        [76.245, 84.97, 255.5],
        [149.685, 43.53, 21.23],
        [29.07, 255.5, 107.27],
    ]
    x = np.broadcast_to(pixels[:, None, None], (5, 4, 4, 3))
    frames = np.asarray(encode.dct_frames(x))
    np.testing.assert_allclose(frames.sum(0)[:, 2, 1] * 255, expected, atol=0.02)
    np.testing.assert_allclose(np.asarray(encode.dct_frames(x, colour=False)).sum(0), x, atol=1e-5)


@given(st.integers(0, 2**16), st.sampled_from([None, 5]))
def test_nothing_is_lost_in_the_accumulators(seed, keep):
    """Sum of frames = positive times its spikes + negative times its spikes + what is left, on dyadic sums."""
    frames = np.random.default_rng(seed).integers(-16, 16, (16, 2, 4, 4, 1)).astype(np.float32) / 16
    negative, positive = -0.5, 0.75
    spikes = np.asarray(encoded(frames, negative, positive, steps=23, keep=keep))
    total, expected = np.zeros((2, 4, 4, 1)), []
    for t in range(23):
        total += frames[t % (keep or 16)]
        fired = 1.0 * (total > positive) - 1.0 * (total < negative)
        total -= positive * (fired > 0) + negative * (fired < 0)
        expected.append(fired)
    np.testing.assert_array_equal(spikes, expected)
    given_in = sum(frames[t % (keep or 16)] for t in range(23))
    np.testing.assert_array_equal(positive * (spikes > 0).sum(0) + negative * (spikes < 0).sum(0) + total, given_in)


@given(st.integers(0, 2**16), st.floats(-2, 2))
def test_frames_are_linear_in_the_image(seed, weight):
    x, y = np.random.default_rng(seed).uniform(-0.25, 0.25, (2, 1, 4, 4, 1)).astype(np.float32)
    both = encode.dct_frames(x + np.float32(weight) * y)
    np.testing.assert_allclose(both, encode.dct_frames(x) + weight * encode.dct_frames(y), atol=1e-5)


def test_accumulators_of_real_frames_are_bounded_and_lose_nothing():
    frames = np.asarray(encode.dct_frames(X))
    negative, positive = encode.encoder_thresholds(frames)
    spikes = np.asarray(encoded(frames, negative, positive, steps=40), np.float64)
    sums = np.cumsum(np.concatenate([frames] * 3)[:40].astype(np.float64), 0)
    left = sums - np.cumsum(positive * (spikes > 0) + negative * (spikes < 0), 0)
    # a spike takes one threshold a step: what is left is never above that and the largest sum of frames of one pixel
    reach = np.abs(frames).sum(0).max()
    assert np.abs(left).max() <= max(positive, -negative) + reach
    again, _, total = np.zeros_like(X, np.float64), 0, np.zeros_like(X, np.float64)
    for t in range(40):
        total += frames[t % 16]
        again = positive * (spikes[: t + 1] > 0).sum(0) + negative * (spikes[: t + 1] < 0).sum(0)
    np.testing.assert_allclose(total - again, left[-1], atol=1e-5)
    assert (spikes != 0).any()


def test_all_frequencies_kept_are_no_cut():
    frames = encode.dct_frames(X)
    np.testing.assert_array_equal(encoded(frames, -0.3, 0.3, steps=20, keep=16), encoded(frames, -0.3, 0.3, steps=20))


def test_poisson_spikes_tend_to_the_image_and_do_not_depend_on_the_batch():
    key, index = jax.random.key(0), np.array([4, 7, 9])
    spikes = np.asarray(encode.poisson(key, X, index, steps=1500))
    assert set(np.unique(spikes)) <= {-1, 0, 1}
    assert np.abs(spikes.mean(0) - X).max() <= 4 / np.sqrt(1500)
    alone = encode.poisson(key, X[2:], index[2:], steps=1500)
    np.testing.assert_array_equal(alone[:, 0], spikes[:, 2])
    assert (spikes[:, 0] * np.sign(X[0]) >= 0).all()


def test_thresholds_are_percentiles_of_all_entries():
    frames = np.asarray(encode.dct_frames(X))
    expected = np.percentile(frames.astype(np.float64), [6.5, 93.5])
    np.testing.assert_allclose(encode.encoder_thresholds(frames), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(encode.encoder_thresholds)(frames), expected, rtol=1e-4)  # of each batch


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode.dct_frames(X * 16), r"images are in \[-1, 1\]"),
        (lambda: encode.poisson(jax.random.key(0), X * 255, np.arange(3), steps=2), r"images are in \[-1, 1\]"),
        (lambda: encode.direct(X + 1), r"images are in \[-1, 1\]"),
        (lambda: encode.dct_frames(X[:, :7]), "images of 7x8, whose last 3 rows and 0 columns would be lost"),
        (lambda: encode.dct_frames(X, block=16), "blocks of 16"),
        (lambda: encode.encoder_thresholds(np.zeros((2, 1, 4, 4, 1), np.float32)), "not on both sides of 0"),
        (lambda: encode.dct_encode(X[None], -1.0, 1.0, steps=0), "at least one step; got 0"),
        (lambda: encode.dct_encode(X[None], -1.0, 1.0, steps=2, keep=2), r"keep is in \[1, 1\]"),
    ],
)  # fmt: skip
def test_bad_images_and_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
