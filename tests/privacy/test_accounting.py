"""Epsilon: the closed form of one Gaussian, published noises, monotone in all numbers, segments, the round trip."""

import builtins
import math

import numpy as np
import pytest
from scipy import optimize, stats

from subspace_jax.privacy import accounting, reports
from subspace_jax.privacy.accounting import Segment, epsilon, noise_multiplier_for, steps_within, total

STUDY = {"q": 256 / 50_000, "steps": 3920, "delta": 1e-5}
DIGITS = {"q": 150 / 1437, "steps": 200, "delta": 1e-4}
ONE_PERCENT = 0.01


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_one_gaussian_has_the_epsilon_of_its_closed_form(sigma):
    def delta_of(e):
        return stats.norm.cdf(0.5 / sigma - e * sigma) - math.exp(e) * stats.norm.cdf(-0.5 / sigma - e * sigma)

    exact = optimize.brentq(lambda e: delta_of(e) - 1e-5, 0, 100)
    assert epsilon(1.0, sigma, 1, 1e-5) == pytest.approx(exact, rel=1e-3)
    assert epsilon(1.0, sigma, 1, 1e-5, "rdp") > exact


@pytest.mark.parametrize(("target", "sigma"), [(1.0, 1.497), (5.0, 0.698), (10.0, 0.566), (50.0, 0.363)])
def test_the_renyi_bound_gives_the_noises_of_the_study(target, sigma):
    assert noise_multiplier_for(target, **STUDY, accountant="rdp") == pytest.approx(sigma, abs=0.003)


NOISES = [(0.5, 8.814), (1.0, 4.839), (2.0, 2.733), (3.0, 2.005), (8.0, 1.068), (20.0, 0.682)]


@pytest.mark.parametrize(("target", "sigma"), NOISES)
def test_loss_distributions_give_the_noises_on_digits_and_come_back(target, sigma):
    found = noise_multiplier_for(target, **DIGITS)
    assert found == pytest.approx(sigma, rel=1e-3)
    assert 0.97 * target < epsilon(DIGITS["q"], found, DIGITS["steps"], DIGITS["delta"]) <= target


def test_the_bounds_of_a_noise_of_one():
    assert epsilon(STUDY["q"], 1.0, STUDY["steps"], STUDY["delta"], "rdp") == pytest.approx(1.949, rel=ONE_PERCENT)
    assert epsilon(STUDY["q"], 1.0, STUDY["steps"], STUDY["delta"]) == pytest.approx(1.747, rel=ONE_PERCENT)


def test_the_smallest_target_comes_back_too():
    found = noise_multiplier_for(0.01, **DIGITS)
    assert 0.0097 < epsilon(DIGITS["q"], found, DIGITS["steps"], DIGITS["delta"]) <= 0.01


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_epsilon_rises_with_q_and_steps_and_falls_with_sigma_and_delta(accountant):
    base = {"q": 0.05, "sigma": 1.5, "steps": 100, "delta": 1e-5}
    for name, values in {
        "q": (0.001, 0.05, 0.2, 1.0),
        "sigma": (20.0, 3.0, 1.5, 0.8),
        "steps": (1, 10, 100, 400),
        "delta": (1e-2, 1e-5, 1e-8),
    }.items():
        found = [epsilon(**base | {name: value}, accountant=accountant) for value in values]
        assert np.all(np.diff(found) >= 0), (name, found)
        assert found[-1] > found[0]


@pytest.mark.parametrize("q", [0.005, 0.1, 1.0])
def test_loss_distributions_are_never_looser_than_the_renyi_bound(q):
    for sigma in (0.7, 2.0, 30.0):
        for steps in (1, 2000):
            assert epsilon(q, sigma, steps, 1e-5) <= epsilon(q, sigma, steps, 1e-5, "rdp") * (1 + 1e-3)


def test_no_step_costs_nothing_no_noise_everything_and_huge_losses_are_counted():
    assert epsilon(0.1, 1.0, 0, 1e-5) == 0
    assert epsilon(0.1, 0.0, 1, 1e-5) == math.inf
    assert 1e5 < epsilon(0.1, 0.01, 200, 1e-4) < epsilon(0.1, 0.001, 200, 1e-4) < math.inf


def test_segments_are_composed_in_any_order_and_join_where_they_are_alike():
    a, b = Segment(0.1, 2.0, 50), Segment(0.05, 1.0, 30)
    both = total((a, b), delta=1e-5)
    assert both == pytest.approx(total((b, a), delta=1e-5), rel=1e-6)
    assert max(total((a,), delta=1e-5), total((b,), delta=1e-5)) < both
    halves = a._replace(steps=20), a._replace(steps=30)
    assert total(halves, delta=1e-5) == pytest.approx(total((a,), delta=1e-5), rel=1e-6)
    assert reports.merged((*halves, b, b._replace(steps=0))) == (a, b)


def test_shuffled_batches_get_no_credit_for_sampling():
    fixed = Segment(0.1, 2.0, 45, sampling="fixed")
    assert total((fixed,), delta=1e-5) == pytest.approx(epsilon(1.0, 2.0, 5, 1e-5))
    assert total((fixed,), delta=1e-5) > epsilon(0.1, 2.0, 45, 1e-5)
    sizes = [64] * 45
    assert reports.report([fixed], delta=1e-5, sizes=sizes).epsilon > 0
    with pytest.raises(ValueError, match=r'45 batches of exactly 64 samples are no Poisson batches.*sampling="fixed"'):
        reports.report([fixed._replace(sampling="poisson")], delta=1e-5, sizes=sizes)
    assert reports.report([fixed._replace(sampling="poisson")], delta=1e-5, sizes=[*sizes, 63]).epsilon > 0


def test_a_budget_allows_as_many_steps_as_fit():
    more = Segment(0.1, 2.0, 200)
    allowed = steps_within(1.5, (), more, delta=1e-5)
    assert (
        total((more._replace(steps=allowed),), delta=1e-5)
        <= 1.5
        < total((more._replace(steps=allowed + 1),), delta=1e-5)
    )
    spent = (Segment(0.1, 2.0, 30),)
    assert steps_within(1.5, spent, more, delta=1e-5) == allowed - 30
    assert steps_within(1e6, spent, more, delta=1e-5) == 200
    assert steps_within(0.1, (Segment(0.1, 1.0, 100),), more, delta=1e-5) == 0


@pytest.mark.parametrize("sigma", [1.0, 0.0])
def test_a_report_is_plain_json_and_back(sigma):
    found = reports.report([Segment(0.1, sigma, 5, math.inf if sigma == 0 else 1.0)], delta=1e-5)
    saved = reports.to_json(found)
    assert saved["segments"][0]["clip"] == (None if sigma == 0 else 1.0)
    assert (saved["epsilon"] is None) == (sigma == 0)
    assert reports.from_json(saved) == found


def test_a_delta_above_one_over_the_samples_is_warned_of():
    with pytest.warns(UserWarning, match=r"delta should be below 1/N = 0.0005; got 0.001"):
        reports.report([Segment(0.1, 1.0, 5)], delta=1e-3, samples=2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epsilon(0.0, 1.0, 1, 1e-5), r"q is the chance of a sample to enter a step, in \(0, 1\]; got 0.0"),
        (lambda: epsilon(1.5, 1.0, 1, 1e-5), "got 1.5"),
        (lambda: epsilon(0.1, -1.0, 1, 1e-5), "sigma, the noise multiplier, is at least 0 and finite; got -1.0"),
        (lambda: epsilon(0.1, 1.0, -1, 1e-5), "steps are a whole number of at least 0; got -1"),
        (lambda: epsilon(0.1, 1.0, 1, 0.0), r"delta is the chance of no guarantee, in \(0, 1\); got 0.0"),
        (lambda: epsilon(0.1, 1.0, 1, 1.0), "got 1.0"),
        (lambda: total((Segment(0.1, 1.0, 1, sampling="cyclic"),), delta=1e-5), "sampling is .*got 'cyclic'"),
        (lambda: noise_multiplier_for(0.001, **DIGITS), r"epsilon is looked for in \[0.01, 1000\]; got 0.001"),
        (lambda: noise_multiplier_for(2000.0, **DIGITS), "got 2000.0: above it nothing is guaranteed"),
        (lambda: noise_multiplier_for(math.nan, **DIGITS), "got nan"),
        (lambda: steps_within(0.0, (), Segment(0.1, 1.0, 1), delta=1e-5), "the largest epsilon is above 0; got 0.0"),
    ],
)
def test_what_cannot_be_accounted_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_target_that_no_noise_reaches_is_refused_with_the_smallest_there_is():
    with pytest.raises(ValueError, match=r"epsilon 0.01 cannot be reached in .* steps .*: the smallest is \d"):
        noise_multiplier_for(0.01, q=1.0, steps=10**10, delta=1e-5, accountant="rdp")


def test_without_the_library_there_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    accounting._libraries.cache_clear()
    accounting._total.cache_clear()
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r'dp-accounting, which is missing: pip install "subspace_jax\[privacy\]"'):
        epsilon(0.1, 1.0, 7, 1e-5)
    assert epsilon(0.1, 0.0, 7, 1e-5) == math.inf
    accounting._total.cache_clear()
