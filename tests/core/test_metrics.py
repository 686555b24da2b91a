import functools

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import metrics

SEEDS = st.integers(0, 2**31 - 1)
LEVELS = st.sampled_from([2, 5, 10**6])  # distinct values: many ties, some, none
ACCURATE = 1e-5  # promised for float32 at n = 50,000
N = 60  # nearly everything has this length, so that each measure is compiled once
cosine, pearson, spearman = PAIRS = tuple(map(jax.jit, (metrics.cosine, metrics.pearson, metrics.spearman)))
auroc, roc = jax.jit(metrics.auroc), jax.jit(metrics.roc)
precision_at = jax.jit(metrics.precision_at, static_argnames="k")
MASKED = (auroc, functools.partial(precision_at, k=7))


def draw(seed, n=N, levels=10**6):
    """Scores, a related vector and a mask with both classes."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, n) / levels).astype(np.float32)
    other = (scores + rng.normal(size=n)).astype(np.float32)
    positive = rng.random(n) < 0.3
    positive[:2] = True, False
    return scores, other, positive


@given(SEEDS, LEVELS)
def test_auroc_and_roc_are_those_of_scikit_learn(seed, levels):
    scores, _, positive = draw(seed, levels=levels)
    assert float(auroc(scores, positive)) == pytest.approx(
        sklearn.metrics.roc_auc_score(positive, scores), abs=ACCURATE
    )
    fpr, tpr = roc(scores, positive)
    curve = sklearn.metrics.roc_curve(positive, scores, drop_intermediate=False)
    points = np.unique(np.stack([fpr, tpr], 1), axis=0)
    np.testing.assert_allclose(points, np.unique(np.stack(curve[:2], 1), axis=0), atol=ACCURATE)
    assert np.trapezoid(tpr, fpr) == pytest.approx(float(auroc(scores, positive)), abs=ACCURATE)


@given(SEEDS, LEVELS, st.sampled_from([1, 7, N]))
def test_precision_is_the_mean_over_all_orders_of_ties(seed, levels, k):
    scores, _, positive = draw(seed, levels=levels)
    rng = np.random.default_rng(seed)
    orders = [np.lexsort((rng.random(N), -scores))[:k] for _ in range(400)]
    oracle = np.mean([positive[order].mean() for order in orders])
    drawn = 0.1 if levels < 10 else ACCURATE  # 400 orders; without ties there is one
    assert float(precision_at(scores, positive, k=k)) == pytest.approx(oracle, abs=drawn)


@given(SEEDS, LEVELS)
def test_agreement_is_that_of_scipy(seed, levels):
    a, b, _ = draw(seed, levels=levels)
    a[0] = 2.0  # never constant
    oracles = [1 - scipy.spatial.distance.cosine(a, b), scipy.stats.pearsonr(a, b)[0], scipy.stats.spearmanr(a, b)[0]]
    np.testing.assert_allclose([f(a, b) for f in PAIRS], oracles, atol=ACCURATE)


@pytest.mark.parametrize("levels", [100, 10**9])
def test_float32_is_accurate_for_fifty_thousand_samples(levels):
    a, b, positive = draw(3, n=50_000, levels=levels)
    a, b = a + 100, b - 100  # a large common offset
    exact = a.astype(np.float64), b.astype(np.float64)
    assert float(auroc(b, positive)) == pytest.approx(sklearn.metrics.roc_auc_score(positive, exact[1]), abs=ACCURATE)
    assert float(pearson(a, b)) == pytest.approx(scipy.stats.pearsonr(*exact)[0], abs=ACCURATE)
    assert float(spearman(a, b)) == pytest.approx(scipy.stats.spearmanr(*exact)[0], abs=ACCURATE)
    assert float(cosine(a, b)) == pytest.approx(1 - scipy.spatial.distance.cosine(*exact), abs=ACCURATE)


@given(SEEDS)
def test_rankings_ignore_monotone_maps_and_infinities_are_values(seed):
    a, b, positive = draw(seed)
    for f in (*MASKED, lambda s, p: spearman(s, b)):
        assert float(f(np.exp(3 * a), positive)) == pytest.approx(float(f(a, positive)), abs=ACCURATE)
    ends = np.where(a == a.max(), np.inf, np.where(a == a.min(), -np.inf, a)).astype(np.float32)
    for f in MASKED:
        assert float(f(ends, positive)) == pytest.approx(float(f(a, positive)), abs=ACCURATE)


def test_scale_does_not_matter_at_the_edge_of_float32():
    a, b, _ = draw(0)
    for f in PAIRS:
        assert float(f(a * np.float32(1e-30), b * np.float32(1e30))) == pytest.approx(float(f(a, b)), abs=ACCURATE)


def test_everything_works_under_jit_and_vmap():
    stacked = [np.stack(parts) for parts in zip(*(draw(seed) for seed in range(3)), strict=True)]
    for f, other in [(f, stacked[1]) for f in PAIRS] + [(f, stacked[2]) for f in (*MASKED, roc)]:
        together = jax.jit(jax.vmap(f))(stacked[0], other)
        alone = np.stack([f(a, b) for a, b in zip(stacked[0], other, strict=True)])
        np.testing.assert_allclose(together, alone.swapaxes(0, 1) if f is roc else alone, atol=1e-6)


@pytest.mark.parametrize("mask", [True, False])
def test_an_empty_class_has_no_auroc(mask):
    assert np.isnan(auroc(np.arange(N, dtype=np.float32), np.full(N, mask)))


@pytest.mark.parametrize("f", [*PAIRS, *MASKED])
def test_a_nan_score_propagates(f):
    a, b, positive = draw(0)
    a[5] = np.nan
    assert np.isnan(f(a, b if f in PAIRS else positive))


@pytest.mark.parametrize("f", [pearson, spearman])
def test_a_constant_correlates_with_nothing(f):
    assert np.isnan(f(np.full(N, 0.1, np.float32), np.arange(N, dtype=np.float32)))


def test_zero_has_no_direction():
    assert np.isnan(cosine(np.zeros(N, np.float32), np.ones(N, np.float32)))


def test_accuracy_counts_and_nan_rows_are_wrong():
    logits = np.float32([[1, 0], [0, 1], [1, 0], [np.nan, 0]])
    assert float(jax.jit(metrics.accuracy)(logits, np.array([0, 1, 1, 0]))) == 0.5


@pytest.mark.parametrize("k", [0, 5])
def test_precision_outside_the_scores_is_refused(k):
    with pytest.raises(ValueError, match=rf"k must lie in \[1, 4\], the number of scores; got {k}"):
        metrics.precision_at(np.arange(4.0), np.ones(4, bool), k)


@given(SEEDS, st.sampled_from([0.5, 1.0, 4.0]))
def test_maximum_softmax_probability_is_that_of_scipy_and_a_shift_changes_nothing(seed, temperature):
    logits = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32) * 5
    oracle = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1).max(1)
    for shifted in (logits, logits + 7):
        np.testing.assert_allclose(metrics.msp(shifted, temperature=temperature), oracle, atol=ACCURATE)


def test_a_temperature_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"temperature divides the logits.*got 0"):
        metrics.msp(np.zeros((2, 3), np.float32), temperature=0.0)
