"""Confident learning: label errors from out-of-sample probabilities (Northcutt, Jiang and Chuang, JAIR 2021)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Bool, Float, Int, Key


class LabelErrors(NamedTuple):
    """`flagged`: suspected label error. `score`: 1 - p_y, plus 1 if flagged; high means suspicious."""

    flagged: Bool[Array, " n"]
    score: Float[Array, " n"]


def folds(key: Key[Array, ""], samples: int, *, count: int = 3) -> Int[Array, " samples"]:
    """A random fold number in [0, count) for every sample; fold sizes differ by at most one.

    Raises:
      ValueError: fewer than 2 folds: each is predicted by a network trained on the others.
    """
    if count < 2:
        raise ValueError(f"count is the number of folds, at least 2; got {count}.")
    key = as_key(key)
    return jax.random.permutation(key, jnp.arange(samples) % count)


def confident_learning(probabilities: Float[Any, "n c"], y: Int[Any, " n"]) -> LabelErrors:
    """Flag i where some j != y_i has p_j(i) >= t_j, t_j the mean p_j over the samples labelled j.

    Args:
      probabilities: of each sample by a network that was not trained on it.
      y: given labels. A class without samples has no threshold and flags nothing.

    Raises:
      ValueError: rows that are no probabilities; labels that are no integers in [0, c), not one per row, or all of one
        class.
    """
    checks.check_probabilities("probabilities", probabilities)
    checks.check_labels(y, probabilities.shape[1])
    checks.check_lengths(probabilities=probabilities, labels=y)
    checks.check_several(y, "confident learning")
    member = jax.nn.one_hot(y, probabilities.shape[1])
    count = member.sum(axis=0)
    threshold = jnp.where(count > 0, (member * probabilities).sum(axis=0) / jnp.maximum(count, 1), jnp.inf)
    flagged = ((probabilities >= threshold[None, :]) & (member == 0)).any(axis=1)
    own = jnp.take_along_axis(probabilities, y[:, None], axis=1)[:, 0]
    return LabelErrors(flagged, flagged + 1 - own)
