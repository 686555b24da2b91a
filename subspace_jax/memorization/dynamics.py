"""Baselines from training dynamics: loss, margin, learning time, forgetting, by one forward pass per epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.core import checks
from subspace_jax.core.losses import softmax_cross_entropy
from subspace_jax.typing import Array, Bool, Float, Int


class Dynamics(NamedTuple):
    """Statistics of each sample over the epochs so far, with the labels it is trained on."""

    epochs: Int[Array, ""]
    loss: Float[Array, " n"]  # sum over epochs
    margin: Float[Array, " n"]  # sum over epochs of z_y - max_{k != y} z_k
    learned_at: Int[Array, " n"]  # first epoch classified correctly, from 0; -1 never
    forgotten: Int[Array, " n"]  # transitions from correct to wrong
    correct: Bool[Array, " n"]  # in the latest epoch
    confidence: Float[Array, " n"]  # p_y in the latest epoch


def init(samples: int) -> Dynamics:
    """The state before the first epoch."""
    checks.check_count("the number of samples", samples, 0)
    zeros, whole = jnp.zeros(samples), jnp.zeros(samples, jnp.int32)
    return Dynamics(jnp.int32(0), zeros, zeros, whole - 1, whole, jnp.zeros(samples, bool), zeros)


def update(state: Dynamics, logits: Float[Array, "n c"], y: Int[Any, " n"]) -> Dynamics:
    """Add one epoch's logits of all training samples, in inference mode.

    Raises:
      ValueError: labels as in `margin`; another number of samples than before.
    """
    checks.check_lengths(logits=logits, state=state.loss)
    gap, loss = margin(logits, y), softmax_cross_entropy(logits, y)
    correct = gap > 0
    first = (state.learned_at < 0) & correct
    return Dynamics(
        epochs=state.epochs + 1,
        loss=state.loss + loss,
        margin=state.margin + gap,
        learned_at=jnp.where(first, state.epochs, state.learned_at),
        forgotten=state.forgotten + (state.correct & ~correct),
        correct=correct,
        confidence=jnp.exp(-loss),
    )


def margin(logits: Float[Array, "n c"], y: Int[Any, " n"]) -> Float[Array, " n"]:
    """z_y - max_{k != y} z_k, positive where the label has the unique largest logit; not positive for a tie or NaN.

    Raises:
      ValueError: labels that are no integers (n,), outside [0, c) (not checked under `jit`), or not one per row.
    """
    checks.check_axes("logits (n, classes)", logits, 2)
    checks.check_labels(y, logits.shape[1])
    checks.check_lengths(logits=logits, labels=y)
    own = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    others = jnp.where(jax.nn.one_hot(y, logits.shape[1], dtype=bool), -jnp.inf, logits)
    return own - others.max(axis=1)


def finalize(state: Dynamics) -> dict[str, Float[Array, " n"]]:
    """The baselines by name, all oriented so that a high value means suspicious.

    loss: mean over the epochs. margin: minus the area under the margin (Pleiss et al. 2020). learning_time: first
    correct epoch over T, 1 where never. forgetting: number of correct -> wrong transitions (Toneva et al. 2019), so 0
    also for what was never learned. inconfidence: 1 - p_y after the last epoch.
    """
    epochs = jnp.maximum(state.epochs, 1)
    return {
        "loss": state.loss / epochs,
        "margin": -state.margin / epochs,
        "learning_time": jnp.where(state.learned_at < 0, epochs, state.learned_at) / epochs,
        "forgetting": state.forgotten.astype(jnp.float32),
        "inconfidence": 1 - state.confidence,
    }
