"""Poisson sets: the chance of every sample, one width, the same sets for a run that is resumed."""

import jax
import numpy as np
import pytest

from subspace_jax.privacy.sampling import poisson_sets

KEY = jax.random.key(2)
SIX_SIGMA = 6


def masks(found, samples):
    out = np.zeros((len(found.index), samples), bool)
    for row, index, padding in zip(out, *found, strict=True):
        row[index[~padding]] = True
    return out


def test_every_sample_enters_with_chance_q_independently_of_others_and_of_the_step():
    samples, steps, q = 200, 400, 0.1
    found = masks(poisson_sets(KEY, samples, q=q, steps=steps), samples)
    for axis, count in ((0, steps), (1, samples), (None, samples * steps)):
        error = np.sqrt(q * (1 - q) / count)
        assert np.abs(found.mean(axis=axis) - q).max() < SIX_SIGMA * error
    sizes = found.sum(axis=1)
    assert sizes.var() == pytest.approx(samples * q * (1 - q), rel=0.3)
    together = (found[:, :-1] & found[:, 1:]).mean()
    assert together == pytest.approx(q**2, rel=0.15)


def test_sets_ascend_and_are_filled_up_to_one_width():
    found = poisson_sets(KEY, 50, q=0.2, steps=30, pad_to=8)
    sizes = (~found.is_padding).sum(axis=1)
    assert found.index.dtype == np.int32
    assert found.index.shape == found.is_padding.shape == (30, 8 * -(-sizes.max() // 8))
    np.testing.assert_array_equal(found.is_padding, found.index == -1)
    for index, size in zip(found.index, sizes, strict=True):
        assert (np.diff(index[:size]) > 0).all()
        assert (index[size:] == -1).all()


def test_a_step_may_be_empty_and_q_of_one_takes_all():
    found = poisson_sets(KEY, 3, q=1e-9, steps=2, pad_to=4)
    assert found.is_padding.all()
    assert found.index.shape == (2, 4)
    assert not poisson_sets(KEY, 4, q=1.0, steps=2, pad_to=4).is_padding.any()


def test_later_steps_are_those_of_the_whole_run():
    whole, rest = poisson_sets(KEY, 80, q=0.3, steps=9), poisson_sets(KEY, 80, q=0.3, steps=4, start=5)
    np.testing.assert_array_equal(masks(whole, 80)[5:], masks(rest, 80))
    assert (masks(whole, 80) != masks(poisson_sets(jax.random.key(3), 80, q=0.3, steps=9), 80)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": 0.0}, r"q is the chance of a sample to enter a step, in \(0, 1\]; got 0.0"),
        ({"q": 1.1}, "got 1.1"),
        ({"q": float("nan")}, "got nan"),
        ({"steps": 0}, "at least 1 each; got 10, 0 and 32"),
        ({"samples": 0}, "at least 1 each; got 0, 3"),
        ({"start": -1}, "from step -1 on"),
        ({"max_batch": 2}, r"step 0 drew 10 samples, 10 are expected, and max_batch is 2: raise it"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        poisson_sets(KEY, **{"samples": 10, "q": 1.0, "steps": 3} | change)
