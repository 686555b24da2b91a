"""Norm-scaling: what its modes leave unchanged, its closed form, its temperature controls."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import roc
from subspace_jax.ood import detectors, norm_scaling, scores
from tests.ood.cases import K, N, draw

SEEDS = st.integers(0, 2**20)
EXACT = 1e-5


def fitted(logits, labels, mode, **settings):
    return norm_scaling.transform(norm_scaling.statistics(logits, labels, **settings), mode)


def applied(logits, test, labels, mode, **settings):
    shift, scale = fitted(logits, labels, mode, **settings)
    return (test - shift) / scale


@pytest.mark.parametrize(("mode", "shifted"), [("std", True), ("norm", False), ("minmax", True)])
@given(seed=SEEDS)
def test_an_affine_map_of_every_class_changes_nothing(mode, shifted, seed):
    rng = np.random.default_rng(seed)
    outputs, labels, _ = draw(seed)
    logits = np.asarray(outputs.logits, np.float64)
    factor, add = rng.uniform(0.2, 5, K), rng.normal(size=K) * 10 * shifted
    before, after = (applied(z, z, labels, mode, correct_only=False) for z in (logits, logits * factor + add))
    np.testing.assert_allclose(after, before, atol=EXACT)


@given(SEEDS)
def test_own_class_logits_are_standardised_on_the_fit_set(seed):
    outputs, labels, _ = draw(seed)
    logits = np.asarray(outputs.logits, np.float64)
    for mode, figures in (("std", [(np.mean, 0), (np.std, 1)]), ("norm", [(lambda v: np.sqrt((v**2).mean()), 1)])):
        z = applied(logits, logits, labels, mode, correct_only=False)
        for k in range(K):
            for figure, value in figures:
                assert figure(z[labels == k, k]) == pytest.approx(value, abs=EXACT)


@given(SEEDS)
def test_renumbered_classes_are_scaled_alike(seed):
    outputs, labels, _ = draw(seed)
    order = np.random.default_rng(seed).permutation(K)
    logits = np.asarray(outputs.logits, np.float64)
    for mode in norm_scaling.MODES:
        z = applied(logits, logits, labels, mode)
        moved = applied(logits[:, order], logits[:, order], np.argsort(order)[labels], mode)
        np.testing.assert_allclose(moved, z[:, order], atol=EXACT)


def test_equal_classes_rank_as_the_raw_logits():
    rng = np.random.default_rng(0)
    labels, own = np.arange(N) % K, np.repeat(rng.normal(8, 1, N // K), K)
    logits = rng.normal(size=(N, K)).astype(np.float32)
    logits[np.arange(N), labels] = own  # the same values in every class
    detector = norm_scaling.norm_scaling("std", kind="maxlogit", correct_only=False)
    new = detectors.Outputs(rng.normal(size=(40, K)).astype(np.float32) * 5)
    scaled = detector.score(detector.fit(detectors.Outputs(logits), labels), new)
    np.testing.assert_array_equal(np.argsort(scaled), np.argsort(scores.maxlogit().score({}, new)))


@pytest.mark.parametrize(("mean", "std"), [((0.0, 10.0), (1.0, 1.0)), ((5.0, -3.0, 40.0), (0.5, 2.0, 9.0))])
def test_the_gain_of_scaling_has_a_closed_form(mean, std):
    """Unknown own-class logits two deviations lower: AUROC Phi(sqrt 2) after scaling, whatever the classes' scales."""
    rng, classes, n = np.random.default_rng(1), len(mean), 20_000
    labels = rng.integers(classes, size=n)

    def rows(below):
        logits = np.full((n, classes), -1e3, np.float32)
        logits[np.arange(n), labels] = rng.normal(
            np.take(mean, labels) - below * np.take(std, labels), np.take(std, labels)
        )
        return detectors.Outputs(logits)

    train, known, unknown = rows(0), rows(0), rows(2)
    detector = norm_scaling.norm_scaling("std", kind="maxlogit")
    state = detector.fit(train, labels)

    def area(score):
        values = np.concatenate([score(known), score(unknown)])
        return roc.auroc(roc.curve(values, np.arange(2 * n) < n))

    assert area(lambda outputs: detector.score(state, outputs)) == pytest.approx(0.9214, abs=0.01)
    if mean == (0.0, 10.0):
        assert area(lambda outputs: scores.maxlogit().score({}, outputs)) == pytest.approx(0.7107, abs=0.01)


def test_wrong_samples_count_only_where_too_few_are_right():
    labels = np.repeat([0, 1], 20)
    logits = np.zeros((40, 2), np.float32)
    logits[:20, 0] = np.where(np.arange(20) < 12, 4.0, -4.0)  # 12 right
    logits[20:, 1] = np.where(np.arange(20) < 9, 4.0, -4.0)  # 9 right: all count
    stats = norm_scaling.statistics(logits, labels)
    np.testing.assert_allclose(stats.mean, [4, (9 * 4 - 11 * 4) / 20])
    np.testing.assert_allclose(norm_scaling.statistics(logits, labels, correct_only=False).mean[0], 0.8)
    shift, scale = norm_scaling.transform(stats, "std")
    assert scale[0] == 4e-6  # no spread: 1e-6 of the mean
    assert np.isfinite((logits - shift) / scale).all()


def test_a_class_without_samples_is_named_or_stays_as_it_is():
    outputs, labels, _ = draw(2)
    with pytest.raises(ValueError, match="class 3 has no sample to be scaled by"):
        norm_scaling.statistics(outputs.logits, np.minimum(labels, 2))
    stats = norm_scaling.statistics(outputs.logits, np.minimum(labels, 2), missing="identity")
    for mode in norm_scaling.MODES:
        shift, scale = norm_scaling.transform(stats, mode)
        assert (shift[3], scale[3]) == (0, 1)
    assert stats.count[3] == 0


def mean_top(z):
    return float((1 / np.exp(z - z.max(1, keepdims=True)).sum(1)).mean())


def test_matched_controls_have_the_confidence_of_the_other():
    outputs, labels, _ = draw(3)
    logits = np.asarray(outputs.logits, np.float64)
    normed = applied(logits, logits, labels, "norm")
    found = norm_scaling.matched("norm").fit(outputs, labels)
    assert mean_top(normed / found["temperature"]) == pytest.approx(mean_top(logits), abs=1e-4)
    raw = norm_scaling.matched_raw("norm").fit(outputs, labels)
    assert mean_top(logits / raw["temperature"]) == pytest.approx(mean_top(normed), abs=1e-4)
    np.testing.assert_array_equal([raw["shift"], raw["scale"]], [np.zeros(K), np.ones(K)])
    detector = norm_scaling.matched_raw("norm")
    hot = scores.msp(temperature=float(raw["temperature"]))
    np.testing.assert_allclose(detector.score(raw, outputs), hot.score({}, outputs), rtol=1e-4)


def test_a_scaling_of_other_classes_is_refused():
    outputs, labels, _ = draw(4)
    detector = norm_scaling.norm_scaling("norm")
    state = detector.fit(outputs, labels)
    with pytest.raises(ValueError, match="the scaling is of 4 classes; got logits of 3"):
        detector.score(state, detectors.Outputs(jnp.asarray(outputs.logits)[:, :3]))
