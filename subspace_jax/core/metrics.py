"""Ranking metrics and correlations of scores, in pure JAX: they run inside `jit` and `vmap`, on any device.

Everything is a mean of counts in [0, 1] or of centred values, never a sum of ranks, so that float32 stays within 1e-5
at n = 50,000. A NaN score makes the result NaN: nothing is dropped silently. Unequal lengths and
a `positive` that is not boolean raise ValueError.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Bool, Float, Int, Num

Vector = Num[Array | np.ndarray, " n"]
Mask = Bool[Array | np.ndarray, " n"]


def accuracy(logits: Float[Array | np.ndarray, "n classes"], y: Int[Array | np.ndarray, " n"]) -> Float[Array, ""]:
    """Share of samples whose largest logit is the label's; a row with a NaN counts as wrong."""
    checks.check_labels(y)
    checks.check_lengths(logits=logits, labels=y)
    logits = jnp.asarray(logits)
    return jnp.mean((logits.argmax(axis=1) == y) & ~jnp.isnan(logits).any(axis=1))


def msp(logits: Float[Array | np.ndarray, "*rows classes"], *, temperature: float = 1.0) -> Float[Array, "*rows"]:
    """Maximum softmax probability max_k softmax(logits / temperature)_k, in [1 / classes, 1], in float32 or wider.

    It does not change where a constant is added to a row.

    Raises:
      ValueError: a temperature that is not positive and finite.

    Source: Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples, ICLR 2017.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature divides the logits, in (0, inf); got {temperature}.")
    logits = jnp.asarray(logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    return jnp.exp(logits.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1))


def auroc(scores: Vector, positive: Mask) -> Float[Array, ""]:
    """Probability that a positive outscores a negative, a tie counting half: the area under `roc`.

    NaN where a class is empty or a score is NaN.
    """
    _check(scores, positive)
    scores, negative = jnp.asarray(scores), ~jnp.asarray(positive)
    below = _below(scores, negative, scores, side="left")
    up_to = _below(scores, negative, scores, side="right")
    beaten = jnp.where(negative, 0, (below + up_to) / 2)
    return _defined(beaten.sum() / (~negative).sum(), scores)


def roc(scores: Vector, positive: Mask) -> tuple[Float[Array, "n+1"], Float[Array, "n+1"]]:
    """False and true positive rates when the k highest scores are called positive, k = 0 ... n.

    Tied scores are called together, so that their points repeat. NaN where a class is empty or a score is NaN.
    """
    _check(scores, positive)
    scores, positive = jnp.asarray(scores), jnp.asarray(positive)
    thresholds = jnp.sort(scores, descending=True)
    rates = [jnp.append(0, 1 - _below(scores, mask, thresholds, side="left")) for mask in (~positive, positive)]
    return _defined(rates[0], scores), _defined(rates[1], scores)


def precision_at(scores: Vector, positive: Mask, k: int) -> Float[Array, ""]:
    """Share of positives among the k highest scores; ties at the k-th score count with their expected share.

    NaN where a score is NaN.

    Raises:
      ValueError: k outside [1, n].
    """
    _check(scores, positive)
    scores, positive = jnp.asarray(scores), jnp.asarray(positive)
    if not 1 <= k <= len(scores):
        raise ValueError(f"k must lie in [1, {len(scores)}], the number of scores; got {k}.")
    edge = jnp.sort(scores)[-k]
    above, tied = scores > edge, scores == edge
    hits = (above & positive).sum() + (k - above.sum()) * jnp.mean(positive, where=tied)
    return _defined(hits / k, scores)


def cosine(a: Vector, b: Vector) -> Float[Array, ""]:
    """Cosine a'b / (|a| |b|) of raw scores, not centred; NaN where one of them is zero."""
    checks.check_lengths(a=a, b=b)
    a, b = (v / jnp.abs(v).max() for v in (jnp.asarray(a), jnp.asarray(b)))  # squares of 1e-20 would vanish
    return (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum())


def pearson(a: Vector, b: Vector) -> Float[Array, ""]:
    """Linear correlation; NaN where one of them is constant."""
    checks.check_lengths(a=a, b=b)
    return cosine(_centred(jnp.asarray(a)), _centred(jnp.asarray(b)))


def spearman(a: Vector, b: Vector) -> Float[Array, ""]:
    """Correlation of ranks, tied values sharing their mean rank; NaN where one is constant or has a NaN."""
    checks.check_lengths(a=a, b=b)
    return pearson(_midranks(jnp.asarray(a)), _midranks(jnp.asarray(b)))


def _check(scores: Any, positive: Any) -> None:
    checks.check_lengths(scores=scores, positive=positive)
    dtype = jnp.asarray(positive).dtype
    if not jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(f"positive marks the positives, booleans (n,); got {dtype}: compare, as in y == 1.")


def _below(scores: Array, mask: Array, at: Array, *, side: str) -> Array:
    """Share of the masked scores that lie below each value of `at`, or up to it for side="right"."""
    ordered = jnp.sort(jnp.where(mask, scores, jnp.inf))
    count = mask.sum()
    return jnp.minimum(jnp.searchsorted(ordered, at, side=side), count) / count  # the infinities added do not count


def _midranks(a: Array) -> Array:
    """Mean rank of each value among its ties, divided by n."""
    ordered = jnp.sort(a)
    ends = [jnp.searchsorted(ordered, a, side=side) for side in ("left", "right")]
    return _defined((ends[0] + ends[1]) / (2 * len(a)), a)


def _centred(a: Array) -> Array:
    a = a - a[0]  # makes a constant exactly zero, which the rounded mean would not
    return a - a.mean()


def _defined(value: Array, scores: Array) -> Array:
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, value)
