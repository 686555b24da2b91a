"""APGD: gradient ascent with momentum whose step size adapts to each image, without a setting to tune.

Croce and Hein, Reliable evaluation of adversarial robustness, ICML 2020. The step is 2 eps at first. At checkpoints,
after .22 of the steps, then after gaps that shrink by .03 to .06, it is halved, and the search goes back to the best
image, where at most .75 of the steps since the last one raised the objective, or neither step nor best value changed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.attacks import balls, objectives
from subspace_jax.core.attacks.attack import Attack
from subspace_jax.core.attacks.pgd import START, check_steps
from subspace_jax.typing import Array

MOMENTUM, RAISED = 0.75, 0.75
FIRST, SHRINK, LEAST = 0.22, 0.03, 0.06  # gaps between checkpoints, as shares of the steps


class State(NamedTuple):
    """Where the search of each image is.

    Attributes:
      x, before: this image and the one before it.
      gradient, value: of x.
      best, best_gradient, best_value: of the largest value so far.
      step: size of the steps, (b,).
      raised: steps since the checkpoint that raised the objective, (b,).
      checked: best value at the last checkpoint, (b,).
      halved: whether the step was halved there, (b,).
    """

    x: Array
    before: Array
    gradient: Array
    value: Array
    best: Array
    best_gradient: Array
    best_value: Array
    step: Array
    raised: Array
    checked: Array
    halved: Array


def apgd(*, steps: int = 100, norm: balls.Norm = "linf", objective: str = "ce", restarts: int = 1) -> Attack:
    """Adaptive PGD; the image of the largest objective counts.

    Args:
      steps: at least 1.
      norm: "linf" or "l2".
      objective: "ce", "margin" or "dlr".
      restarts: repetitions with other draws.

    Raises:
      ValueError: steps or restarts below 1, an unknown objective.
    """
    objectives.check_objective(objective)
    balls.check_norm(norm)
    check_steps(steps, restarts=restarts)
    return Attack(*_search(steps, norm, objective), steps, norm, restarts, objectives.CLASSES[objective])


def checkpoints(steps: int) -> np.ndarray:
    """At each step the length of the interval that ends there, 0 where none does."""
    gap, least, shrink = (max(int(share * steps), 1) for share in (FIRST, LEAST, SHRINK))
    found, last = np.zeros(steps, np.int32), 0
    for i in range(steps):
        if i + 1 - last == gap:
            found[i], last, gap = gap, i + 1, max(gap - shrink, least)
    return found


@functools.lru_cache
def _search(steps: int, norm: balls.Norm, objective: str):
    table, loss = checkpoints(steps), objectives.OBJECTIVES[objective]

    def init(problem):
        keys = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, START)
        x = balls.uniform(norm, keys, problem.x, problem.eps)
        value, gradient = objectives.ascent(problem, loss, x, 0)
        size = jnp.full(len(x), 2, x.dtype) * problem.eps
        none = jnp.zeros(len(x), jnp.int32)
        return State(x, x, gradient, value, x, gradient, value, size, none, value, jnp.ones(len(x), bool))

    def step(problem, i, state):
        share = jnp.where(i > 0, MOMENTUM, 1.0).astype(state.x.dtype)
        move = balls.lift(state.step, state.x) * balls.direction(norm, state.gradient)
        ahead = balls.project(norm, state.x + move, problem.x, problem.eps)
        mixed = state.x + share * (ahead - state.x) + (1 - share) * (state.x - state.before)
        x = balls.project(norm, mixed, problem.x, problem.eps)
        value, gradient = objectives.ascent(problem, loss, x, i + 1)
        better, up = value > state.best_value, value > state.value
        pick = balls.lift(better, x)
        state = state._replace(
            x=x, before=state.x, gradient=gradient, value=value, best=jnp.where(pick, x, state.best),
            best_gradient=jnp.where(pick, gradient, state.best_gradient),
            best_value=jnp.where(better, value, state.best_value), raised=state.raised + up,
        )  # fmt: skip
        length = jnp.asarray(table)[i]
        return jax.tree.map(lambda new, old: jnp.where(length > 0, new, old), _checked(state, length), state)

    return init, step, lambda problem, state: state.best


def _checked(state: State, length: Array) -> State:
    """At a checkpoint: halve the step of images whose search swings or stands still, and go back to their best."""
    swings = state.raised <= RAISED * length
    stands = ~state.halved & (state.checked >= state.best_value)
    halve = swings | stands
    back = balls.lift(halve, state.x)
    return state._replace(
        x=jnp.where(back, state.best, state.x), gradient=jnp.where(back, state.best_gradient, state.gradient),
        value=jnp.where(halve, state.best_value, state.value), step=jnp.where(halve, state.step / 2, state.step),
        raised=jnp.zeros_like(state.raised), checked=state.best_value, halved=halve,
    )  # fmt: skip
