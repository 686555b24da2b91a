"""From scores to decisions: thresholds that keep a given share of known inputs, one for all or one a class.

They are fitted on known samples alone, best ones that the network was not trained on: never on unknown ones.
"""

from typing import Any, NamedTuple

import numpy as np

from subspace_jax.core import checks, shares
from subspace_jax.typing import Bool, Float, Int


class Threshold(NamedTuple):
    """Scores of at least `value` are known: one for all, (1,), or one for each predicted class, (classes,)."""

    value: Float[np.ndarray, " classes"]


@checks.on_host
def fit(
    scores: Float[Any, " n"], *, tpr: float = 0.95, predicted: Int[Any, " n"] | None = None, classes: int | None = None
) -> Threshold:
    """The highest threshold that keeps at least the share `tpr` of known samples, exactly: a score of one of them.

    Args:
      scores: of known samples, higher = known.
      tpr: share that is kept.
      predicted: their predicted classes, for one threshold a class; a class that nothing was predicted as gets that of
        all samples.
      classes: how many there are, with `predicted`.

    Raises:
      ValueError: no scores, scores that are not finite, a share outside (0, 1], predictions that are no classes.
    """
    scores = checks.as_real("scores", scores)
    checks.check_lengths(scores=scores)
    checks.check_finite("scores", scores)
    if not len(scores) or not 0 < tpr <= 1:
        raise ValueError(f"a threshold takes known scores and a share to keep, in (0, 1]; got {len(scores)} and {tpr}.")
    if (predicted is None) != (classes is None):
        raise ValueError("one threshold a class takes both predicted= and classes=.")
    if predicted is None or classes is None:
        return Threshold(np.array([_keeping(scores, tpr)]))
    checks.check_lengths(scores=scores, predicted=predicted)
    checks.check_labels(predicted, classes, name="predicted")
    mine = [scores[np.asarray(predicted) == k] for k in range(classes)]
    return Threshold(np.array([_keeping(part if len(part) else scores, tpr) for part in mine]))


@checks.on_host
def known(threshold: Threshold, scores: Float[Any, " n"], predicted: Int[Any, " n"] | None = None) -> Bool[Any, " n"]:
    """Which samples are taken for known; one whose score is NaN is not.

    Raises:
      ValueError: thresholds of classes and no predictions, or the reverse.
    """
    several = len(threshold.value) > 1
    if several != (predicted is not None):
        raise ValueError(f"{len(threshold.value)} threshold(s): predictions are needed for one a class, and only then.")
    if predicted is None:
        return np.asarray(scores) >= threshold.value[0]
    checks.check_lengths(scores=scores, predicted=predicted)
    checks.check_labels(predicted, len(threshold.value), name="predicted")
    return np.asarray(scores) >= threshold.value[np.asarray(predicted)]


def _keeping(scores: np.ndarray, tpr: float) -> float:
    return float(np.sort(scores)[shares.kept(len(scores), tpr)])
