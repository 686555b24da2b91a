"""The ROC curve and its figures against scikit-learn and the definition."""

import warnings

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from subspace_jax.core import roc

SEEDS = st.integers(0, 2**31 - 1)
TIED = st.booleans()
EXACT = 1e-12  # float64, and both count
FPRS = np.array([0.05, 0.1, 0.31, 1.0])


def draw(seed, tied, n=200):
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(n) < n // 3)
    scores = rng.normal(size=n) + positive
    return (np.round(scores * 2) if tied else scores), positive


@given(SEEDS, TIED)
def test_all_figures_equal_scikit_learn(seed, tied):
    scores, positive = draw(seed, tied)
    fpr, tpr, threshold = roc_curve(positive, scores, drop_intermediate=False)
    ours = roc.curve(scores, positive)
    np.testing.assert_allclose(ours.fpr, fpr, atol=EXACT)
    np.testing.assert_allclose(ours.tpr, tpr, atol=EXACT)
    np.testing.assert_array_equal(ours.threshold, threshold)
    found = roc.summary(scores, positive, fprs=FPRS)
    assert abs(found.auroc - roc_auc_score(positive, scores)) < EXACT
    assert abs(found.balanced_accuracy - ((tpr + 1 - fpr) / 2).max()) < EXACT
    np.testing.assert_allclose(found.tpr, np.interp(FPRS, fpr, tpr), atol=EXACT)
    assert found.negatives == (~positive).sum()


@given(SEEDS, TIED)
def test_average_precision_equals_scikit_learn(seed, tied):
    scores, positive = draw(seed, tied)
    expected = average_precision_score(positive, scores)
    assert roc.average_precision(roc.curve(scores, positive)) == pytest.approx(expected, abs=EXACT)


@given(SEEDS, TIED, st.sampled_from([0.05, 0.5, 0.95, 1.0]))
def test_the_rate_at_a_share_of_positives_is_that_of_the_highest_threshold_with_it(seed, tied, share):
    scores, positive = draw(seed, tied)
    rates = [((scores[positive] >= t).mean(), (scores[~positive] >= t).mean()) for t in np.unique(scores)]
    assert roc.fpr_at(roc.curve(scores, positive), share) == min(fpr for tpr, fpr in rates if tpr >= share - EXACT)


def test_the_rate_takes_the_share_as_it_is_typed_and_says_nothing_of_equal_scores():
    positive = np.arange(40) < 20
    scores = np.where(positive, np.arange(40), np.arange(40) - 19.5)  # a negative above each positive
    assert roc.fpr_at(roc.curve(scores, positive), 0.95) == 19 / 20  # 19 of 20, not all
    constant = roc.curve(np.ones(40), positive)
    assert (roc.fpr_at(constant), roc.average_precision(constant)) == (1.0, 0.5)
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=r"share of positives to find, in \(0, 1\]"):
            roc.fpr_at(constant, share)


@given(SEEDS, TIED)
def test_auroc_of_the_opposite_is_the_rest_and_ties_count_half(seed, tied):
    scores, positive = draw(seed, tied)
    area = roc.auroc(roc.curve(scores, positive))
    assert abs(area + roc.auroc(roc.curve(-scores, positive)) - 1) < EXACT
    pairs = scores[positive][:, None] - scores[~positive]
    assert abs(area - ((pairs > 0).mean() + (pairs == 0).mean() / 2)) < EXACT


def test_rates_between_two_thresholds_are_interpolated_and_the_highest_of_a_rate_is_taken():
    scores, positive = np.array([5.0, 4, 3, 2, 1, 0]), np.array([1, 1, 0, 1, 0, 0], bool)
    found = roc.tpr_at(roc.curve(scores, positive), [1 / 3, 2 / 3])
    np.testing.assert_allclose(found, [1, 1])
    tied = roc.curve(np.array([2.0, 1, 1, 0]), np.array([1, 1, 0, 0], bool))  # (0, .5), then (.5, 1)
    with pytest.warns(UserWarning, match="2 non-members cannot show a false positive rate of 0.25"):
        np.testing.assert_allclose(roc.tpr_at(tied, [0.0, 0.25, 0.5]), [0.5, 0.75, 1.0])


def test_few_negatives_warn_only_below_what_they_can_show():
    scores, positive = draw(0, tied=False, n=150)  # 100 negatives
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roc.summary(scores, positive, fprs=[1e-2])
    with pytest.warns(UserWarning, match="100 non-members cannot show a false positive rate of 0.001: the smallest"):
        roc.summary(scores, positive, fprs=[1e-2, 1e-3])


def test_bootstrap_intervals_cover_the_closed_form_as_often_as_they_say():
    truth = 0.760250  # AUROC of N(1, 1) against N(0, 1): Phi(1 / sqrt(2))
    intervals = [roc.bootstrap(jax.random.key(i), *draw(i, tied=False, n=150), resamples=100) for i in range(60)]
    covered = [low.auroc < truth < high.auroc for low, high in intervals]
    assert 0.86 < np.mean(covered) < 1  # .95 with a standard deviation of .028 over 60 data sets


def test_bootstrap_intervals_hold_the_figures_and_shrink_with_samples():
    widths = []
    for n in (150, 3000):
        scores, positive = draw(3, tied=True, n=n)
        low, high = roc.bootstrap(jax.random.key(0), scores, positive, fprs=FPRS, resamples=200)
        found = roc.summary(scores, positive, fprs=FPRS)
        for name in ("auroc", "balanced_accuracy", "tpr"):
            assert np.all(getattr(low, name) <= getattr(found, name)), name
            assert np.all(getattr(found, name) <= getattr(high, name)), name
        widths.append(high.auroc - low.auroc)
    assert 3 < widths[0] / widths[1] < 6  # sqrt(20) = 4.5


def test_a_sample_is_exposed_at_the_share_of_negatives_that_score_as_high():
    scores, positive = np.array([3.0, 2, 2, 1, 0]), np.array([1, 1, 0, 0, 0], bool)
    np.testing.assert_allclose(roc.exposure(scores, positive), [0, 1 / 3, 1 / 3, 2 / 3, 1])


GOOD = np.array([0.1, 0.4, 0.3]), np.array([True, False, True])


@pytest.mark.parametrize(
    ("scores", "positive", "match"),
    [
        (GOOD[0], [True] * 3, "all 3 samples are members"),
        (GOOD[0], [False] * 3, "all 3 samples are non-members"),
        (GOOD[0], [1, 0, 1], "mark the positives; got .* int64"),
        (GOOD[0], GOOD[1][:2], "got 3 and 2"),
        ([0.1, np.nan, np.inf], GOOD[1], r"scores must be finite; got nan at position 1 \(2 of 3 values\)"),
        (np.tile(GOOD[0], (2, 1)).T, GOOD[1], "one target model at a time"),
    ],
)
def test_what_has_no_curve_is_refused(scores, positive, match, unchecked):
    for function in (roc.curve, roc.summary, roc.exposure, lambda *a: roc.bootstrap(jax.random.key(0), *a)):
        with pytest.raises(ValueError, match=match):
            function(np.asarray(scores), np.asarray(positive))


def test_rates_and_levels_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"false positive rates lie in \[0, 1\]; got \[1.5\]"):
        roc.summary(*GOOD, fprs=[1.5])
    for bad in ({"resamples": 1}, {"level": 1.0}):
        with pytest.raises(ValueError, match="an interval takes 2 resamples"):
            roc.bootstrap(jax.random.key(0), *GOOD, **bad)


@given(SEEDS, TIED)
def test_youdens_threshold_is_the_best_of_all_scores_whatever_their_scale(seed, tied):
    scores, positive = draw(seed, tied)
    threshold = roc.youden_threshold(roc.curve(scores, positive))
    gain = [(scores[positive] >= t).mean() - (scores[~positive] >= t).mean() for t in np.unique(scores)]
    called = scores >= threshold
    assert called[positive].mean() - called[~positive].mean() == pytest.approx(max(gain), abs=EXACT)
    stretched = np.exp(scores) + 3
    assert np.array_equal(stretched >= roc.youden_threshold(roc.curve(stretched, positive)), called)


def test_separated_scores_are_told_apart_and_equal_ones_call_nobody():
    positive = np.array([True, True, False])
    assert roc.youden_threshold(roc.curve(np.array([3.0, 2.0, 1.0]), positive)) == 2
    assert roc.youden_threshold(roc.curve(np.ones(3), positive)) == np.inf
