"""The audit: equal to jax-privacy's, never an accusation of the innocent, an accusation of the guilty."""

import functools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.privacy import audit, dp_sgd
from tests.privacy.cases import PARAMS, draw, model_loss

SEEDS = st.integers(0, 2**31 - 1)
BISECTION = 1e-5  # both look for the bound to 1e-6
DELTA = 1e-4
VARIABLES = {"params": PARAMS, "batch_stats": {}}
SGD = optax.sgd(0.5)


def scores_of(seed, shift, size=40):
    rng = np.random.default_rng(seed)
    return rng.normal(size=size) + shift, rng.normal(size=size + seed % 3)


@given(SEEDS, st.sampled_from([0.0, 1.0, 3.0, 20.0]), st.sampled_from([0.0, 1e-4, 1e-2]), st.booleans())
def test_the_bound_is_that_of_jax_privacy(seed, shift, delta, coarse):
    auditing = pytest.importorskip("jax_privacy.auditing")
    inside, outside = scores_of(seed, shift)
    if coarse:  # ties
        inside, outside = np.round(inside), np.round(outside)
    theirs = auditing.CanaryScoreAuditor(inside, outside)
    expected = theirs.epsilon_one_run(0.05, delta or 1e-300)  # it takes no 0
    assert audit.epsilon_one_run(inside, outside, delta=delta) == pytest.approx(expected, abs=BISECTION)


def test_it_rises_with_the_separation_and_stays_within_what_so_many_canaries_show():
    found = [audit.epsilon_one_run(*scores_of(0, shift, 100), delta=DELTA) for shift in (0.0, 1.0, 2.0, 4.0, 50.0)]
    assert found[0] == 0
    assert np.all(np.diff(found) >= 0)
    assert 2.5 < found[-1] < 3.5
    assert audit.epsilon_one_run(*scores_of(0, 50.0, 100), delta=DELTA, significance=0.001) < found[-1]


def test_randomised_response_is_accused_of_no_more_than_it_leaks():
    """True epsilon 1: each coin is told rightly with chance e / (1 + e); at most 5 % of the bounds may exceed it."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(60):
        told = [rng.random(100) < chance for chance in (np.e / (1 + np.e), 1 / (1 + np.e))]
        wrong += audit.epsilon_one_run(*(side.astype(float) for side in told), delta=0.0) > 1
    assert wrong <= 60 * 0.05 + 3


@functools.cache
def planted_run(sigma):
    x, y = draw(0, 60)
    case = audit.plant(jax.random.key(1), model_loss, SGD, VARIABLES, (x, y), canaries=40, clip=0.5)
    found = dp_sgd.fit(
        jax.random.key(2), case.loss, case.tx, case.variables, case.data, sigma=sigma, clip=0.5,
        batch=0.2 * case.samples, steps=30, delta=DELTA, every=30,
    )  # fmt: skip
    return case, found


def test_without_noise_a_canary_counts_the_steps_it_entered_times_clip():
    case, found = planted_run(0.0)
    assert case.included.sum() == 20
    assert case.samples == 80
    inside, outside = audit.scores(case, found.variables)
    np.testing.assert_array_equal(outside, 0)
    entered = inside * 0.2 * case.samples / 0.5
    np.testing.assert_allclose(entered, np.round(entered), atol=1e-4)
    assert entered.mean() == pytest.approx(0.2 * 30, rel=0.3)
    assert audit.epsilon_one_run(inside, outside, delta=DELTA) > 1


def test_the_network_learns_beside_the_canaries_and_noise_hides_them():
    case, found = planted_run(0.0)
    for name, before in PARAMS.items():
        assert not np.allclose(found.variables["params"]["network"][name], before)
    _, noisy = planted_run(2.0)
    assert audit.epsilon_one_run(*audit.scores(case, noisy.variables), delta=DELTA) <= noisy.report.epsilon


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"significance": 0.0}, "significance is in .* and delta in .*; got 0.0 and 0.0001"),
        ({"delta": 1.0}, "got 0.05 and 1.0"),
        ({"in_scores": np.zeros(0)}, "in_scores holds one score per canary"),
        ({"out_scores": np.array([np.nan])}, "out_scores must be finite; got nan"),
    ],
)
def test_what_cannot_be_audited_is_refused(change, message, unchecked):
    given = {"in_scores": np.ones(3), "out_scores": np.zeros(3), "delta": DELTA} | change
    with pytest.raises(ValueError, match=message):
        audit.epsilon_one_run(**given)


@pytest.mark.parametrize(("canaries", "clip"), [(1, 1.0), (10, 0.0), (10, np.inf)])
def test_a_case_without_canaries_or_clipping_is_refused(canaries, clip):
    with pytest.raises(ValueError, match="at least 2 canaries and a finite clip above 0; got"):
        audit.plant(jax.random.key(0), model_loss, SGD, VARIABLES, draw(0), canaries=canaries, clip=clip)
