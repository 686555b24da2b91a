"""Square: a search without gradients, which no masking of gradients stops.

Andriushchenko et al., ECCV 2020. Vertical stripes of +-eps, then squares of +-eps at random places, each kept where the
margin falls: h = sqrt(p pixels), p falling with the queries. Rows of numbers, which have no squares, get runs.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.attacks import balls, objectives
from subspace_jax.core.attacks.attack import Attack, Problem
from subspace_jax.core.attacks.pgd import START, check_steps
from subspace_jax.typing import Array, Float

HALVED = 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000  # of 10,000 queries: where p is halved


def square(*, queries: int = 5000, start: float = 0.8) -> Attack:
    """Random search in linf, one query a step; the image of the largest margin counts.

    Args:
      queries: forward passes. 500 are enough for 8x8 images, thousands for larger ones: compare with PGD on a network
        that masks nothing (`robustness.audit`, power).
      start: p of the first squares, in (0, 1].

    Raises:
      ValueError: queries below 1, start outside (0, 1].
    """
    check_steps(queries)
    if not 0 < start <= 1:
        raise ValueError(f"start is the share of pixels of the first squares, in (0, 1]; got {start}.")
    return Attack(*_search(queries, start), queries)


def shares(queries: int, start: float) -> np.ndarray:
    """The share p of changed pixels at each query."""
    scaled = np.arange(queries) * 10_000 // queries
    return start / 2.0 ** np.searchsorted(HALVED, scaled, side="left")


def grid(x: Float[Array, "b *image"]) -> tuple[int, int, int]:
    """Height, width and channels; rows of numbers have height 1 and one channel, planes one channel."""
    height, width, *channels = x.shape[1:] if x.ndim > 2 else (1, *x.shape[1:])
    return height, width, math.prod(channels)


@functools.lru_cache
def _search(queries: int, start: float):
    table = shares(queries, start)

    def init(problem):
        height, width, channels = grid(problem.x)
        keys = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, START)
        stripes = jax.vmap(lambda key: jax.random.rademacher(key, (1, width, channels), problem.x.dtype))(keys)
        whole = jnp.broadcast_to(stripes, (len(keys), height, width, channels)).reshape(problem.x.shape)
        x = jnp.clip(problem.x + problem.eps * whole, 0, 1)
        return x, objectives.scores(problem, objectives.margin, x, 0)

    def step(problem, i, state):
        x, value = state
        tried = _with_square(problem, i, x, jnp.asarray(table, x.dtype)[i])
        new = objectives.scores(problem, objectives.margin, tried, i)
        better = new > value
        return jnp.where(balls.lift(better, x), tried, x), jnp.where(better, new, value)

    return init, step, lambda problem, state: state[0]


def _with_square(problem: Problem, i: Array, x: Array, share: Array) -> Array:
    height, width, channels = grid(x)
    flat = 1 in (height, width)
    side = jnp.round(share * height * width if flat else jnp.sqrt(share * height * width)).astype(int)
    down, right = (jnp.clip(side, 1, most) for most in (height, width))

    def one(key):
        up, left, signs = jax.random.split(key, 3)
        top = jax.random.randint(up, (), 0, height - down + 1)
        edge = jax.random.randint(left, (), 0, width - right + 1)
        rows, columns = jnp.arange(height), jnp.arange(width)
        inside = ((rows >= top) & (rows < top + down))[:, None] & ((columns >= edge) & (columns < edge + right))[None]
        return inside[..., None] * jax.random.rademacher(signs, (1, 1, channels), x.dtype)

    keys = jax.vmap(jax.random.fold_in, (0, None))(problem.keys, i)
    change = 2 * problem.eps * jax.vmap(one)(keys).reshape(x.shape)
    return balls.project("linf", x + change, problem.x, problem.eps)
