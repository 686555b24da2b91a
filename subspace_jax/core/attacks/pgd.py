"""Projected gradient steps: PGD, its single step FGSM, and MI-FGSM with momentum.

x <- clip(P(x + a d)), d the sign of the gradient (linf) or the normalised gradient (l2), P projects onto the ball.
Madry et al., ICLR 2018; Goodfellow et al., ICLR 2015; Dong et al., CVPR 2018. The LAST image counts: several attacks
or restarts are joined image by image, never as a minimum of averages.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from subspace_jax.core.attacks import balls, objectives
from subspace_jax.core.attacks.attack import Attack

START = 1 << 19  # number of the key of a start, beyond every step


def pgd(
    *,
    steps: int = 40,
    step_size: float = 1 / 8,
    norm: balls.Norm = "linf",
    objective: str = "ce",
    random_start: bool = True,
    restarts: int = 1,
) -> Attack:
    """Projected gradient ascent of an objective.

    Args:
      steps: at least 1.
      step_size: a, as a share of eps.
      norm: "linf" or "l2".
      objective: "ce", "margin" or "dlr".
      random_start: from a uniform draw of the ball, or from the image itself.
      restarts: repetitions with other draws; the first image that changes the answer counts.

    Raises:
      ValueError: steps or restarts below 1, a step size that is not positive, an unknown objective.
    """
    objectives.check_objective(objective)
    check_steps(steps, step_size, restarts)
    parts = steps_of(_gradient(objective), step_size=step_size, norm=norm, random_start=random_start)
    return Attack(*parts, steps, norm, restarts if random_start else 1, objectives.CLASSES[objective])


def fgsm(*, norm: balls.Norm = "linf", objective: str = "ce") -> Attack:
    """One gradient step of length eps from the image itself."""
    return pgd(steps=1, step_size=1.0, norm=norm, objective=objective, random_start=False)


def mi_fgsm(*, steps: int = 10, momentum: float = 1.0, objective: str = "ce") -> Attack:
    """Steps a = eps / steps along the sign of g <- momentum g + gradient / ||gradient||_1 of each image, in linf.

    Raises:
      ValueError: steps below 1, a negative momentum, an unknown objective.
    """
    objectives.check_objective(objective)
    check_steps(steps)
    if not momentum >= 0:
        raise ValueError(f"momentum is the kept share of earlier gradients, at least 0; got {momentum}.")
    return Attack(*_momentum(objective, steps, momentum), steps, "linf", 1, objectives.CLASSES[objective])


@functools.lru_cache(maxsize=256)  # the same functions for the same settings, and so one compilation
def steps_of(
    gradient: Callable, *, step_size: float, norm: balls.Norm = "linf", random_start: bool = True
) -> tuple[Callable, Callable, Callable]:
    """init, step and result of projected steps along any direction.

    Args:
      gradient: (problem, x, i) -> what `balls.direction` makes a direction of; the sign of a sign is itself.
      step_size: as a share of eps.
      norm: of the ball.
      random_start: from a uniform draw of the ball.

    Raises:
      ValueError: an unknown norm, a step size that is not positive.
    """
    balls.check_norm(norm)
    check_steps(1, step_size)

    def init(problem):
        if not random_start:
            return problem.x
        keys = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, START)
        return balls.uniform(norm, keys, problem.x, problem.eps)

    def step(problem, i, x):
        ahead = x + step_size * problem.eps * balls.direction(norm, gradient(problem, x, i))
        return balls.project(norm, ahead, problem.x, problem.eps)

    return init, step, _last


def check_steps(steps: int, step_size: float = 1.0, restarts: int = 1) -> None:
    """Refuse settings without a step.

    Raises:
      ValueError: names the setting and its bound.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"an attack has 1 step and 1 start at least; got {steps} and {restarts}.")
    if not step_size > 0:
        raise ValueError(f"step_size is a positive share of eps; got {step_size}.")


@functools.lru_cache
def _gradient(objective: str) -> Callable:
    loss = objectives.OBJECTIVES[objective]
    return lambda problem, x, i: objectives.ascent(problem, loss, x, i)[1]


@functools.lru_cache
def _momentum(objective: str, steps: int, momentum: float) -> tuple[Callable, Callable, Callable]:
    gradient = _gradient(objective)

    def init(problem):
        return problem.x, jnp.zeros_like(problem.x)

    def step(problem, i, state):
        x, kept = state
        new = gradient(problem, x, i)
        total = jnp.abs(new).reshape(len(new), -1).sum(1)
        kept = momentum * kept + new / balls.lift(jnp.maximum(total, jnp.finfo(new.dtype).tiny), new)
        return balls.project("linf", x + problem.eps / steps * jnp.sign(kept), problem.x, problem.eps), kept

    return init, step, lambda problem, state: state[0]


def _last(problem, x):
    return x
