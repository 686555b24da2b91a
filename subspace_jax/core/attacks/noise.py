"""Random changes, the control of every attack: what they fool was not robust to begin with."""

import functools

import jax
import jax.numpy as jnp

from subspace_jax.core.attacks import balls, objectives
from subspace_jax.core.attacks.attack import Attack
from subspace_jax.core.attacks.pgd import check_steps


def noise(*, tries: int = 1, norm: balls.Norm = "linf") -> Attack:
    """Uniform draws from the ball; the one of the largest margin counts, the last one of a single try.

    Raises:
      ValueError: tries below 1.
    """
    balls.check_norm(norm)
    check_steps(tries)
    return Attack(*_draws(norm), tries, norm)


@functools.lru_cache
def _draws(norm: balls.Norm):
    def init(problem):
        return problem.x, jnp.full(len(problem.x), -jnp.inf, problem.x.dtype)

    def step(problem, i, state):
        best, value = state
        keys = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, i)
        drawn = balls.uniform(norm, keys, problem.x, problem.eps)
        new = objectives.scores(problem, objectives.margin, drawn, i).astype(value.dtype)
        better = new > value
        return jnp.where(balls.lift(better, best), drawn, best), jnp.where(better, new, value)

    return init, step, lambda problem, state: state[0]
