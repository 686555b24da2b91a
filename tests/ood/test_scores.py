"""Every detector against its definition in float64, its streams, its costs, and what none of them takes."""

import io

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.ood import ash, auxiliary_class, detectors, knn, mahalanobis, norm_scaling, odin, react, scores, vim
from tests.ood.cases import DETECTORS, SIZES, D, K, N, draw, pair

SEEDS = st.integers(0, 2**20)
FLOAT32 = 2e-4  # relative to the largest score: squares of features, exponentials of logits up to 30


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "odin"])
@given(seed=SEEDS)
def test_scores_equal_their_definition_in_float64(name, seed):
    compare(name, seed)


def test_odin_equals_its_definition_in_float64():  # traced anew for each network
    compare("odin", 0)


def compare(name, seed):
    detector, state, new, expected = pair(name, seed)
    found = np.asarray(detector.score(state, new))
    assert found.shape == (N,)
    spread = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=FLOAT32 * spread)


@pytest.mark.parametrize("name", DETECTORS)
def test_training_data_in_two_batches_give_the_same_state(name):
    outputs, labels, head = draw(0)
    labels = np.minimum(labels, K - 2) if name.startswith("aux") else labels
    detector = DETECTORS[name][0](head)
    cut = lambda part: jax.tree.map(lambda a: a[part], outputs)  # noqa: E731
    sums = detector.update(None, cut(slice(0, 21)), labels[:21])
    state = detector.finish(detector.update(sums, cut(slice(21, None)), labels[21:]))
    whole = detector.fit(outputs, labels)
    assert state.keys() == whole.keys()
    new = detector.score(state, outputs)
    np.testing.assert_allclose(new, detector.score(whole, outputs), atol=FLOAT32 * float(abs(new).max()))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_state_is_saved_as_arrays_and_its_numbers_are_those_of_the_cost(name):
    detector, state, new, _ = pair(name, 0)
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    again = dict(np.load(file, allow_pickle=False))
    np.testing.assert_array_equal(detector.score(again, new), detector.score(state, new))
    cost = detector.cost(SIZES)
    network = D + 1 if name.startswith("aux") else 0  # the unit of the auxiliary class lies in the network
    assert detectors.stored(state) + network == cost.floats
    assert cost.passes == (3 if name == "odin" else 1)


@pytest.mark.parametrize("name", ["msp", "gen", "knn", "vim", "ash_s", "std msp"])
def test_the_same_settings_give_the_same_score_function_and_run_under_jit(name):
    (detector, state, new, _), (other, *_) = pair(name, 0), pair(name, 1)
    assert detector.score is other.score
    np.testing.assert_allclose(jax.jit(detector.score)(state, new), detector.score(state, new), rtol=1e-5)


def test_what_depends_on_differences_of_logits_does_not_see_a_constant():
    outputs, _, _ = draw(3)
    moved = detectors.Outputs(outputs.logits + 64.0)
    for detector in (scores.msp(), scores.entropy(), scores.gen()):
        np.testing.assert_allclose(detector.score({}, moved), detector.score({}, outputs), rtol=1e-3, atol=1e-5)


def test_energy_goes_to_the_largest_logit_and_the_odds_keep_the_digits_of_certain_networks():
    outputs, _, _ = draw(4)
    cold = scores.energy(temperature=1e-3).score({}, outputs)
    np.testing.assert_allclose(cold, scores.maxlogit().score({}, outputs), atol=2e-3)
    certain = detectors.Outputs(np.array([[40.0, 0, 0], [80.0, 0, 0], [1e-6, 0, 0], [2e-6, 0, 0]], np.float32))
    np.testing.assert_allclose(scores.msp().score({}, certain), [40, 80, 1e-6, 2e-6], rtol=1e-3)


@given(SEEDS)
def test_mahalanobis_does_not_see_an_affine_map(seed):
    rng = np.random.default_rng(seed)
    outputs, labels, _ = draw(seed)
    h = rng.normal(size=(N, D)).astype(np.float32) + labels[:, None]
    u, _, v = np.linalg.svd(rng.normal(size=(D, D)))
    mapped = (h @ (u * np.geomspace(1, 10, D) @ v) + rng.normal(size=D)).astype(np.float32)  # condition 10
    found = []
    for features in (h, mapped):
        given_ = detectors.Outputs(outputs.logits, {"penultimate": features})
        detector = mahalanobis.mahalanobis()
        found.append(np.asarray(detector.score(detector.fit(given_, labels), given_)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


def test_a_unit_that_is_dead_on_training_data_is_dropped():
    outputs, labels, _ = draw(5)
    h = outputs.features["penultimate"].copy()
    h[:, 2] = 0
    detector = mahalanobis.mahalanobis()
    state = detector.fit(detectors.Outputs(outputs.logits, {"penultimate": h}), labels)
    awake = h.copy()
    awake[:, 2] = 7
    scored = [detector.score(state, detectors.Outputs(outputs.logits, {"penultimate": x})) for x in (h, awake)]
    np.testing.assert_array_equal(*scored)


def test_limits_of_the_settings_are_the_plain_energy():
    outputs, labels, head = draw(6)
    plain = scores.energy().score({}, outputs)
    close = {"atol": 1e-3}
    detector = vim.vim(head)
    state = detector.fit(outputs, labels) | {"alpha": np.float32(0)}
    np.testing.assert_allclose(detector.score(state, outputs), plain, **close)
    for detector in (react.react(head, percentile=1.0), ash.ash(head, kind="p", percentile=0.0)):
        np.testing.assert_allclose(detector.score(detector.fit(outputs, labels), outputs), plain, **close)
    h = outputs.features["penultimate"]
    shaped = ash.shape(h, "s", 0.0)
    np.testing.assert_allclose(shaped, np.e * h, rtol=1e-5)


def test_a_training_sample_is_its_own_nearest_neighbour():
    outputs, labels, _ = draw(7)
    detector = knn.knn(k=1)
    score = np.asarray(detector.score(detector.fit(outputs, labels), outputs))
    assert (score <= 0).all()
    assert score.min() > -2e-3  # the root of float32 rounding


def test_features_of_zeros_have_a_score():
    outputs, labels, head = draw(8)
    blank = detectors.Outputs(outputs.logits, {"penultimate": 0 * outputs.features["penultimate"]})
    for name in ("knn", "mahalanobis", "vim", "react", "ash_s", "ash_b", "ash_p"):
        detector = DETECTORS[name][0](head)
        assert np.isfinite(detector.score(detector.fit(outputs, labels), blank)).all(), name


def test_odin_for_many_networks_is_odin():
    detector, state, new, _ = pair("odin", 2)
    _, _, head = draw(2)
    apply = lambda variables, x: x @ variables[0] + variables[1][None]  # noqa: E731
    asked = odin.confidence(apply, head, new.features["input"])
    np.testing.assert_allclose(asked, detector.score(state, new), rtol=1e-5)
    halved = odin.confidence(apply, head, new.features["input"], step=0.0028, std=(2.0,) * D)
    np.testing.assert_allclose(halved, asked, rtol=1e-5)


OUTPUTS, LABELS, HEAD = draw(0)
LOGITS, H = OUTPUTS.logits, OUTPUTS.features["penultimate"]
PROBABILITIES = np.exp(LOGITS - LOGITS.max(1, keepdims=True))
PROBABILITIES /= PROBABILITIES.sum(1, keepdims=True)


def of(logits=LOGITS, **features):
    return detectors.Outputs(logits, features)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: scores.msp().fit(of(PROBABILITIES), LABELS), "every row of logits sums to 1: these are probabilities"),
        (lambda: scores.msp().score({}, of(PROBABILITIES)), "these are probabilities"),
        (lambda: scores.energy().score({}, of(np.where(LOGITS > 3, np.inf, LOGITS))), "logits must be finite; got inf"),
        (lambda: scores.maxlogit().score({}, of(LOGITS[:, :1])), "at least 2 classes"),
        (lambda: knn.knn().score({}, of()), "looks at the features 'penultimate'; there are none"),
        (lambda: knn.knn().fit(of(penultimate=H[:5]), LABELS), "got 60 and 5"),
        (lambda: knn.knn(k=61).fit(OUTPUTS, LABELS), "no neighbour number 61 among 60"),
        (lambda: knn.knn(k=0), "k numbers the neighbours from 1; got 0"),
        (lambda: knn.knn().fit(of(penultimate=H * np.nan), LABELS), "penultimate must be finite"),
        (lambda: knn.knn().fit(of(penultimate=H[..., None]), LABELS), "features are rows"),
        (lambda: mahalanobis.mahalanobis().fit(OUTPUTS, LABELS % 2), r"class 2 has no training sample \(2 classes\)"),
        (lambda: mahalanobis.mahalanobis().fit(OUTPUTS, LABELS + 1), r"labels must lie in \[0, 4\); got 4"),
        (lambda: mahalanobis.mahalanobis().fit(OUTPUTS, LABELS / 1), "cast them by .astype"),
        (lambda: mahalanobis.mahalanobis().fit(of(penultimate=0 * H), LABELS), "do not vary within any class"),
        (lambda: vim.vim(HEAD, dim=8), r"in \[0, 8\); got 8"),
        (lambda: vim.vim((HEAD[0].T, HEAD[1])), r"head is \(W \(d, classes\), b \(classes,\)\)"),
        (lambda: vim.vim(HEAD).fit(of(penultimate=H[:, :5]), LABELS), "the head reads 8 features; got 5"),
        (lambda: react.react(HEAD, percentile=0.0), r"in \(0, 1\]; got 0.0"),
        (lambda: ash.ash(HEAD, kind="q"), "kind is one of s, b, p; got 'q'"),
        (lambda: ash.ash(HEAD, percentile=1.0), r"in \[0, 1\); got 1.0"),
        (lambda: scores.msp(temperature=0.0), r"in \(0, inf\); got 0.0"),
        (lambda: scores.gen(gamma=0.0), r"gamma in \(0, 1\]"),
        (lambda: odin.odin(len, step=0.0), "step is the change of a pixel"),
        (lambda: odin.confidence(len, None, np.zeros((2, 3), np.uint8)), "got uint8: scale the pixels first"),
        (lambda: norm_scaling.norm_scaling("no"), "mode is one of std, norm, minmax; got 'no'"),
        (lambda: norm_scaling.norm_scaling(kind="no"), "kind is one of msp, maxlogit, energy"),
        (lambda: auxiliary_class.aux().fit(OUTPUTS, LABELS), r"labels must lie in \[0, 3\); got 3"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, match, unchecked):
    with pytest.raises(ValueError, match=match):
        call()
