"""Early stopping as a pure accumulator: keep the network of a run before it fits the wrong labels.

The run is not interrupted; checks after the stop are ignored.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.typing import Array, Float, Int, Variables


class EarlyStopping(NamedTuple):
    """The best network so far."""

    variables: Variables
    loss: Float[Array, ""]
    """Its loss on the held-out samples; infinite before the first check."""
    best: Int[Array, ""]
    """Number of the check that found it, from 1; 0: still the initial variables."""
    checks: Int[Array, ""]
    """Checks so far, until the stop."""


def init(variables: Variables) -> EarlyStopping:
    """The state before the first check; `variables` are the result if no loss is finite."""
    return EarlyStopping(variables, jnp.float32(jnp.inf), jnp.int32(0), jnp.int32(0))


def update(state: EarlyStopping, variables: Variables, loss: Float[Array, ""], *, patience: int = 5) -> EarlyStopping:
    """One check; after `patience` checks in a row without a lower loss it has stopped, and the state no longer changes.

    Args:
      state: from `init` or the check before.
      variables: the network now.
      loss: its loss on samples held out; their labels may be as noisy as in training. NaN is not lower.
      patience: at least 1; the paper of Verifix compares with 5.

    Raises:
      ValueError: patience below 1.
    """
    if patience < 1:
        raise ValueError(f"patience is the number of checks to wait, at least 1; got {patience}.")
    running = state.checks - state.best < patience
    better = running & (loss < state.loss)
    checks = state.checks + running

    def newer(new, old):
        return jnp.where(better, new, old)

    kept = jax.tree.map(newer, variables, state.variables)
    return EarlyStopping(kept, newer(loss, state.loss), newer(checks, state.best), checks)
