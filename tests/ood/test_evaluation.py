"""Figures against scikit-learn in both conventions, decisions by thresholds, and sets that overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from subspace_jax.ood import evaluation, thresholds

SEEDS = st.integers(0, 2**20)
EXACT = 1e-12


def draw(seed, tied):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(1, 1, 80), rng.normal(0, 1, 50)
    return (np.round(inside), np.round(outside)) if tied else (inside, outside)


def rate(positive, negative):
    """Share of the negatives at or above the highest threshold that 95 % of the positives reach."""
    best = max(t for t in positive if (positive >= t).mean() >= 0.95 - EXACT)
    return (negative >= best).mean()


@given(SEEDS, st.booleans())
def test_figures_equal_scikit_learn_in_both_conventions(seed, tied):
    inside, outside = draw(seed, tied)
    values, known = np.concatenate([inside, outside]), np.arange(130) < 80
    for positive, fpr in (("id", rate(inside, outside)), ("ood", rate(-outside, -inside))):
        found = evaluation.separation(inside, outside, positive=positive)
        assert found.auroc == pytest.approx(roc_auc_score(known, values), abs=EXACT)
        assert found.aupr_in == pytest.approx(average_precision_score(known, values), abs=EXACT)
        assert found.aupr_out == pytest.approx(average_precision_score(~known, -values), abs=EXACT)
        assert found.fpr95 == pytest.approx(fpr, abs=EXACT)


def test_separated_equal_and_swapped_scores():
    inside, outside = draw(0, False)
    assert evaluation.separation(inside + 9, outside, positive="id") == (1, 0, 1, 1)
    forth, back = (evaluation.separation(*s, positive="id").auroc for s in ((inside, outside), (outside, inside)))
    assert forth + back == pytest.approx(1)
    assert evaluation.separation(np.ones(4), np.ones(4), positive="ood") == (0.5, 1, 0.5, 0.5)
    grown = evaluation.separation(np.exp(inside), np.exp(outside), positive="id")
    assert grown == evaluation.separation(inside, outside, positive="id")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: evaluation.separation([], [1.0], positive="id"), "no scores of known inputs: separation takes both"),
        (lambda: evaluation.separation([1.0], [], positive="id"), "no scores of unknown inputs"),
        (lambda: evaluation.separation([1.0], [np.nan], positive="id"), "scores must be finite"),
        (lambda: evaluation.separation([1.0], [0.0], positive="in"), "FPR95 has two meanings; got 'in'"),
        (lambda: evaluation.class_quantiles([1.0], [0], classes=2), "class 1 has no sample"),
        (lambda: thresholds.fit([]), "got 0 and 0.95"),
        (lambda: thresholds.fit([1.0], tpr=0.0), "got 1 and 0.0"),
        (lambda: thresholds.fit([1.0, np.inf]), "scores must be finite"),
        (lambda: thresholds.fit([1.0], predicted=[0]), "takes both predicted= and classes="),
        (lambda: thresholds.fit([1.0], predicted=[2], classes=2), r"predicted must lie in \[0, 2\)"),
        (lambda: thresholds.known(thresholds.fit([1.0]), [1.0], [0]), "predictions are needed for one a class"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, match, unchecked):
    with pytest.raises(ValueError, match=match):
        call()


@given(SEEDS, st.booleans(), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_threshold_keeps_the_share_and_the_next_higher_score_would_not(seed, tied, tpr):
    scores, _ = draw(seed, tied)
    threshold = thresholds.fit(scores, tpr=tpr)
    assert thresholds.known(threshold, scores).mean() >= tpr
    above = scores[scores > threshold.value[0]]
    assert not len(above) or (scores >= above.min()).mean() < tpr


def test_thresholds_of_classes_keep_the_share_of_each():
    rng = np.random.default_rng(0)
    predicted = np.arange(300) % 3
    scores = rng.normal(size=300) * (1 + predicted) + 5 * predicted
    found = thresholds.fit(scores, predicted=predicted, classes=4)
    kept = thresholds.known(found, scores, predicted)
    assert [kept[predicted == k].mean() for k in range(3)] == [0.95] * 3
    assert found.value[3] == thresholds.fit(scores).value[0], "a class that nothing was predicted as"
    one = thresholds.known(thresholds.fit(scores), scores)
    assert one[predicted == 0].mean() < 0.95 < one[predicted == 2].mean()


def test_quantiles_of_classes_are_of_their_own_samples():
    scores, labels = np.arange(200.0), np.arange(200) % 2
    expected = [np.quantile(scores[labels == k], 0.05) for k in (0, 1)]
    np.testing.assert_array_equal(evaluation.class_quantiles(scores, labels, classes=2), expected)


def test_known_inputs_in_an_unknown_set_warn():
    x = np.arange(24).reshape(6, 2, 2)
    with pytest.warns(UserWarning, match="2 of 3 inputs of mine are also known ones"):
        assert evaluation.warn_if_shared("mine", x, np.concatenate([x[:2], -x[3:4]])) == 2
    assert evaluation.warn_if_shared("mine", x, -1 - x) == 0
