"""Bins keep every sample; fits find what was planted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.privacy import trends

SEEDS = st.integers(0, 2**31 - 1)
EDGES = np.array([0.0, 0.5, 1.0])
PLANTED = 1e-3  # to which parameters are found again; the search for a rate ends at 1e-10


@given(SEEDS, st.sampled_from(["mean", "max"]))
def test_bins_hold_every_sample_once_and_average_what_they_hold(seed, stat):
    rng = np.random.default_rng(seed)
    x, y, edges = rng.normal(0.4, 0.5, 60), rng.normal(size=60), np.linspace(0, 1, 6)
    found = trends.bin_means(x, y, edges, stat=stat)
    assert found.count.sum() == 60
    assert found.count.min() > 0
    assert not any(np.isnan(column).any() for column in found)
    assert (found.x * found.count).sum() == pytest.approx(x.sum())
    middle = (x >= edges[2]) & (x < edges[3])
    if middle.sum() > 1:
        row = int(np.flatnonzero(np.isclose(found.x, x[middle].mean()))[0])
        assert found.y[row] == pytest.approx(y[middle].max() if stat == "max" else y[middle].mean())
        assert found.y_std[row] == pytest.approx(y[middle].std(ddof=1))


def test_samples_on_an_edge_and_outside_have_one_bin_each():
    found = trends.bin_means(np.array([-5.0, 0.0, 0.5, 1.0, 7.0]), np.arange(1.0, 6.0), EDGES)
    assert found.count.tolist() == [2, 3]
    assert found.y.tolist() == [1.5, 4.0]
    alone = trends.bin_means(np.array([0.1]), np.array([2.0]), EDGES)
    assert [column.tolist() for column in alone] == [[0.1], [2.0], [0.0], [1]]


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_line_is_found_again(slope, intercept):
    x = np.linspace(0, 1, 7)
    found = trends.fit_line(x, slope * x + intercept)
    np.testing.assert_allclose(found.parameters, [slope, intercept], atol=1e-9)
    noise = np.random.default_rng(0).normal(size=7)
    noisy = trends.fit_line(x, noise)
    assert noisy.r2 == pytest.approx(np.corrcoef(x, noise)[0, 1] ** 2)


@given(st.floats(0, 3), st.floats(0, 0.5), st.floats(-3, 3), SEEDS)
def test_slopes_of_groups_are_found_again_and_never_negative(a, b, c, seed):
    rng = np.random.default_rng(seed)
    mem, count = np.linspace(0, 1, 9), rng.integers(2, 60, 9)
    columns = np.stack([mem * np.sqrt(count), count, np.ones(9)], axis=1)
    found = trends.fit_subpopulation(mem, columns @ [a, b, c], count)
    np.testing.assert_allclose(found.parameters, [a, b, c], atol=1e-6)
    falling = trends.fit_subpopulation(mem, columns @ [-1.0, b, c], count)
    assert falling.parameters[:2].min() >= 0
    assert falling.r2 < 1


@given(st.floats(-2, 2), st.sampled_from([-1.5, 0.4, 2.0]), st.floats(0.02, 1.5))
def test_a_saturating_curve_is_found_again_infinity_included(a, b, c):
    epsilon = np.array([0.5, 1.0, 2.0, 8.0, 30.0, np.inf])
    y = a + b * np.exp(-c * epsilon)
    found = trends.fit_saturation(epsilon, y)
    np.testing.assert_allclose(found.parameters, [a, b, c], atol=PLANTED)
    np.testing.assert_allclose(found.predicted, y, atol=PLANTED)
    assert found.r2 == pytest.approx(1)


def test_what_is_equal_everywhere_is_met():
    assert trends.fit_line(np.arange(2.0), np.full(2, 2.0)).r2 == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trends.bin_means([0.1], [0.1, 0.2], [0.0, 1.0]), "x and y must have one entry per sample"),
        (lambda: trends.bin_means([np.nan], [0.1], [0.0, 1.0]), "x must be finite"),
        (lambda: trends.bin_means([0.1], [0.1], [1.0, 0.0]), r"edges ascend, at least 2; got \[1.0, 0.0\]"),
        (
            lambda: trends.fit_line([1.0], [1.0]),
            "at least 2 points are needed, .*; got 1",
        ),
        (lambda: trends.fit_line([1.0, 1.0], [1.0, 2.0]), "all 2 x are equal"),
        (lambda: trends.fit_subpopulation([0.1, 0.5, 0.9], [1.0, 2.0, 3.0], [5, 1, 4]), "1 bins hold a single sample"),
        (lambda: trends.fit_saturation([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]), "3 or more different ones"),
        (lambda: trends.fit_saturation([-1.0, 1.0, 2.0], [1.0, 2.0, 3.0]), "epsilons are at least 0"),
        (lambda: trends.fit_saturation([1.0, 2.0, 3.0], [1.0, np.inf, 3.0]), "y must be finite"),
    ],
)
def test_what_has_no_trend_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
