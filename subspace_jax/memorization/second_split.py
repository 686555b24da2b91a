"""Second-split forgetting time (Maini et al., NeurIPS 2022): train on one half, then on the other half alone.

A sample of the first half that is misclassified early in the second training had only been memorized.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from subspace_jax.core import checks
from subspace_jax.memorization.dynamics import margin
from subspace_jax.typing import Array, Float, Int


class SecondSplit(NamedTuple):
    """`forgotten_at`: epochs of second training until a sample is first misclassified (0: before it); -1 never."""

    epochs: Int[Array, ""]
    forgotten_at: Int[Array, " n"]


def init(samples: int) -> SecondSplit:
    """The initial state; call `update` once before the second training, with the logits after the first."""
    checks.check_count("the number of samples", samples, 0)
    return SecondSplit(jnp.int32(0), jnp.full(samples, -1, jnp.int32))


def update(state: SecondSplit, logits: Float[Array, "n c"], y: Int[Any, " n"]) -> SecondSplit:
    """Add the logits of the first half's samples after one more epoch on the second half.

    Raises:
      ValueError: labels as in `dynamics.margin`; another number of samples than before.
    """
    checks.check_lengths(logits=logits, state=state.forgotten_at)
    first = (state.forgotten_at < 0) & ~(margin(logits, y) > 0)
    return SecondSplit(state.epochs + 1, jnp.where(first, state.epochs, state.forgotten_at))


def finalize(state: SecondSplit) -> Float[Array, " n"]:
    """1 - forgotten_at / updates, in [0, 1], high means suspicious: 1 forgotten at once, 0 never."""
    epochs = jnp.maximum(state.epochs, 1)
    return jnp.where(state.forgotten_at < 0, 0.0, 1 - state.forgotten_at / epochs)
