"""Data that are no numbers, no probabilities, no labels or not of the same samples never give a result in silence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.compression import baselines as compressed
from subspace_jax.compression import eigenpairs, utilized_rank
from subspace_jax.core import capture, inference, losses, metrics, moments, subspace
from subspace_jax.core.moments import Moments
from subspace_jax.data import corrupt, partition
from subspace_jax.label_noise import mixup, trusted, verifix
from subspace_jax.memorization import confident_learning as cl
from subspace_jax.memorization import duplicates, dynamics, epoch_average, second_split, stability
from subspace_jax.training.fit import fit
from subspace_jax.training.minimise import repeat
from subspace_jax.unlearning import class_projection, evaluation, samples
from subspace_jax.unlearning.baselines import engine

NAN = float("nan")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 3)).astype(np.float32)
ROWS = np.asarray(jax.nn.softmax(LOGITS))
Y = np.array([0, 1, 2, 0, 1, 2])
TEXT, ONE_HOT, FLOATS = np.array(["a"] * 6), np.eye(3, dtype=int)[Y], Y / 1.0
MARKS = Y == 1
PARAMS = {"w": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)}
VARIABLES = {"params": PARAMS, "batch_stats": {}}
BROKEN = {"w": PARAMS["w"].at[1, 0].set(NAN)}


def fn(params, x):
    return x @ params["w"]


TABLE = capture.layers(fn, PARAMS, LOGITS)
SEEN = capture.collect(fn, PARAMS, [LOGITS], dtype="float64")
GRAM = SEEN["w"].gram
HOLED = GRAM.copy()
HOLED[1] = NAN
HOLES = {"w": SEEN["w"]._replace(gram=HOLED)}
NONE = {"w": Moments(0 * GRAM, 0 * SEEN["w"].total, np.float64(0))}
SPACE = subspace.from_gram(GRAM, energy=0.9)
HOLED_SPACE = SPACE._replace(basis=np.full_like(SPACE.basis, NAN))
PROBABILITIES = ROWS[:, 0]
OUTCOME, MASK = np.ones((4, 6), np.float32), RNG.random((4, 6)) < 0.5
MIXED = mixup.mixup(lambda variables, x, key: (x, {}))


def descend(x, y):
    return engine.descend(KEY, None, VARIABLES, [(x, y)], recipe=engine.RECIPE, label="")


SHORT = "must have one entry per sample; got 6 and 5"
NOT_FINITE = "must be finite; got nan at position"
CASES = {  # what is called: what it says
    # no probabilities, no labels, not of the same samples
    "logits": (lambda: cl.confident_learning(LOGITS, Y), "rows of probabilities are no probabilities.*apply softmax"),
    "log-probabilities": (lambda: cl.confident_learning(np.log(ROWS), Y), "apply exp"),
    "text": (lambda: cl.confident_learning(ROWS, TEXT), "text or objects such as .'a'.: number the classes"),
    "float labels": (lambda: cl.confident_learning(ROWS, FLOATS), r"got float64: .*cast them by .astype\(int\)"),
    "one-hot": (lambda: cl.confident_learning(ROWS, ONE_HOT), r"take .argmax\(axis=1\) of one-hot labels"),
    "unequal": (lambda: cl.confident_learning(ROWS, Y[:5]), f"probabilities and labels {SHORT}"),
    "swapped": (lambda: cl.confident_learning(Y, ROWS), r"one row per sample, \(n, classes\); got shape \(6,\)"),
    "one class": (lambda: cl.confident_learning(ROWS, 0 * Y), "confident learning takes samples of at least 2 classes"),
    "NaN probabilities": (lambda: cl.confident_learning(ROWS * NAN, Y), f"probabilities {NOT_FINITE}"),
    "one fold": (lambda: cl.folds(KEY, 6, count=1), "number of folds, at least 2; got 1"),
    "dynamics": (lambda: dynamics.update(dynamics.init(6), LOGITS, Y[:5]), f"logits and labels {SHORT}"),
    "another set": (lambda: dynamics.update(dynamics.init(5), LOGITS, Y), "logits and state must have one entry"),
    "margin": (lambda: dynamics.margin(LOGITS, FLOATS), "if they are class numbers, cast"),
    "second split": (lambda: second_split.update(second_split.init(5), LOGITS, Y), "logits and state must have"),
    "scores": (lambda: epoch_average.update(epoch_average.init(5), ROWS[:, 0]), "scores and state must have"),
    "NaN score": (lambda: epoch_average.update(epoch_average.init(6), Y * NAN), f"scores {NOT_FINITE} 0"),
    "copies": (lambda: duplicates.conflicting_copies(LOGITS, Y[:5]), f"image and label {SHORT}"),
    "text of copies": (lambda: duplicates.conflicting_copies(LOGITS, TEXT), "number the classes"),
    "outcomes": (lambda: stability.outcomes(fn, PARAMS, LOGITS * NAN, Y), f"x {NOT_FINITE}"),
    "mask": (lambda: stability.memorization_sums(OUTCOME, MASK * 1), "mask is boolean .* got int64"),
    "influence": (
        lambda: stability.high_influence(OUTCOME, MASK, Y, Y[:5], PROBABILITIES), "test_labels and outcome must have"
    ),
    "no model": (lambda: stability.subset_tables(KEY, 6, models=0, ratio=0.5), "number of subsets, at least 1; got 0"),
    "cross-entropy": (lambda: losses.softmax_cross_entropy(LOGITS, Y[:5]), f"logits and labels {SHORT}"),
    "accuracy": (lambda: metrics.accuracy(LOGITS, Y[:, None]), r"flatten them by .reshape\(-1\)"),
    "ranks": (lambda: metrics.auroc(Y, MARKS[:5]), f"scores and positive {SHORT}"),
    "marks": (lambda: metrics.roc(Y, Y), "positive marks the positives, booleans .* got int32: compare"),
    "correlation": (lambda: metrics.spearman(Y, Y[:1]), "a and b must have one entry per sample; got 6 and 1"),
    # positions and curvatures of trusted samples
    "curvature": (lambda: trusted.select_trusted(FLOATS * NAN, Y, per_class=1), f"curvature {NOT_FINITE} 0"),
    "mask for positions": (lambda: trusted.check_trusted(MARKS, Y, classes=3), "take np.flatnonzero of it"),
    "no position": (lambda: trusted.select_members(KEY, [6], Y, per_class=1), r"members must lie in \[0, 6\).*got 6"),
    "pixels": (
        lambda: MIXED(PARAMS, {}, ((jnp.zeros((2, 3), jnp.uint8), Y[:2]),), None, KEY), "mixes float inputs; got uint8"
    ),
    # classes to forget
    "forget text": (lambda: samples.select_samples(KEY, Y, forget="ab"), "forget names the classes to forget by"),
    "forget none": (lambda: evaluation.class_accuracy(LOGITS, Y, forget=()), "such as .3, 5.; got"),
    "one-hot sets": (lambda: samples.select_samples(KEY, ONE_HOT, forget=1), "of one-hot labels"),
    "logits attacked": (lambda: evaluation.svc_mia(ROWS[:, 0], LOGITS[:, 0], ROWS[:, 0]), "forget_train holds prob"),
    "NaN attacked": (lambda: evaluation.svc_mia(ROWS[:, 0], Y * NAN, ROWS[:, 0]), f"forget_train {NOT_FINITE}"),
    "NaN features": (
        lambda: evaluation.linear_probe(LOGITS * NAN, Y, LOGITS, Y, forget=1), f"train_features {NOT_FINITE}"
    ),
    "short features": (
        lambda: evaluation.linear_probe(LOGITS, Y, LOGITS, Y[:5], forget=1), f"test_features and test_y {SHORT}"
    ),
    "NaN samples": (
        lambda: descend(LOGITS * NAN, Y), f"x {NOT_FINITE}"
    ),
    "labels forgotten": (
        lambda: descend(LOGITS, TEXT), "number the classes"
    ),
    # training sets
    "NaN images": (lambda: fit(None, None, (LOGITS * NAN, Y), epochs=1), f"x {NOT_FINITE}"),
    "short labels": (lambda: fit(None, None, (LOGITS, Y[:5]), epochs=1), f"x and y {SHORT}"),
    "short set": (
        lambda: repeat(KEY, None, 0, [(LOGITS, Y[:5])], steps=1, batch=2, params=PARAMS), f"x and y {SHORT}"
    ),
    # moments, Grams and kernels
    "utilization": (lambda: utilized_rank.utilization(TABLE, PARAMS, HOLES), r"moments of 'w' 'gram' .* \(1, 0\)"),
    "kernel": (lambda: utilized_rank.utilization(TABLE, BROKEN, SEEN), f"kernel of 'w' {NOT_FINITE}"),
    "plain SVD": (lambda: compressed.plain_svd(TABLE, BROKEN, ranks={"w": 1}), f"kernels 'w' {NOT_FINITE}"),
    "verifix": (lambda: verifix.verifix(TABLE, PARAMS, HOLES, alpha=10), f"Gram of 'w' over the trusted.*{NOT_FINITE}"),
    "forget moments": (
        lambda: class_projection.unlearn_classes(TABLE, PARAMS, SEEN, HOLES), f"over the forget set {NOT_FINITE}"
    ),
    "no rows": (lambda: class_projection.unlearn_classes(TABLE, PARAMS, NONE, SEEN), "retain moments of 'w' hold no"),
    "rows": (lambda: moments.from_rows(jnp.full((2, 2), NAN)), f"rows {NOT_FINITE}"),
    "from_gram": (lambda: subspace.from_gram(jnp.asarray(HOLED, jnp.float32), energy=0.9), f"gram {NOT_FINITE}"),
    "wide gram": (lambda: subspace.from_gram(gram=HOLED, energy=0.9), f"gram {NOT_FINITE}"),
    "from_rows": (lambda: subspace.from_rows(LOGITS * NAN, energy=0.9), f"rows {NOT_FINITE}"),
    "grow": (lambda: subspace.grow(SPACE, HOLED, energy=0.9), f"gram {NOT_FINITE}"),
    "union": (lambda: subspace.union(SPACE, HOLED_SPACE), f"second 'basis' {NOT_FINITE}"),
    "complement": (lambda: subspace.complement(HOLED_SPACE), f"space 'basis' {NOT_FINITE}"),
    "resolvent": (lambda: subspace.resolvent(HOLED, 10.0), f"gram {NOT_FINITE}"),
    # inputs of a network
    "equal samples": (lambda: inference.check_inference(fn, PARAMS, 0 * LOGITS), "all 6 samples are equal"),
    "NaN inputs": (lambda: inference.check_inference(fn, PARAMS, LOGITS * NAN), f"x {NOT_FINITE}"),
    "NaN outputs": (lambda: inference.check_inference(fn, BROKEN, LOGITS), f"the output {NOT_FINITE}"),
    # labels that are corrupted and shared out
    "noise": (lambda: corrupt.symmetric(KEY, TEXT, fraction=0.5, classes=3), "number the classes"),
    "given": (lambda: corrupt.given(Y, Y[:5], classes=3), f"labels and other {SHORT}"),
    "planted": (lambda: corrupt.duplicates(KEY, LOGITS[:5], Y, pairs=1, classes=3), f"label and image {SHORT}"),
    "parts": (lambda: partition.iid(KEY, ONE_HOT, agents=2), "of one-hot labels"),
    "histogram": (lambda: partition.skewness(np.array([[NAN, 1.0]])), f"histogram {NOT_FINITE}"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_values_are_refused_in_one_sentence(case, unchecked):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert not re.search(r"\n", str(refusal.value))


def test_a_gram_that_is_not_finite_is_never_rank_zero_inside_jit():
    gram, energy = jnp.asarray(HOLED, jnp.float32), 0.9
    found = jax.jit(lambda gram: subspace.from_gram(gram, energy=energy, capacity=2))(gram)
    assert int(found.rank) == 2
    assert np.isnan(found.basis).all()
    old = subspace.from_gram(jnp.eye(3), energy=0.3)
    grown = jax.jit(lambda gram: subspace.grow(old, gram, energy=energy))(gram)
    assert int(grown.rank) == 3
    assert np.isnan(subspace.projector.__wrapped__(grown)).any()
    fine = jax.jit(jax.vmap(lambda gram: subspace.from_gram(gram, energy=energy)))(jnp.stack([gram, jnp.eye(3)]))
    np.testing.assert_array_equal(np.isnan(fine.basis).all((1, 2)), [True, False])  # each of a batch for itself


def test_one_class_to_forget_may_stand_by_itself():
    for forget in (1, [1], (1, 1)):
        chosen = samples.select_samples(KEY, Y, forget=forget, retain_count=2, forget_count=2)
        np.testing.assert_array_equal(Y[chosen.forget], 1)
        assert evaluation.class_accuracy(LOGITS, Y, forget=forget) == evaluation.class_accuracy(LOGITS, Y, forget=[1])


def test_a_spectrum_needs_finite_energies():
    with pytest.raises(ValueError, match="energies must be finite"):
        eigenpairs.effective_rank(np.array([1.0, NAN]))
    with pytest.raises(ValueError, match="energies must be finite"):
        eigenpairs.rank_at(eigenpairs.Spectrum(np.eye(2), np.array([1.0, NAN])), 0.9)
