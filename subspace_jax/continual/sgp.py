"""Scaled gradient projection (SGP): as `gpm`, but updates may move a little along less important directions.

Every basis vector has an importance in [0, 1] and dK becomes dK - M diag(importance) M' dK. More plasticity than GPM
for a little forgetting. Saha, Roy, "Continual Learning with Scaled Gradient Projection", AAAI 2023, arXiv 2302.01386.

>>> import jax.numpy as jnp, optax
>>> from subspace_jax.core import capture
>>> def fn(params, x):
...     return x @ params["kernel"]
>>> params, x = {"kernel": jnp.zeros((3, 2))}, jnp.diag(jnp.array([3.0, 1.0, 0.0]))
>>> tx = optax.chain(optax.sgd(1.0), sgp(capture.layers(fn, params, x)))
>>> opt_state = tx.init(params)
>>> moments = capture.collect(fn, params, [x], dtype="float64")
>>> state = update(optax.tree.get(opt_state, "SGPState"), moments, energy=1.0, a=1.0)
>>> opt_state = optax.tree.set(opt_state, SGPState=state)
>>> updates, opt_state = tx.update({"kernel": jnp.ones((3, 2))}, opt_state, params)
>>> print(abs(updates["kernel"]))
[[0.  0. ]
 [0.5 0.5]
 [1.  1. ]]
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.continual import gpm, projection
from subspace_jax.core import checks
from subspace_jax.core.capture import Layers
from subspace_jax.core.moments import Moments, wide
from subspace_jax.core.subspace import Subspace
from subspace_jax.typing import Array, Float


class SGPState(NamedTuple):
    """State of `sgp`.

    Attributes:
      bases: as in `gpm.GPMState`.
      importance: {path: (*stack, *groups, d_in)} in [0, 1], one per column of the basis, 0 beyond its rank.
    """

    bases: dict[str, Subspace]
    importance: dict[str, Float[Array, "*lead d"]]


def sgp(table: Layers, *, heads: Collection[str] = (), freeze: bool = True) -> optax.GradientTransformation:
    """Shrink updates along each stored direction by its importance: dK <- dK - M diag(importance) M' dK.

    Args:
      table: as in `gpm.gpm`.
      heads: as in `gpm.gpm`.
      freeze: as in `gpm.gpm`.

    Raises:
      ValueError: as `gpm.gpm`.
    """
    plan = projection.plan(table, heads=heads, freeze=freeze)

    def start(params: optax.Params) -> SGPState:
        bases = gpm.init(projection.held(plan, params))
        return SGPState(bases, {path: jnp.zeros(space.basis.shape[:-1]) for path, space in bases.items()})

    def scale(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        checks.check_updates(updates, params)
        return projection.project(plan, updates, state.bases, state.importance), state

    return optax.GradientTransformation(start, scale)


def update(state: SGPState, moments: Mapping[str, Moments], *, energy: gpm.Energy, a: float | int = 10.0) -> SGPState:
    """Bases and importances after a task; bases grow by the paper's rule of `gpm.update`.

    Column m_i weighs s_i = ||X m_i|| on the task's inputs: the singular value of X - X M M' for a new column, the share
    of the old space's singular values for an old one. Its importance is (a + 1) s_i / (a s_i + max s); old columns add
    it to what they had, up to 1. A layer without energy keeps what it had.

    Args:
      state: of `sgp`.
      moments: as in `gpm.update`.
      energy: as in `gpm.update`.
      a: at least 0; a -> inf is GPM. 10 for CIFAR-100, 3 for its superclasses.

    Raises:
      ValueError: a that is negative or not finite, and as `gpm.update`.
    """
    if not 0 <= a < math.inf:
        raise ValueError(f"a is finite and at least 0 (gpm is its limit); got {a}.")
    bases = gpm.grow(state.bases, moments, energy=energy)
    importance = {path: _importance(bases[path], moments[path], old, a) for path, old in state.importance.items()}
    return SGPState(bases, importance)


def _importance(
    space: Subspace, moments: Moments, old: Float[Array, "*lead d"], a: float | int
) -> Float[Array, "*lead d"]:
    basis, gram = wide(space.basis), wide(moments.gram)
    values = np.sqrt(np.maximum((basis.conj() * (gram @ basis)).sum(-2).real, 0))
    largest = values.max(-1, keepdims=True)
    new = (a + 1) * values / np.where(largest > 0, a * values + largest, 1.0)
    return jnp.asarray(np.clip(new + np.asarray(old), 0, 1), old.dtype)
