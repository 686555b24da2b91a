"""Scores averaged over the epochs of one training run.

The average separates memorized samples: at the end of an over-fit run all training losses, and so all curvatures, are
near 0
(Garg, Ravikumar and Roy, arXiv 2307.05831).
"""

from typing import NamedTuple

import jax.numpy as jnp

from subspace_jax.core import checks
from subspace_jax.typing import Array, Float, Int


class EpochAverage(NamedTuple):
    """Sum, latest value and ring buffer of latest values, of capacity at least 1 since checkpoints refuse 0."""

    total: Float[Array, " n"]
    last: Float[Array, " n"]
    count: Int[Array, ""]
    history: Float[Array, "epochs n"]


def init(samples: int, *, history: int = 1) -> EpochAverage:
    """The state before the first epoch; the latest `history` epochs are kept, epoch t in row t % history.

    Raises:
      ValueError: history < 1.
    """
    checks.check_count("the number of samples", samples, 0)
    if not history >= 1:
        raise ValueError(f"history must keep at least 1 epoch; got {history}.")
    blank = jnp.zeros(samples)
    return EpochAverage(blank, blank, jnp.int32(0), jnp.full((history, samples), jnp.nan, jnp.float32))


def update(state: EpochAverage, scores: Float[Array, " n"]) -> EpochAverage:
    """Add the scores of one epoch.

    Raises:
      ValueError: another number of samples than before; a score that is not finite (inside `jit` its average is NaN).
    """
    checks.check_lengths(scores=scores, state=state.total)
    checks.check_finite("scores", scores, remedy="the network diverged, or these samples are not finite")
    checks.check_real("an average", {"scores": jnp.result_type(scores)})
    slot = state.count % len(state.history)
    return EpochAverage(state.total + scores, scores, state.count + 1, state.history.at[slot].set(scores))


def finalize(state: EpochAverage) -> Float[Array, " n"]:
    """(1/T) sum_t score_t; NaN before the first epoch."""
    return state.total / state.count
