"""Is one quantity a function of another? Means in bins, and curves fitted to them, with R^2.

A fitted curve is no bound, whatever formula it has: label it as a fit.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize

from subspace_jax.core import checks
from subspace_jax.typing import Float, Int

RATES = 1e-4, 1e3  # of the exponential that `fit_saturation` looks for, in 1 / epsilon
GRID = 400  # rates tried before the best is refined
FAR = 1e300  # an infinite epsilon; times any rate it is finite, and its exponential 0


class Bins(NamedTuple):
    """Samples grouped by x; bins without samples are left out, so that no entry is NaN.

    Attributes:
      x: mean of x in each bin.
      y: mean, or largest value, of y.
      y_std: standard deviation of y; 0 where there is one sample.
      count: samples.
    """

    x: Float[np.ndarray, " bins"]
    y: Float[np.ndarray, " bins"]
    y_std: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]


class Fit(NamedTuple):
    """Parameters of a curve, its values at the given points, and R^2 (1 where all given values are equal and met)."""

    parameters: Float[np.ndarray, " k"]
    predicted: Float[np.ndarray, " n"]
    r2: float


@checks.on_host
def bin_means(
    x: Float[Any, " n"], y: Float[Any, " n"], edges: Float[Any, " k"], *, stat: Literal["mean", "max"] = "mean"
) -> Bins:
    """Group samples by x and average x and y in each group: is one a function of the other?

    Args:
      x: what groups, such as memorization.
      y: of the same samples in the same order, such as curvature.
      edges: ascending; samples outside go to the first or the last bin, so that all are counted.
      stat: of y in a bin; the largest value grows with the number of samples.

    Raises:
      ValueError: no sample, other lengths, values that are not finite, edges that do not ascend.
    """
    (x, y), edges = _points(x, y, least=1), checks.as_real("edges", edges)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges ascend, at least 2; got {edges.tolist()}.")
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    groups = [place == k for k in np.unique(place)]
    of_y = np.max if stat == "max" else np.mean
    return Bins(
        np.array([x[g].mean() for g in groups]),
        np.array([of_y(y[g]) for g in groups]),
        np.array([y[g].std(ddof=1) if g.sum() > 1 else 0.0 for g in groups]),
        np.array([g.sum() for g in groups], int),
    )


@checks.on_host
def fit_line(x: Float[Any, " n"], y: Float[Any, " n"]) -> Fit:
    """Least squares y = slope x + intercept; parameters (slope, intercept).

    Raises:
      ValueError: fewer than 2 points, all x equal; other lengths, values that are not finite.
    """
    x, y = _points(x, y, least=2)
    checks.check_varied("x", x)
    return _linear(np.stack([x, np.ones_like(x)], axis=1), y, least=[-np.inf, -np.inf])


@checks.on_host
def fit_subpopulation(mem: Float[Any, " k"], curvature: Float[Any, " k"], count: Int[Any, " k"]) -> Fit:
    """Curvature of bins as a mem sqrt(count) + b count + c with a, b >= 0: the paper's fit for groups of other sizes.

    The loss of a bin of m samples is bounded by about 1 / sqrt(m), so that link 1 has another slope in each.

    Raises:
      ValueError: fewer than 3 bins, bins of one sample; other lengths, values that are not finite.
    """
    checks.check_lengths(mem=mem, count=count)
    mem, curvature = _points(mem, curvature, least=3)
    count = checks.as_real("count", count)
    if (count < 2).any():
        raise ValueError(f"{(count < 2).sum()} bins hold a single sample, no mean: leave them out, or take wider bins.")
    columns = np.stack([mem * np.sqrt(count), count, np.ones_like(mem)], axis=1)
    return _linear(columns, curvature, least=[0.0, 0.0, -np.inf])


@checks.on_host
def fit_saturation(epsilon: Float[Any, " n"], y: Float[Any, " n"]) -> Fit:
    """Least squares y = a + b e^(-c epsilon), c > 0, as for the loss against epsilon; parameters (a, b, c).

    For each c the best a and b are a linear problem: c is looked for on a grid and refined. Report R^2 and predictions:
    with few points different parameters fit as well.

    Args:
      epsilon: at least 3 different ones, infinite allowed.
      y: values there.

    Raises:
      ValueError: fewer than 3 different epsilons, one below 0; other lengths, values that are not finite.
    """
    finite = np.where(checks.as_real("epsilon", epsilon) == np.inf, FAR, epsilon)
    epsilon, y = _points(finite, y, least=3)
    if epsilon.min() < 0 or len(np.unique(epsilon)) < 3:
        raise ValueError(f"epsilons are at least 0, and 3 or more different ones; got {sorted(set(epsilon.tolist()))}.")

    def at(logarithm: float) -> Fit:
        columns = np.stack([np.ones_like(epsilon), np.exp(-np.exp(logarithm) * epsilon)], axis=1)
        return _linear(columns, y, least=[-np.inf, -np.inf])

    grid = np.linspace(np.log(RATES[0]), np.log(RATES[1]), GRID)
    best = int(np.argmax([at(value).r2 for value in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    rate = optimize.minimize_scalar(
        lambda value: -at(value).r2, bounds=around, method="bounded", options={"xatol": 1e-10}
    ).x
    found = at(rate)
    return found._replace(parameters=np.append(found.parameters, np.exp(rate)))


def _points(x: Any, y: Any, *, least: int) -> tuple[np.ndarray, np.ndarray]:
    checks.check_lengths(x=x, y=y)
    x, y = checks.as_real("x", x), checks.as_real("y", y)
    checks.check_finite("x", x)
    checks.check_finite("y", y)
    if len(x) < least:
        raise ValueError(f"at least {least} points are needed, as many as a curve has parameters; got {len(x)}.")
    return x, y


def _linear(columns: np.ndarray, y: np.ndarray, *, least: list[float]) -> Fit:
    """Least squares with a lower limit for each coefficient."""
    if np.isinf(least).all():
        parameters = np.linalg.lstsq(columns, y, rcond=None)[0]
    else:
        parameters = optimize.lsq_linear(columns, y, (least, np.inf), method="bvls", tol=1e-14).x
    predicted = columns @ parameters
    left, whole = np.square(y - predicted).sum(), np.square(y - y.mean()).sum()
    return Fit(parameters, predicted, float(1 - left / whole) if whole > 0 else 1.0)
