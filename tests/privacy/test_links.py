"""Bounds between privacy, memorization and curvature: their order and ends, who attains them, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import curvature
from subspace_jax.privacy import links

EPSILONS = st.floats(0, 60)
DELTAS = st.sampled_from([0.0, 1e-5, 0.1, 0.9])
KINDS = "paper", "tight", "earlier"
ROUNDED = 1e-12  # of float64
CONSTANTS = {"rho": 0.3, "alpha3": 2.0, "gamma": 0.1, "bias": 0.05, "samples": 7}


@given(EPSILONS, EPSILONS, DELTAS)
def test_bounds_rise_with_epsilon_and_delta_and_ours_is_the_smallest(one, other, delta):
    low, high = sorted((one, other))
    for kind in KINDS:
        at = [links.memorization_bound(epsilon, delta=delta, kind=kind) for epsilon in (0, low, high, np.inf)]
        assert np.all(np.diff(at) >= -ROUNDED)
        assert at[0] == pytest.approx(delta, abs=ROUNDED)
        assert at[-1] == 1
        assert at[2] <= min(1, np.expm1(min(high, 1)) + delta) + ROUNDED
    tight, paper, earlier = (links.memorization_bound(high, delta=delta, kind=k) for k in ("tight", "paper", "earlier"))
    assert tight <= paper + ROUNDED <= earlier + 2 * ROUNDED
    assert links.memorization_bound(high, kind="paper") <= min(1, high) + ROUNDED


@given(st.floats(1e-3, 20))
def test_randomised_response_attains_our_bound_and_not_the_paper_s(epsilon):
    """The true bit with chance e^epsilon / (1 + e^epsilon); the neighbour's bit is the other one."""
    truth = np.exp(epsilon) / (1 + np.exp(epsilon))
    mem = truth - (1 - truth)
    assert links.memorization_bound(epsilon, kind="tight") == pytest.approx(mem, abs=ROUNDED)
    assert mem < links.memorization_bound(epsilon, kind="paper")


@given(st.floats(0.01, 8), st.sampled_from([0.01, 0.2]))
def test_our_bound_with_delta_is_attained_too(epsilon, delta):
    """Truth that is told openly with chance delta, by randomised response otherwise, is (epsilon, delta)-private."""
    truth = delta + (1 - delta) * np.exp(epsilon) / (1 + np.exp(epsilon))
    assert truth <= np.exp(epsilon) * (1 - truth) + delta + ROUNDED * np.exp(epsilon), "it is private"
    bound = links.memorization_bound(epsilon, delta=delta, kind="tight")
    assert truth - (1 - truth) == pytest.approx(bound, abs=ROUNDED)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.05, 5), st.integers(0, 2**31 - 1))
def test_no_private_mechanism_passes_our_bound(weights, epsilon, seed):
    """Two distributions whose ratio lies within e^+-epsilon, drawn at random: their distance is mem at the most."""
    p = np.array(weights) + 0.01
    factor = np.exp(np.random.default_rng(seed).uniform(-epsilon / 2, epsilon / 2, len(p)))
    p, q = p / p.sum(), p * factor / (p * factor).sum()
    assert np.abs(np.log(p / q)).max() <= epsilon + ROUNDED
    assert np.abs(p - q).sum() / 2 <= links.memorization_bound(epsilon, kind="tight") + ROUNDED


def test_stability_and_curvature_are_scaled_by_the_loss_and_the_samples():
    for kind in KINDS:
        share = links.memorization_bound([0.5, 2.0], delta=1e-3, kind=kind)
        stability = links.stability_bound([0.5, 2.0], loss_limit=3.0, delta=1e-3, kind=kind)
        np.testing.assert_allclose(stability, 3 * share, rtol=ROUNDED)
        found = links.curvature_bound([0.5, 2.0], samples=9, constant=0.7, loss_limit=3.0, delta=1e-3, kind=kind)
        np.testing.assert_allclose(found, 30 * share + 0.7, rtol=ROUNDED)
    assert links.stability_bound(1.0, loss_limit=2.0) == pytest.approx(2 * (1 - np.exp(-1)))
    np.testing.assert_allclose(
        links.memorization_from_curvature([0.0, 0.4, 9.0], constant=0.1, loss_limit=2.0), [0.1, 0.3, 1.0]
    )


@pytest.mark.parametrize("name", ["rho", "gamma", "bias", "beta", "alpha3"])
def test_constants_are_linear_in_each_quantity(name):
    """Differences of equal steps are equal; by hand at one point."""
    given_beta = {"beta": 0.2, "loss_limit": 2.0}
    assert links.link2_constant(**CONSTANTS) == pytest.approx(0.1 + 27 * 0.1 + 12 * 0.05)
    assert links.link1_constant(**CONSTANTS, **given_beta) == pytest.approx((0.1 + 27 * 0.1 + 12 * 0.05 + 7 * 0.2) / 2)
    at = [links.link1_constant(**CONSTANTS | given_beta | {name: value}) for value in (0.0, 0.5, 1.0)]
    assert at[2] - at[1] == pytest.approx(at[1] - at[0])
    assert at[1] > at[0]


def test_a_quadratic_loss_rises_by_half_the_curvature_times_the_variance_of_the_offset():
    """What link 1 rests on: E l(z + a) - l(z) = tr(A Cov(a)) / 2, exact where l = z'Az / 2; a = +-v e_k at random."""
    a = np.random.default_rng(0).normal(size=(5, 5))
    a, z, v = a + a.T, np.random.default_rng(1).normal(size=5), 0.7
    value = lambda z: z @ a @ z / 2  # noqa: E731
    offsets = v * np.concatenate([np.eye(5), -np.eye(5)])
    rise = np.mean([value(z + offset) - value(z) for offset in offsets])
    loss = lambda matrix, x, y: jnp.einsum("bi,ij,bj->b", x, matrix, x) / 2  # noqa: E731
    trace = curvature.exact(loss, jnp.float32(a), jnp.float32(z)[None], jnp.zeros(1, int))[0]
    np.testing.assert_allclose(rise, float(trace) * v**2 / 5 / 2, rtol=1e-5)


def test_sampling_explains_what_lies_at_the_bound_and_not_what_lies_above():
    """Randomised response of 2,000 samples: at the bound nobody is accused; .2 above it many are."""
    rng, bound = np.random.default_rng(0), float(links.memorization_bound(1.0, kind="tight"))
    keep = np.arange(64)[:, None] % 2 == np.zeros((1, 2000), int)
    accused = []
    for mem in (bound, bound + 0.2):
        outcome = rng.random(keep.shape) < 0.5 + np.where(keep, 1, -1) * mem / 2
        value = outcome.mean(axis=0, where=keep) - outcome.mean(axis=0, where=~keep)
        stderr = links.sampling_error(outcome.astype(float), keep)
        accused.append(links.violations(value, stderr, bound).sum())
        assert links.root_mean_square(value, stderr) == pytest.approx(mem, abs=0.02)
    assert accused[0] <= 2
    assert accused[1] >= 20


def test_without_memorization_the_mean_size_is_sampling_and_the_root_mean_square_is_not():
    rng = np.random.default_rng(0)
    keep = np.arange(64)[:, None] % 2 == np.zeros((1, 4000), int)
    outcome = rng.random(keep.shape)
    value = outcome.mean(axis=0, where=keep) - outcome.mean(axis=0, where=~keep)
    stderr = links.sampling_error(outcome, keep)
    assert np.abs(value).mean() > 0.05
    assert links.root_mean_square(value, stderr) < 0.02
    assert links.violations(np.array([0.5, -0.5, 0.1]), np.zeros(3), 0.3).tolist() == [True, True, False]


def test_negative_traces_are_warned_of():
    with pytest.warns(UserWarning, match="1 of 2 curvatures are negative"):
        assert links.memorization_from_curvature([-1.0, 1.0], constant=0.0).tolist() == [-1.0, 1.0]


BOUND, LIMIT = links.memorization_bound, {"loss_limit": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BOUND(-0.1), r"epsilon is at least 0, infinite without privacy; got -0.1"),
        (lambda: BOUND([1.0, np.nan]), "got .1.0, nan"),
        (lambda: BOUND(1.0, delta=1.0), r"delta is the chance of no guarantee, in \[0, 1\); got 1.0"),
        (lambda: BOUND(1.0, kind="loose"), "kind is .*; got 'loose'"),
        (lambda: links.stability_bound(1.0, loss_limit=0.0), "loss_limit, the largest loss L, is above 0 and finite"),
        (lambda: links.stability_bound(1.0, loss_limit=np.inf), "got inf"),
        (lambda: links.curvature_bound(1.0, samples=1, constant=0.0, **LIMIT), "samples, m, are at least 2; got 1"),
        (lambda: links.link2_constant(**CONSTANTS | {"gamma": -1.0}), "gamma is at least 0 and finite; got -1.0"),
        (lambda: links.link1_constant(**CONSTANTS, beta=np.nan), "beta is at least 0 and finite; got nan"),
        (lambda: links.memorization_from_curvature([np.inf], constant=0.0), "curvature must be finite"),
        (lambda: links.check_losses([0.5, 2.0, 3.0], loss_limit=1.0), "loss exceeds L at 2 samples: losses of 0.5 to"),
        (lambda: links.check_losses([-0.5], loss_limit=1.0), "loss exceeds L at 0 samples: losses of -0.5"),
        (lambda: links.violations([0.1], [0.1, 0.2], 0.5), "value and stderr must have one entry per sample"),
        (lambda: links.violations([0.1], [0.1], 0.5, significance=0.0), "significance is a chance"),
        (lambda: links.sampling_error(np.ones((4, 3)), np.ones((4, 3), bool)), r"3 of 3 samples .*: \[0, 1, 2\]"),
        (lambda: links.sampling_error(np.ones((4, 3)), np.ones((4, 3))), "keep boolean; got"),
        (
            lambda: links.sampling_error(np.full((4, 3), 1.5), np.ones((4, 3), bool)),
            "got 1.5 to 1.5: take",
        ),
        (lambda: links.sampling_error(np.full((4, 3), np.nan), np.ones((4, 3), bool)), "got nan to nan"),
    ],
)
def test_what_has_no_bound_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def test_losses_within_the_limit_pass():
    links.check_losses(np.array([0.0, 0.5, 1.0]), loss_limit=1.0)
