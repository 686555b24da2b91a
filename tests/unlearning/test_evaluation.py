"""Measures of unlearning against plain NumPy, scikit-learn, and the attack as it was released."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, roc_auc_score

from subspace_jax.core import capture
from subspace_jax.unlearning import evaluation
from tests.unlearning import networks

SEEDS = st.integers(0, 2**31 - 1)
MODELS, SAMPLES = 8, 200
CHANCE = 0.1  # AUC of 200 against 200 equal samples: four standard deviations


@given(SEEDS)
def test_accuracies_and_confusion_are_counts(seed):
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(40, 4)).astype(np.float32), np.tile(np.arange(4), 10)
    found = evaluation.confusion_matrix(logits, y)
    np.testing.assert_array_equal(found, confusion_matrix(y, logits.argmax(1)))
    right = np.diag(found) / 10
    out = evaluation.class_accuracy(logits, y, forget=[1, 3])
    np.testing.assert_allclose(out, [right[[0, 2]].mean(), right[[1, 3]].mean()], rtol=1e-6)
    logits[7, 0] = np.nan
    assert evaluation.confusion_matrix(logits, y).sum() == 39


def test_the_score_is_one_only_where_all_is_kept_and_all_forgotten():
    assert evaluation.forget_score(1.0, 0.0) == 1
    assert evaluation.forget_score(0.5, 0.5) == 0.25


label_logit = jax.jit(evaluation.label_logit)


@given(SEEDS)
def test_label_logit_is_the_log_odds_also_of_certain_networks(seed):
    rng = np.random.default_rng(seed)
    logits, y = 3 * rng.normal(size=(9, 4)), rng.integers(0, 4, 9)
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(9), y]
    np.testing.assert_allclose(label_logit(logits, y), np.log(p / (1 - p)), rtol=1e-3, atol=1e-5)
    shifted = label_logit(log_softmax(logits, axis=1), y)
    np.testing.assert_allclose(shifted, np.log(p / (1 - p)), rtol=1e-3, atol=1e-5)
    certain = label_logit(np.array([[80.0, 0, 0]]), np.array([0]))
    np.testing.assert_allclose(certain, 80 - np.log(2), rtol=1e-6)


def test_simple_attack_on_separated_and_on_equal_confidences():
    high, low = np.linspace(0.9, 1, 30), np.linspace(0, 0.1, 30)
    assert evaluation.svc_mia(high, low, low) == 1
    assert evaluation.svc_mia(high, low, high) == 0
    assert evaluation.svc_mia(np.tile(high, 3), high, high) == 0  # nothing was unlearned


def ensembles(seed, gap):
    """Logits of networks: a centre for each sample, the unlearned ones higher by `gap`."""
    rng = np.random.default_rng(seed)
    centre = 2 * rng.normal(size=SAMPLES) - 4
    return [centre + shift + rng.normal(size=(MODELS, SAMPLES)) for shift in (gap, 0)]


def log_density(rows, model):
    mean, std = rows.mean(0), rows.std(0)
    return -(((model - mean) / std) ** 2) / 2 - np.log(std)


def ulira_of_one(shadows, target):
    """Fit to shadow networks, scores of one pair of targets: AUC in plain NumPy and scikit-learn."""
    ratio = [log_density(shadows[0], model) - log_density(shadows[1], model) for model in target]
    return roc_auc_score(np.repeat([1, 0], SAMPLES), np.concatenate(ratio))


def as_released(shadows, target):
    """The authors' code: a loop variable left over, so that the last shadow network is scored, not the target."""
    return ulira_of_one(shadows, (shadows[0][-1], target[1]))


@pytest.mark.parametrize("gap", [0.0, 1.0, 4.0])
def test_ulira_is_the_plain_likelihood_ratio_of_each_held_out_pair(gap):
    sides = ensembles(0, gap)
    out = evaluation.ulira(*sides)
    for i in range(MODELS):
        shadows = [np.delete(side, i, axis=0) for side in sides]
        assert float(out.auc[i]) == pytest.approx(ulira_of_one(shadows, [side[i] for side in sides]), abs=1e-4)
    assert abs(out.auc.mean() - 0.5) < CHANCE if gap == 0 else out.auc.mean() > 0.6
    assert np.abs(out.balanced_accuracy - out.auc).max() < 0.2
    assert ((out.balanced_accuracy > 0.4) & (out.balanced_accuracy <= 1)).all()


def test_ulira_of_one_ensemble_twice_is_chance_exactly():
    side = ensembles(0, 0.0)[0]
    out = evaluation.ulira(side, side)
    np.testing.assert_array_equal(out.auc, 0.5)
    np.testing.assert_array_equal(out.balanced_accuracy, 0.5)


def test_the_released_ulira_does_not_see_the_unlearned_network():
    unlearned, retrained = ensembles(1, 4.0)
    shadows = unlearned[:-1], retrained[:-1]
    forgot = retrained[0] + np.random.default_rng(2).normal(size=SAMPLES) / 10  # as good as retrained
    leaky, perfect = (as_released(shadows, (model, retrained[-1])) for model in (unlearned[-1], forgot))
    assert leaky == perfect > 0.95
    ours = [evaluation.ulira(np.vstack([shadows[0], m]), retrained).auc[-1] for m in (unlearned[-1], forgot)]
    assert ours[0] > 0.9
    assert abs(ours[1] - 0.5) < 2 * CHANCE


def test_the_released_ulira_finds_a_difference_where_there_is_none():
    unlearned, retrained = ensembles(3, 0.0)
    shadows, target = (unlearned[:-1], retrained[:-1]), (unlearned[-1], retrained[-1])
    assert as_released(shadows, target) > 0.5 + CHANCE  # the network scored is one of those fitted
    assert abs(evaluation.ulira(unlearned, retrained).auc[-1] - 0.5) < CHANCE


def test_the_probe_finds_a_class_that_only_the_head_has_lost():
    x, y = networks.samples(networks.mlp, 0, 30)
    unseen, labels = networks.samples(networks.mlp, 1, 30)
    out = evaluation.linear_probe(x, y, unseen, labels, forget=[0])
    assert out.retain > 0.95
    assert out.forget > 0.95
    blank = x.copy()
    blank[y == 0] = x.mean(0)
    lost = evaluation.linear_probe(blank, y, np.where((labels == 0)[:, None], x.mean(0), unseen), labels, forget=[0])
    assert lost.retain > 0.95
    assert evaluation.linear_probe(0 * x, y, 0 * x, y, forget=[0]).forget == 1  # constant: the first of equal classes


def test_weight_change_is_relative_and_by_layer():
    params = networks.draw(networks.mlp, 0)
    table = capture.layers(networks.mlp, params, jnp.ones((2, 16)))
    after = {**params, "head": {"kernel": 1.5 * params["head"]["kernel"], "bias": params["head"]["bias"] + 1}}
    found = evaluation.relative_weight_change(table, params, after)
    assert found == {"first/kernel": 0, "head/kernel": pytest.approx(0.5)}
    blank = jax.tree.map(jnp.zeros_like, params)
    assert evaluation.relative_weight_change(table, blank, blank)["head/kernel"] == 0


Y = np.array([0, 1, 1])
EYE = np.eye(2)[Y]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.class_accuracy(EYE, Y, forget=[2]), "class 2 is not among them"),
        (lambda: evaluation.class_accuracy(EYE, Y, forget=[0, 1]), "no class stays"),
        (lambda: evaluation.class_accuracy(EYE[:, 0], Y, forget=[0]), "class scores are"),
        (lambda: evaluation.confusion_matrix(EYE[None], Y), "class scores are"),
        (lambda: evaluation.label_logit(EYE, Y + 1), "labels must lie in"),
        (lambda: evaluation.svc_mia(np.log(EYE[:, 0] + 0.1), Y / 2, Y / 2), "probabilities of the true label"),
        (lambda: evaluation.svc_mia(Y / 2, Y / 2, 3.0 * Y), "probabilities of the true label"),
        (lambda: evaluation.svc_mia(Y / 2, Y[:0] / 2, Y / 2), r"forget_train holds .*at least one; got shape \(0,\)"),
        (lambda: evaluation.ulira(-EYE, -EYE[:2]), "one .models, n. array a side"),
        (lambda: evaluation.ulira(-EYE[:2], -EYE[:2]), "at least 3 networks"),
        (lambda: evaluation.ulira(EYE - 4, EYE), "retrained holds probabilities, all in"),
        (lambda: evaluation.ulira(EYE - 4, EYE * np.nan), "retrained must be finite"),
        (lambda: evaluation.linear_probe(EYE, Y, EYE, Y, forget=[0], ridge=0.0), "ridge is above 0"),
    ],
)
def test_bad_input_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
