"""LiRA: is the target's confidence likelier under models with the sample, or without?

Carlini et al., Membership inference attacks from first principles, S&P 2022. The confidence is the label's log-odds,
which are nearly Gaussian over models. All variants average their log ratios over queries.
"""

from typing import Literal

import numpy as np
from scipy.special import log_ndtr

from subspace_jax.core import checks, likelihood
from subspace_jax.core.likelihood import Gaussian
from subspace_jax.privacy.attacks import fits
from subspace_jax.privacy.attacks.fits import Keep, Scores, Shadows, Spread, Targets

RELEASED_EPS = 1e-22  # added to variances and to the denominator


@checks.on_host
def lira_online(label_logit: Targets, shadows: Shadows, keep: Keep, *, spread: Spread = "std") -> Scores:
    """Log N(s; mu_in, sigma_in) - log N(s; mu_out, sigma_out), mean and deviation of each sample's own models.

    For 64 shadow models and more; with fewer take `lira_fixed_variance`. Deviations are at least 1e-3; with
    spread="var_as_std" variances stand for them, as in the scripts released with the curvature attack.

    Raises:
      ValueError: as `fits.check`, with two IN and two OUT models.
    """
    label_logit, shadows, keep = fits.check(label_logit, shadows, keep, inside=2, outside=2)
    inside, outside = (fits.spread_of(side, spread) for side in fits.gaussians(shadows, keep))
    return likelihood.log_ratio(label_logit, inside, outside).mean(axis=1)


@checks.on_host
def lira_offline(label_logit: Targets, shadows: Shadows, keep: Keep) -> Scores:
    """-log Pr[N(mu_out, sigma_out) > s]: surprise under models without the sample, one-sided.

    Its IN models are not looked at, so that shadows need not contain the candidates. The two-sided tail would also call
    samples members that the target finds harder than others do: on digits it is hardly better than chance.

    Raises:
      ValueError: as `fits.check`, with two OUT models.
    """
    label_logit, shadows, keep = fits.check(label_logit, shadows, keep, inside=0, outside=2)
    outside = likelihood.floored(likelihood.fit(shadows, ~keep, axis=0))
    return -log_ndtr((outside.mean - label_logit) / outside.std).mean(axis=1)


@checks.on_host
def lira_fixed_variance(
    label_logit: Targets, shadows: Shadows, keep: Keep, *, center: Literal["mean", "median"] = "mean"
) -> Scores:
    """The ratio of `lira_online` with one deviation for all samples, IN and OUT apart, per query.

    It is pooled over the residuals from each sample's own center: differences between samples do not count.

    Args:
      label_logit: of the targets.
      shadows: of the shadow models.
      keep: their training sets.
      center: of a sample's own models: the mean, or the median, which one odd model of a few does not move.

    Raises:
      ValueError: another center; as `fits.check`, with one IN and one OUT model.
    """
    if center not in ("mean", "median"):
        raise ValueError(f"center is 'mean' or 'median'; got {center!r}.")
    label_logit, shadows, keep = fits.check(label_logit, shadows, keep, inside=1, outside=1)
    sides = []
    for mask in (keep, ~keep):
        middle = shadows.mean(axis=0, where=mask) if center == "mean" else fits.quantile(shadows, mask, 0.5)
        variance = np.square(shadows - middle).mean(axis=(0, 2), where=mask)
        sides.append(likelihood.floored(Gaussian(middle, np.sqrt(variance)[:, None])))
    return likelihood.log_ratio(label_logit, *sides).mean(axis=1)


@checks.on_host
def lira_fixed_variance_reference(label_logit: Targets, shadows: Shadows, keep: Keep) -> Scores:
    """The same as the reference code has it: medians, and the deviation of all IN confidences for both sides.

    That deviation holds the differences between samples; being the same for both sides it changes no ranking.

    Raises:
      ValueError: as `fits.check`, with one IN and one OUT model.
    """
    label_logit, shadows, keep = fits.check(label_logit, shadows, keep, inside=1, outside=1)
    spread = shadows[np.broadcast_to(keep, shadows.shape)].std()
    sides = (likelihood.floored(Gaussian(fits.quantile(shadows, mask, 0.5), spread)) for mask in (keep, ~keep))
    return likelihood.log_ratio(label_logit, *sides).mean(axis=1)


@checks.on_host
def lira_as_released(top_logit: Targets, shadows: Shadows, keep: Keep) -> Scores:
    """The baseline that the curvature attack was compared with: weakened twice, kept to reproduce its figures.

    It looks at the most likely class instead of the label, and takes the VARIANCE for the standard deviation:
    sum_q N(s; mu_in, var_in) / (sum_q N(s; mu_out, var_out) + 1e-22).

    Raises:
      ValueError: as `fits.check`, with two IN and two OUT models.
    """
    top_logit, shadows, keep = fits.check(top_logit, shadows, keep, inside=2, outside=2)
    sides = (g._replace(std=np.square(g.std) + RELEASED_EPS) for g in fits.gaussians(shadows, keep))
    inside, outside = (np.exp(likelihood.log_density(top_logit, side)).sum(axis=1) for side in sides)
    return inside / (outside + RELEASED_EPS)
