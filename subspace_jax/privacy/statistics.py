"""What an attack looks at: a few numbers per model, query and sample, computed once from saved logits.

A query is a view of the sample that the model is asked about: the image, its mirror image. Everything is float64 on the
host, from logits of any precision; a file of logits may be larger than memory (`np.load(path, mmap_mode="r")`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, log_softmax

from subspace_jax.core import checks, likelihood
from subspace_jax.typing import Float, Int

BLOCK = 2**21  # class scores in work at a time, 16 MB
PROBABILITY_FLOOR = 1e-22  # what the released scripts add before the logarithm
SUM_OF_ONE = 1e-2  # probabilities in bfloat16 miss it by as much

PerModel = Float[np.ndarray, "models queries n"]


class Statistics(NamedTuple):
    """Per model, query and sample; select models by `jax.tree.map(lambda a: a[rows], statistics)`.

    Attributes:
      loss: -log p_y, in nats; tiny losses keep their digits.
      label_logit: log(p_y / (1 - p_y)).
      top_logit: the same of the most likely class, whichever it is.
      entropy: modified entropy -(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k) (Song and Mittal, 2021).
      curvature: size of the loss's curvature in the input, at least 0; None where it was not measured.
    """

    loss: PerModel
    label_logit: PerModel
    top_logit: PerModel
    entropy: PerModel
    curvature: PerModel | None = None


@checks.on_host
def from_logits(
    logits: Float[Any, "models queries n classes"],
    y: Int[Any, " n"],
    *,
    curvature: Float[Any, "models queries n"] | None = None,
) -> Statistics:
    """The statistics of saved logits, a block at a time.

    Args:
      logits: class scores or log-probabilities, any float format; logits[:, None] where there is one query.
      y: the labels of the candidates, as the attacker knows them.
      curvature: of the same models, queries and samples.

    Raises:
      ValueError: another shape; values that are not finite, or probabilities; labels that are no classes; curvatures of
        another shape, not finite or negative.
    """
    logits = np.asarray(logits)
    _check_shape("logits", logits)
    rows = checks.as_real("logits", logits[0])
    if (rows >= 0).all() and (abs(rows.sum(axis=-1) - 1) < SUM_OF_ONE).all():
        raise ValueError("every row of logits is a distribution: these are probabilities, take from_probabilities.")
    return _statistics("logits", logits, y, curvature, lambda rows: rows)


@checks.on_host
def from_probabilities(
    probabilities: Float[Any, "models queries n classes"],
    y: Int[Any, " n"],
    *,
    curvature: Float[Any, "models queries n"] | None = None,
) -> Statistics:
    """The statistics of a model that shows its probabilities only; what was rounded to 0 counts as 1e-22.

    Float32 probabilities of certain models lose the digits of 1 - p: prefer logits where there are some.

    Args:
      probabilities: rows in [0, 1] with sum 1.
      y: as for `from_logits`.
      curvature: as for `from_logits`.

    Raises:
      ValueError: rows that are no distributions; as `from_logits`.
    """
    probabilities = np.asarray(probabilities)
    _check_shape("probabilities", probabilities)
    for model, queries in enumerate(probabilities):
        for query, rows in enumerate(queries):
            checks.check_probabilities(f"probabilities of model {model}, query {query}", rows)

    def logarithm(rows: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(rows, PROBABILITY_FLOOR))

    return _statistics("probabilities", probabilities, y, curvature, logarithm)


def _check_shape(name: str, values: np.ndarray) -> None:
    if values.ndim != 4 or not values.size:
        raise ValueError(
            f"{name} are (models, queries, n, classes); got shape {values.shape}: for one query give {name}[:, None]."
        )


def _statistics(name: str, outputs: np.ndarray, y: Any, curvature: Any, as_logits: Callable) -> Statistics:
    models, queries, samples, classes = outputs.shape
    checks.check_labels(y, classes)
    y = np.asarray(y)
    if len(y) != samples:
        raise ValueError(f"{name} of {samples} samples and {len(y)} labels: select the same samples in both.")
    if curvature is not None:
        curvature = _curvature(curvature, outputs.shape[:3])
    out = Statistics(*(np.empty(outputs.shape[:3]) for _ in range(4)), curvature=curvature)
    block = max(1, BLOCK // (queries * classes))
    for model in range(models):
        checks.check_finite(f"{name} of model {model}", outputs[model], remedy="leave out a model that diverged")
        for start in range(0, samples, block):
            part = slice(start, start + block)
            rows = as_logits(checks.as_real(name, outputs[model, :, part]))
            for field, values in zip(out[:4], _of_rows(rows, y[part]), strict=True):
                field[model, :, part] = values
    return out


def _curvature(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = checks.as_real("curvature", values)
    if values.shape != shape:
        raise ValueError(f"curvature must be (models, queries, n) as the logits, {shape}; got {values.shape}.")
    checks.check_finite("curvature", values, remedy="leave out a model that diverged")
    if (values < 0).any():
        raise ValueError(
            f"curvature is a size, at least 0; {(values < 0).sum()} of {values.size} are negative: a trace has a sign "
            "and no logarithm, compare it by itself with core.roc."
        )
    return values


def _of_rows(logits: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Loss, label logit, top logit and modified entropy of rows (queries, n, classes).

    log p_y and log(1 - p) are softplus of log-odds, which keep the digits that 1 - p would lose near 1.
    """
    top = logits.argmax(axis=-1)
    label_logit, top_logit = likelihood.label_logit(logits, y), likelihood.label_logit(logits, top)
    loss = np.logaddexp(0, -label_logit)
    p = np.exp(log_softmax(logits, axis=-1))
    at_most_half = np.where(np.arange(logits.shape[-1]) == top[..., None], 0, p)  # 0 adds nothing to the sum
    np.put_along_axis(at_most_half, np.broadcast_to(y, top.shape)[..., None], 0, axis=-1)
    others = -(at_most_half * np.log1p(-at_most_half)).sum(axis=-1)
    wrong = np.where(top == y, 0, expit(top_logit) * np.logaddexp(0, top_logit))
    return loss, label_logit, top_logit, expit(-label_logit) * loss + others + wrong
