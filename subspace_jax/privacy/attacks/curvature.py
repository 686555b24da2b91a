"""Members sit in flatter places: attacks on the size of the loss's curvature in the input (Ravikumar et al., 2024).

Curvature Clues, NeurIPS 2024, arXiv 2407.02747. They look at s = log c; where c is 0, too flat to be measured, it is
censored: it counts as the smallest curvature that the shadow models show above 0. The released scripts take
log(c + 1e-22) = -50.7 instead, which dominates every mean and variance that it enters.
"""

import numpy as np
from scipy.special import logsumexp

from subspace_jax.core import checks, likelihood
from subspace_jax.privacy.attacks import fits
from subspace_jax.privacy.attacks.fits import Keep, Scores, Shadows, Spread, Targets

RELEASED_EPS = 1e-22  # added to curvatures
RELEASED_VARIANCE_EPS = 1e-32


@checks.on_host
def curvature_nll(curvature: Targets, shadows: Shadows, keep: Keep, *, spread: Spread = "std") -> Scores:
    """sum_q [(s - mu_out)^2 - (s - mu_in)^2] / (2 tau^2), tau the IN deviation in both terms, at least 1e-3.

    With spread="var_as_std" tau is the IN variance, as in the released scripts.

    Raises:
      ValueError: as `fits.check`, with two IN models and one OUT; negative curvatures, none above 0.
    """
    curvature, shadows, keep = fits.check(curvature, shadows, keep, inside=2, outside=1)
    s, shadows = _logarithms(curvature, shadows)
    inside, outside = (fits.spread_of(side, spread) for side in fits.gaussians(shadows, keep))
    return likelihood.log_ratio(s, inside, outside._replace(std=inside.std)).sum(axis=1)


@checks.on_host
def curvature_lr(curvature: Targets, shadows: Shadows, keep: Keep, *, spread: Spread = "std") -> Scores:
    """Log sum_q N(s; mu_in, tau_in) - log sum_q N(s; mu_out, tau_out): likelihoods are summed, then divided.

    Raises:
      ValueError: as `curvature_nll`, with two OUT models.
    """
    curvature, shadows, keep = fits.check(curvature, shadows, keep, inside=2, outside=2)
    s, shadows = _logarithms(curvature, shadows)
    sides = (likelihood.log_density(s, fits.spread_of(side, spread)) for side in fits.gaussians(shadows, keep))
    inside, outside = (logsumexp(density, axis=1) for density in sides)
    return inside - outside


@checks.on_host
def curvature_nll_as_released(curvature: Targets, shadows: Shadows, keep: Keep) -> Scores:
    """`curvature_nll` with the IN VARIANCE for tau and log(c + 1e-22), kept to reproduce the published figures.

    Raises:
      ValueError: as `fits.check`, with two IN models and one OUT; negative curvatures.
    """
    curvature, shadows, keep = fits.check(curvature, shadows, keep, inside=2, outside=1)
    _refuse_negative(curvature, shadows)
    s, shadows = np.log(curvature + RELEASED_EPS), np.log(shadows + RELEASED_EPS)
    inside, outside = fits.gaussians(shadows, keep)
    tau = np.square(inside.std) + RELEASED_VARIANCE_EPS
    return likelihood.log_ratio(s, inside._replace(std=tau), outside._replace(std=tau)).sum(axis=1)


def _logarithms(target: np.ndarray, shadows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log c of both, zeros at the smallest positive curvature of the shadow models, per query."""
    _refuse_negative(target, shadows)
    seen = np.where(shadows > 0, shadows, np.inf).min(axis=(0, 2))
    if not np.isfinite(seen).all():
        raise ValueError("all curvatures of the shadow models are 0 for some query: measure them with a larger step.")
    limit = seen[:, None]
    return np.log(np.maximum(target, limit)), np.log(np.maximum(shadows, limit))


def _refuse_negative(target: np.ndarray, shadows: np.ndarray) -> None:
    negative = (target < 0).sum() + (shadows < 0).sum()
    if negative:
        raise ValueError(f"curvature is a size, at least 0; {negative} values are negative and have no logarithm.")
