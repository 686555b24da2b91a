"""What a run of DP-SGD costs in privacy: epsilon of the steps taken, and the noise that keeps within a budget.

The mechanism of one step: every sample enters with chance q, the clipped sum gets Gaussian noise of `sigma` times the
clip norm. dp-accounting composes the steps, by privacy loss distributions ("pld", tight) or Renyi divergences ("rdp",
an older and looser bound). Both give upper bounds: a rounding never hides a loss.

Neighbouring data sets differ by one sample added or removed.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Accountant = Literal["pld", "rdp"]
EPSILONS = 0.01, 1000.0  # the range in which a noise is looked for
SIGMAS = 1e-3, 1e6  # the noise multipliers tried
INTERVAL = (
    1e-3  # of the discretised losses; 1e-4, dp-accounting's own, changes sigma by 1e-4 and takes 10 times as long
)
FINE = 1e-4  # below epsilon 1, where the rounding to the grid would show; it does below .01
ORDERS = 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024  # a rough bound, which chooses the grid
CELLS = 1e6  # of the grid at most, roughly: beyond, for epsilons of thousands, it is coarser


class Segment(NamedTuple):
    """Steps that were taken alike.

    Attributes:
      q: chance of each sample to enter a step; expected batch / samples.
      sigma: noise multiplier: standard deviation of the noise on the sum of gradients / clip norm.
      steps: how many.
      clip: norm to which gradients were clipped; any, as far as epsilon is concerned.
      sampling: "poisson", or "fixed": shuffled batches of one size, each sample once an epoch. These get no credit for
        sampling: every epoch is one Gaussian mechanism.
    """

    q: float
    sigma: float
    steps: int
    clip: float = 1.0
    sampling: Literal["poisson", "fixed"] = "poisson"


def epsilon(q: float, sigma: float, steps: int, delta: float, accountant: Accountant = "pld") -> float:
    """Epsilon after `steps` Poisson-sampled steps; rises with q and steps, falls with sigma and delta.

    0 for no step, infinite for sigma = 0. Needs dp-accounting.

    Raises:
      ValueError: q outside (0, 1], sigma below 0, steps below 0, delta outside (0, 1), no dp-accounting.
    """
    return total((Segment(q, sigma, steps),), delta=delta, accountant=accountant)


def total(segments: Sequence[Segment], *, delta: float, accountant: Accountant = "pld") -> float:
    """Epsilon of all segments one after the other: what a resumed run has spent, whatever changed on the way.

    Raises:
      ValueError: as `epsilon`, of any segment.
    """
    for segment in segments:
        _check(segment)
    if not 0 < delta < 1:
        raise ValueError(f"delta is the chance of no guarantee, in (0, 1); got {delta}: below 1 / samples is usual.")
    if accountant not in ("pld", "rdp"):
        raise ValueError(f"there are the accountants pld and rdp; got {accountant!r}.")
    return _total(tuple(_effective(segment) for segment in segments if segment.steps), delta, accountant)


def noise_multiplier_for(
    target: float, *, q: float, steps: int, delta: float, accountant: Accountant = "pld", tolerance: float = 1e-4
) -> float:
    """The smallest sigma, up to `tolerance` of it, that keeps `steps` steps within epsilon = `target`.

    By bisection, always from the side of too much noise: epsilon(sigma) <= target.

    Raises:
      ValueError: a target outside [.01, 1000]; one that no noise tried reaches, naming the smallest that can be reached
        and where; a tolerance that is not above 0; as `epsilon`.
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance is a share of sigma, above 0; got {tolerance}.")
    if not EPSILONS[0] <= target <= EPSILONS[1]:
        raise ValueError(
            f"epsilon is looked for in [{EPSILONS[0]:g}, {EPSILONS[1]:g}]; got {target}: above it nothing is "
            "guaranteed (train without noise), below it nothing is learned."
        )
    spent = functools.partial(epsilon, q=q, steps=steps, delta=delta, accountant=accountant)
    if (least := spent(sigma=SIGMAS[1])) > target:
        raise ValueError(
            f"epsilon {target} cannot be reached in {steps} steps with q = {q:.4g} and delta = {delta:g}: the smallest "
            f"is {least:.4g}; take fewer steps or a larger delta."
        )
    low, high = _bracket(spent, target)
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        if spent(sigma=middle) > target:
            low = middle
        else:
            high = middle
    return high


def _bracket(spent: Callable[..., float], target: float) -> tuple[float, float]:
    """Two noises, one of which is too small: from 1 by doubling and halving, since small ones take long to account."""
    high = 1.0
    while spent(sigma=high) > target:
        high = min(2 * high, SIGMAS[1])
    low = high / 2
    while low > SIGMAS[0] and spent(sigma=low) <= target:
        low, high = low / 2, low
    return low, high


def steps_within(
    budget: float, spent: Sequence[Segment], more: Segment, *, delta: float, accountant: Accountant = "pld"
) -> int:
    """How many of more.steps further steps keep the whole run within epsilon = `budget`: what stops a run.

    0 where the budget is spent already.

    Raises:
      ValueError: a budget that is not above 0; as `epsilon`.
    """
    if not budget > 0:
        raise ValueError(f"the largest epsilon is above 0; got {budget}.")
    low, high = 0, more.steps + 1  # low fits, high does not
    while high > low + 1:
        middle = (low + high) // 2 if high <= more.steps else more.steps
        if total((*spent, more._replace(steps=middle)), delta=delta, accountant=accountant) <= budget:
            low = middle
        else:
            high = middle
    return low


def _check(segment: Segment) -> None:
    if not 0 < segment.q <= 1:
        raise ValueError(f"q is the chance of a sample to enter a step, in (0, 1]; got {segment.q}.")
    if not 0 <= segment.sigma < math.inf:
        raise ValueError(f"sigma, the noise multiplier, is at least 0 and finite; got {segment.sigma}.")
    if segment.steps < 0 or segment.steps != int(segment.steps):
        raise ValueError(f"steps are a whole number of at least 0; got {segment.steps}.")
    if segment.sampling not in ("poisson", "fixed"):
        raise ValueError(f'sampling is "poisson" or "fixed"; got {segment.sampling!r}.')


def _effective(segment: Segment) -> tuple[float, float, int]:
    """(q, sigma, steps) of Poisson steps that lose as much: epochs of fixed batches are Gaussian mechanisms."""
    q, sigma, steps = float(segment.q), float(segment.sigma), int(segment.steps)
    return (q, sigma, steps) if segment.sampling == "poisson" else (1.0, sigma, math.ceil(steps * q - 1e-9))


@functools.lru_cache(maxsize=4096)  # the same for every seed of a run
def _total(steps: tuple[tuple[float, float, int], ...], delta: float, accountant: str) -> float:
    if not steps:
        return 0.0
    if any(sigma == 0 for _, sigma, _ in steps):
        return math.inf
    dp, pld, rdp = _libraries()
    events = [
        dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), count)
        for q, sigma, count in steps
    ]
    whole = dp.ComposedDpEvent(events)
    if accountant == "rdp":
        return float(rdp.RdpAccountant().compose(whole).get_epsilon(delta))
    rough = float(rdp.RdpAccountant(ORDERS).compose(whole).get_epsilon(delta))
    if not np.isfinite(rough):
        return rough
    interval = FINE if rough <= 1 else max(INTERVAL, rough / CELLS)
    return float(pld.PLDAccountant(value_discretization_interval=interval).compose(whole).get_epsilon(delta))


@functools.lru_cache
def _libraries() -> tuple[Any, Any, Any]:
    """dp-accounting, imported when it is first needed.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import dp_accounting
        from dp_accounting import pld, rdp
    except ImportError:
        raise ValueError(
            'epsilon is computed by dp-accounting, which is missing: pip install "subspace_jax[privacy]".'
        ) from None
    logging.getLogger("absl").addFilter(_says_something)
    return dp_accounting, pld, rdp


def _says_something(record: logging.LogRecord) -> bool:
    """A Renyi order that did not converge is left out, which only loosens the bound: dp-accounting warns each time."""
    return "failed to converge" not in str(record.msg)
