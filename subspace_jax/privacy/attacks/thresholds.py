"""Attacks that compare the loss with a threshold: one for all samples, or one a sample from the shadow models.

With several queries the scores are means over them; the released scripts of the curvature attack ask the first query
alone, which is the mirrored image.
"""

from typing import Any

import numpy as np

from subspace_jax.core import checks
from subspace_jax.privacy.attacks import fits
from subspace_jax.privacy.attacks.fits import Keep, Scores, Shadows, Targets


@checks.on_host
def yeom(loss: Targets) -> Scores:
    """-L: members have lower losses (Yeom et al., CSF 2018). No shadow models.

    Raises:
      ValueError: losses that are not (targets, queries, n) or not finite.
    """
    return -fits.check_target(loss).mean(axis=1)


@checks.on_host
def mentr(entropy: Targets) -> Scores:
    """-Mentr, the modified entropy, with one threshold for all classes (Song and Mittal, USENIX Security 2021).

    Raises:
      ValueError: as `yeom`.
    """
    return -fits.check_target(entropy).mean(axis=1)


@checks.on_host
def sablayrolles(loss: Targets, shadows: Shadows, keep: Keep) -> Scores:
    """-(L - (mean_in L + mean_out L) / 2): a threshold half-way between (Sablayrolles et al., ICML 2019).

    Raises:
      ValueError: as `fits.check`, with one IN and one OUT model.
    """
    loss, shadows, keep = fits.check(loss, shadows, keep, inside=1, outside=1)
    middle = (shadows.mean(axis=0, where=keep) + shadows.mean(axis=0, where=~keep)) / 2
    return (middle - loss).mean(axis=1)


@checks.on_host
def watson(loss: Targets, shadows: Shadows, keep: Keep) -> Scores:
    """-(L - mean_out L): how much easier than for models that never saw the sample (Watson et al., ICLR 2022).

    Raises:
      ValueError: as `fits.check`, with one OUT model.
    """
    loss, shadows, keep = fits.check(loss, shadows, keep, inside=0, outside=1)
    return (shadows.mean(axis=0, where=~keep) - loss).mean(axis=1)


@checks.on_host
def ye(loss: Targets, shadows: Shadows, keep: Keep, *, alpha: float = 1e-4) -> Scores:
    """-(L - the alpha-quantile of the OUT models' losses): attack R (Ye et al., CCS 2022).

    With fewer than 1 / alpha models nearly the smallest OUT loss.

    Args:
      loss: of the targets.
      shadows: of the shadow models.
      keep: their training sets.
      alpha: false positive rate aimed at, in [0, 1]; the quantile is interpolated linearly.

    Raises:
      ValueError: alpha outside [0, 1]; as `fits.check`, with one OUT model.
    """
    _check_share("alpha", alpha)
    loss, shadows, keep = fits.check(loss, shadows, keep, inside=0, outside=1)
    return (fits.quantile(shadows, ~keep, alpha) - loss).mean(axis=1)


def _check_share(name: str, value: Any) -> None:
    if not 0 <= np.asarray(value) <= 1:
        raise ValueError(f"{name} lies in [0, 1]; got {value}.")
