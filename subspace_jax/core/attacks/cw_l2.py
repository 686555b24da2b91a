"""Carlini and Wagner's l2 attack: the smallest Euclidean change, by Adam and a search for the weight of the margin.

min ||x' - x||^2 + c max(0, z_y - max_k z_k + confidence) with x' = (tanh(w) + 1) / 2, always in [0, 1]. c is ten times
larger after every round without success, and half-way to the last c that had none after a success. Carlini and Wagner,
Towards evaluating the robustness of neural networks, S&P 2017.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.core.attacks import balls, objectives
from subspace_jax.core.attacks.attack import Attack
from subspace_jax.core.attacks.pgd import check_steps
from subspace_jax.typing import Array

INSIDE = 0.999999  # tanh never reaches 1
FASTER, SLOWER, TINY = 0.9, 0.999, 1e-8  # Adam


class State(NamedTuple):
    """The search of each image.

    Attributes:
      change: in the space of w.
      mean, square: Adam's.
      weight, low, high: c, the largest c without success, the smallest with one, (b,).
      found: success in this round, (b,).
      best, length: the smallest change so far and its length, (b,).
    """

    change: Array
    mean: Array
    square: Array
    weight: Array
    low: Array
    high: Array
    found: Array
    best: Array
    length: Array


def cw_l2(
    *, steps: int = 100, rounds: int = 9, step_size: float = 0.01, confidence: float = 0.0, weight: float = 1e-3
) -> Attack:
    """The smallest change found; an image whose change is longer than eps stays as it is.

    Args:
      steps: of Adam in each round.
      rounds: values of c.
      step_size: of Adam.
      confidence: margin that the wrong class must have, in logits.
      weight: the first c.

    Raises:
      ValueError: steps or rounds below 1, sizes that are not positive, a negative confidence.
    """
    check_steps(steps, step_size, rounds)
    if not confidence >= 0 or not weight > 0:
        raise ValueError(f"confidence is at least 0 and weight positive; got {confidence} and {weight}.")
    return Attack(*_search(steps, step_size, confidence, weight), steps * rounds, "l2")


@functools.lru_cache
def _search(steps: int, step_size: float, confidence: float, weight: float):
    def init(problem):
        x = problem.x
        blank, ones = jnp.zeros_like(x), jnp.ones(len(x), x.dtype)
        never = jnp.inf * ones
        return State(blank, blank, blank, weight * ones, 0 * ones, never, jnp.zeros(len(x), bool), x, never)

    def step(problem, i, state):
        state = jax.tree.map(
            lambda new, old: jnp.where((i % steps == 0) & (i > 0), new, old), _next_round(state), state
        )
        start = jnp.arctanh((2 * problem.x - 1) * INSIDE)

        def loss(change):
            tried = (jnp.tanh(start + change) + 1) / 2
            value = objectives.scores(problem, objectives.margin, tried, i)
            squares = ((tried - problem.x).reshape(len(tried), -1) ** 2).sum(1)
            return (state.weight * jnp.maximum(0, confidence - value) + squares).sum(), (tried, value)

        gradient, (tried, value) = jax.grad(loss, has_aux=True)(state.change)
        length = balls.lengths(tried - problem.x)
        fooled = (value > 0) & (value >= confidence)
        closer = fooled & (length < state.length)
        return _adam(state, gradient, i % steps + 1, step_size)._replace(
            found=state.found | fooled, length=jnp.where(closer, length, state.length),
            best=jnp.where(balls.lift(closer, tried), tried, state.best),
        )  # fmt: skip

    def result(problem, state):
        return jnp.where(balls.lift(state.length <= problem.eps, problem.x), state.best, problem.x)

    return init, step, result


def _next_round(state: State) -> State:
    """Another c, and Adam anew from the image."""
    high = jnp.where(state.found, state.weight, state.high)
    low = jnp.where(state.found, state.low, state.weight)
    weight = jnp.where(jnp.isinf(high), state.weight * 10, (low + high) / 2)
    blank = jnp.zeros_like(state.change)
    return state._replace(
        change=blank, mean=blank, square=blank, weight=weight, low=low, high=high, found=jnp.zeros_like(state.found)
    )


def _adam(state: State, gradient: Array, t: Array, step_size: float) -> State:
    mean = FASTER * state.mean + (1 - FASTER) * gradient
    square = SLOWER * state.square + (1 - SLOWER) * gradient**2
    ways = mean / (1 - FASTER**t) / (jnp.sqrt(square / (1 - SLOWER**t)) + TINY)
    return state._replace(change=state.change - step_size * ways, mean=mean, square=square)
