"""How well scores tell members from others: the whole ROC curve and its figures, exact, on the host.

NumPy in float64 with counts as integers: ties are exact, and rates of 1 in 10,000 keep all their digits. For rankings
inside `jit` take `core.metrics`.
"""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from subspace_jax.core import checks, shares
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Bool, Float, Int, Key, Num

FPRS = (1e-2, 1e-3, 1e-4)  # at which membership attacks are compared


class Curve(NamedTuple):
    """Counts of samples that score at least `threshold`, from none (threshold inf) to all; equal scores count together.

    `fpr` and `tpr` are the rates, ready for a plot with logarithmic axes.
    """

    threshold: Float[np.ndarray, " k"]
    false_positives: Int[np.ndarray, " k"]
    true_positives: Int[np.ndarray, " k"]

    @property
    def fpr(self) -> Float[np.ndarray, " k"]:
        """False positive rates."""
        return self.false_positives / self.negatives

    @property
    def tpr(self) -> Float[np.ndarray, " k"]:
        """True positive rates."""
        return self.true_positives / self.positives

    @property
    def negatives(self) -> int:
        """How many samples are no members: a false positive rate below 1 / negatives cannot be measured."""
        return int(self.false_positives[-1])

    @property
    def positives(self) -> int:
        """How many samples are members."""
        return int(self.true_positives[-1])


class Summary(NamedTuple):
    """The figures of an attack.

    Attributes:
      auroc: chance that a positive outscores a negative, a tie counting half.
      balanced_accuracy: max over thresholds of (TPR + 1 - FPR) / 2.
      tpr: at each of the false positive rates asked for.
      negatives: their number; rates below 1 / negatives are extrapolated.
    """

    auroc: float
    balanced_accuracy: float
    tpr: Float[np.ndarray, " fprs"]
    negatives: int


@checks.on_host
def curve(scores: Num[Any, " n"], positive: Bool[Any, " n"]) -> Curve:
    """Every point of the ROC curve: one threshold per distinct score, the highest first.

    Raises:
      ValueError: scores and marks of other lengths, scores that are not finite, marks that are not boolean, samples
        that are all positive or all negative.
    """
    scores, positive = _checked(scores, positive)
    order, ends = _thresholds(scores)
    return _curve(scores[order][ends], positive[order].astype(int), (~positive[order]).astype(int), ends)


@checks.on_host
def auroc(of: Curve) -> float:
    """Area under the curve, from integers: exact up to one division."""
    steps, heights = np.diff(of.false_positives), of.true_positives[1:] + of.true_positives[:-1]
    return int(steps @ heights) / (2 * of.positives * of.negatives)


@checks.on_host
def balanced_accuracy(of: Curve) -> float:
    """Max over thresholds of (TPR + 1 - FPR) / 2: at least .5, which calling nobody a member reaches."""
    return float(np.max(of.tpr - of.fpr) + 1) / 2


@checks.on_host
def youden_threshold(of: Curve) -> float:
    """Score t at which TPR - FPR is largest, samples with scores of at least t being called positive.

    Youden's J = TPR - FPR is 1 where the scores are separated; of several such thresholds the highest. Where no score
    tells the two apart (J = 0) it is inf: nothing is called positive. Depends on the order of the scores alone.

    Source: Youden, Index for rating diagnostic tests, Cancer 1950.
    """
    return float(of.threshold[np.argmax(of.tpr - of.fpr)])


@checks.on_host
def tpr_at(of: Curve, fprs: Any = FPRS) -> Float[np.ndarray, " fprs"]:
    """True positive rate at false positive rates in [0, 1], interpolated linearly; of several the highest.

    Warns where a rate is below 1 / negatives: no threshold has it, and the value says nothing.

    Raises:
      ValueError: a rate outside [0, 1].
    """
    fprs = np.atleast_1d(checks.as_real("false positive rates", fprs))
    if not ((fprs >= 0) & (fprs <= 1)).all():
        raise ValueError(f"false positive rates lie in [0, 1]; got {fprs.tolist()}.")
    if len(low := fprs[fprs * of.negatives < 1]):
        warnings.warn(
            f"{of.negatives} non-members cannot show a false positive rate of {low.max():g}: the smallest is "
            f"{1 / of.negatives:.2g}; the rate of true positives there is interpolated and means little.",
            stacklevel=2,
        )
    return np.interp(fprs, of.fpr, of.tpr)


@checks.on_host
def fpr_at(of: Curve, tpr: shares.Share = 0.95) -> float:
    """The false positive rate where at least the share `tpr` of the positives is found, and no more than needed.

    At the highest such threshold, not interpolated; "FPR95" is two figures, by which side is positive.

    Raises:
      ValueError: a share outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is the share of positives to find, in (0, 1]; got {tpr}.")
    least = of.positives - shares.kept(of.positives, tpr)
    return float(of.fpr[np.searchsorted(of.true_positives, least)])


@checks.on_host
def average_precision(of: Curve) -> float:
    """Area under precision over recall by the step rule: sum over thresholds of (recall gained) x precision.

    Tied scores are one step; equal scores give the share of positives. The trapezoid rule of some libraries is
    optimistic.
    """
    true, called = of.true_positives[1:], of.true_positives[1:] + of.false_positives[1:]
    return float((np.diff(of.true_positives) * (true / called)).sum() / of.positives)


@checks.on_host
def summary(scores: Num[Any, " n"], positive: Bool[Any, " n"], *, fprs: Any = FPRS) -> Summary:
    """AUROC, balanced accuracy and true positive rates of one attack on one model.

    Args:
      scores: larger = more likely a member.
      positive: the members.
      fprs: false positive rates, see `tpr_at`, which may warn.

    Raises:
      ValueError: as `curve` and `tpr_at`.
    """
    of = curve(scores, positive)
    return Summary(auroc(of), balanced_accuracy(of), tpr_at(of, fprs), of.negatives)


@checks.on_host
def bootstrap(
    key: Key[Array, ""],
    scores: Num[Any, " n"],
    positive: Bool[Any, " n"],
    *,
    fprs: Any = FPRS,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[Summary, Summary]:
    """Lower and upper ends of percentile intervals: members and others drawn anew, each with replacement.

    They speak of the samples of this one model; another model, or other shadow models, vary more than that.

    Args:
      key: decides the draws.
      scores: larger = more likely a member.
      positive: the members.
      fprs: false positive rates, see `tpr_at`.
      resamples: how often all samples are drawn.
      level: of confidence, in (0, 1).

    Raises:
      ValueError: as `curve` and `tpr_at`; fewer than 2 resamples, a level outside (0, 1).
    """
    key = as_key(key)
    scores, positive = _checked(scores, positive)
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(f"an interval takes 2 resamples and a level in (0, 1); got {resamples} and {level}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    order, last = _thresholds(scores)
    threshold, positive = scores[order][last], positive[order]
    sides = [np.flatnonzero(side) for side in (positive, ~positive)]
    figures = []
    for _ in range(resamples):
        members, others = (np.bincount(rng.choice(side, len(side)), minlength=len(scores)) for side in sides)
        of = _curve(threshold, members, others, last)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said by `summary`
            figures.append([auroc(of), balanced_accuracy(of), *tpr_at(of, fprs)])
    ends = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = (Summary(float(end[0]), float(end[1]), end[2:], len(sides[1])) for end in ends)
    return low, high


@checks.on_host
def exposure(scores: Num[Any, " n"], positive: Bool[Any, " n"]) -> Float[np.ndarray, " n"]:
    """The false positive rate at which each sample is called a member: the share of negatives that score as high.

    0 where no negative does: such a member is exposed without one false accusation. A negative counts itself.

    Raises:
      ValueError: as `curve`.
    """
    scores, positive = _checked(scores, positive)
    others = np.sort(scores[~positive])
    return 1 - np.searchsorted(others, scores, side="left") / len(others)


def _checked(scores: Any, positive: Any) -> tuple[np.ndarray, np.ndarray]:
    checks.check_lengths(scores=scores, positive=positive)
    checks.check_finite("scores", np.asarray(scores), remedy="a model diverged, or was certain beyond its precision")
    scores, positive = checks.as_real("scores", scores), np.asarray(positive)
    if positive.dtype != bool or positive.ndim != 1 or scores.ndim != 1:
        raise ValueError(
            f"scores (n,) and booleans (n,) that mark the positives; got {scores.shape} and {positive.dtype} "
            f"{positive.shape}: one target model at a time, and compare, as in member == 1."
        )
    if positive.all() or not positive.any():
        raise ValueError(
            f"all {len(positive)} samples are {'members' if positive.any() else 'non-members'}: there is nothing to "
            "tell apart; add samples of the other kind."
        )
    return scores, positive


def _thresholds(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions by falling score, and where among them the last of each distinct score is."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return order, np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)


def _curve(threshold: np.ndarray, positives: np.ndarray, negatives: np.ndarray, ends: np.ndarray) -> Curve:
    """The curve of samples by falling score, each counted as often as given."""
    false, true = (np.append(0, np.cumsum(counts)[ends]) for counts in (negatives, positives))
    return Curve(np.append(np.inf, threshold), false, true)
