"""Loss, log-odds and modified entropy of saved outputs against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from subspace_jax.privacy import statistics

SEEDS = st.integers(0, 2**31 - 1)


def draw(seed, scale=2.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(3, 2, 7, 4)), rng.integers(0, 4, 7)


@given(SEEDS)
def test_every_statistic_is_its_definition(seed):
    logits, y = draw(seed)
    p = softmax(logits, axis=-1)
    own, top = p[..., np.arange(7), y], p.max(axis=-1)
    others = np.where(np.arange(4) == y[:, None], 0, -p * np.log(1 - p)).sum(axis=-1)
    found = statistics.from_logits(logits, y)
    np.testing.assert_allclose(found.loss, -np.log(own), rtol=1e-9)
    np.testing.assert_allclose(found.label_logit, np.log(own / (1 - own)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.top_logit, np.log(top / (1 - top)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.entropy, -(1 - own) * np.log(own) + others, rtol=1e-9)
    for shown in (found, statistics.from_probabilities(p, y)):
        for values, again in zip(shown[:4], found[:4], strict=True):
            np.testing.assert_allclose(values, again, rtol=1e-9, atol=1e-9)


def test_certain_models_keep_their_digits_right_and_wrong():
    logits = np.array([60.0, 0, 0])[None, None, None]
    right, wrong = (statistics.from_logits(logits, np.array([label])) for label in (0, 1))
    rest = 2 * np.exp(-60)
    np.testing.assert_allclose(right.loss.item(), rest, rtol=1e-12)
    np.testing.assert_allclose(right.label_logit.item(), 60 - np.log(2), rtol=1e-14)
    np.testing.assert_allclose(wrong.loss.item(), 60, rtol=1e-14)
    np.testing.assert_allclose(wrong.entropy.item(), 60 + 60 - np.log(2), rtol=1e-12)  # 1 - p_top would round to 0


def test_blocks_formats_and_files_do_not_change_the_numbers(tmp_path, monkeypatch):
    logits, y = draw(0)
    logits = logits.astype(np.float16)
    whole = statistics.from_logits(logits, y)
    np.save(tmp_path / "logits.npy", logits)
    monkeypatch.setattr(statistics, "BLOCK", 2 * 4 * 3)  # 3 samples of 2 queries and 4 classes
    pieces = statistics.from_logits(np.load(tmp_path / "logits.npy", mmap_mode="r"), y)
    exact = statistics.from_logits(logits.astype(np.float64), y)
    for values, again, same in zip(whole[:4], pieces[:4], exact[:4], strict=True):
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, again)
        np.testing.assert_array_equal(values, same)


def test_probabilities_rounded_to_zero_stay_finite():
    certain = np.eye(3, dtype=np.float32)[None, None]
    found = statistics.from_probabilities(certain, np.array([0, 1, 0]))
    assert all(np.isfinite(values).all() for values in found[:4])
    assert found.loss[0, 0, 2] == pytest.approx(-np.log(1e-22))


LOGITS, Y = draw(0)
PROBABILITIES = softmax(LOGITS, axis=-1)
HOLED = LOGITS.copy()
HOLED[1, 0, 2, 3] = np.nan
CURVATURE = np.ones((3, 2, 7))
WRONG = {
    "one query without its axis": (lambda: statistics.from_logits(LOGITS[:, 0], Y), "for one query give logits"),
    "probabilities as logits": (lambda: statistics.from_logits(PROBABILITIES, Y), "take from_probabilities"),
    "logits as probabilities": (lambda: statistics.from_probabilities(LOGITS, Y), "are no probabilities.*softmax"),
    "rows without sum 1": (lambda: statistics.from_probabilities(PROBABILITIES / 2, Y), "sums to 0.5"),
    "not finite": (lambda: statistics.from_logits(HOLED, Y), "logits of model 1 must be finite; got nan at position"),
    "a label too high": (lambda: statistics.from_logits(LOGITS, Y + 3), r"labels must lie in \[0, 4\)"),
    "labels of others": (lambda: statistics.from_logits(LOGITS, Y[:5]), "7 samples and 5 labels"),
    "curvature of others": (
        lambda: statistics.from_logits(LOGITS, Y, curvature=CURVATURE[:2]), r"\(3, 2, 7\); got \(2, 2, 7\)"
    ),
    "a trace": (lambda: statistics.from_logits(LOGITS, Y, curvature=-CURVATURE), "42 of 42 are negative: a trace"),
    "curvature not finite": (
        lambda: statistics.from_logits(LOGITS, Y, curvature=CURVATURE / 0), "curvature must be finite; got inf"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_outputs_that_are_none_are_refused(case, unchecked):
    call, match = WRONG[case]
    with pytest.raises(ValueError, match=match):
        call()
