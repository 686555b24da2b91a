"""How well a score tells known from unknown inputs, with the conventions said aloud.

AUROC is the same whichever side is called positive. FPR95 is not: with known inputs positive it is the share of unknown
ones that pass where 95 % of the known pass (most papers); with unknown inputs positive it is the share of known ones
that are flagged where 95 % of the unknown are (some libraries).
"""

import hashlib
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np

from subspace_jax.core import checks, roc
from subspace_jax.typing import Float, Int


class Separation(NamedTuple):
    """Figures of one score on known and unknown inputs.

    Attributes:
      auroc: chance that a known input outscores an unknown one, a tie counting half.
      fpr95: share of the negatives taken for positives where 95 % of the positives are found.
      aupr_in: average precision with known inputs positive.
      aupr_out: with unknown inputs positive.
    """

    auroc: float
    fpr95: float
    aupr_in: float
    aupr_out: float


@checks.on_host
def separation(inside: Float[Any, " n"], outside: Float[Any, " m"], *, positive: Literal["id", "ood"]) -> Separation:
    """The figures of scores that are higher for known inputs, exact, with ties right.

    Both areas under precision and recall depend on the share of each kind; the other two do not.

    Args:
      inside: scores of known inputs.
      outside: scores of unknown inputs.
      positive: which of them FPR95 calls positive: "id" or "ood".

    Raises:
      ValueError: only one kind present, scores that are not finite, another `positive`.
    """
    if positive not in ("id", "ood"):
        raise ValueError(f'positive is "id" or "ood": FPR95 has two meanings; got {positive!r}.')
    inside, outside = (checks.as_real("scores", side).reshape(-1) for side in (inside, outside))
    if not len(inside) or not len(outside):
        absent = "known" if not len(inside) else "unknown"
        raise ValueError(f"there are no scores of {absent} inputs: separation takes both kinds.")
    values, known = np.concatenate([inside, outside]), np.arange(len(inside) + len(outside)) < len(inside)
    forth, back = roc.curve(values, known), roc.curve(-values, ~known)
    fpr = roc.fpr_at(forth if positive == "id" else back)
    return Separation(roc.auroc(forth), fpr, roc.average_precision(forth), roc.average_precision(back))


@checks.on_host
def class_quantiles(
    scores: Float[Any, " n"], labels: Int[Any, " n"], *, classes: int, q: float = 0.05
) -> Float[np.ndarray, " classes"]:
    """The q-quantile of the known scores of each class: where they differ, one threshold is not one level of doubt.

    Raises:
      ValueError: a class without samples, scores and labels of other lengths, q outside [0, 1].
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q is a share of the scores of a class, in [0, 1]; got {q}.")
    checks.check_labels(labels, classes)
    checks.check_lengths(scores=scores, labels=labels)
    mine = [checks.as_real("scores", scores)[np.asarray(labels) == k] for k in range(classes)]
    if absent := [k for k, part in enumerate(mine) if not len(part)]:
        raise ValueError(f"class {absent[0]} has no sample, and so no quantile ({len(absent)} classes).")
    return np.array([np.quantile(part, q) for part in mine])


def warn_if_shared(name: str, inside: Any, outside: Any) -> int:
    """Warn where inputs of a set called unknown are among the known ones, bit for bit; their number.

    Args:
      name: of the unknown set.
      inside: known inputs, (n, ...).
      outside: unknown ones, (m, ...), of the same shape and dtype.
    """
    seen = set(_digests(inside))
    shared = sum(digest in seen for digest in _digests(outside))
    if shared:
        warnings.warn(
            f"{shared} of {len(outside)} inputs of {name} are also known ones: its figures mean less.", stacklevel=2
        )
    return shared


def _digests(rows: Any) -> list[bytes]:
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.asarray(rows)]
