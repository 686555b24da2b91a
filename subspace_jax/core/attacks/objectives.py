"""What an attack raises: a loss of logits that is larger the nearer an image is to another class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from subspace_jax.core import losses
from subspace_jax.core.attacks.attack import Problem
from subspace_jax.typing import Array, Float, Int

Logits = Float[Array, "b classes"]
Labels = Int[Array, " b"]
Values = Float[Array, " b"]
TINY = 1e-12


def ce(logits: Logits, y: Labels) -> Values:
    """Cross-entropy. Its gradient underflows to zero where the network is very sure: an attack then stands still."""
    return losses.softmax_cross_entropy(logits, y)


def margin(logits: Logits, y: Labels) -> Values:
    """max_k z_k - z_y over the other classes k: positive where the answer is wrong."""
    own = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    return _others(logits, y).max(1) - own


def dlr(logits: Logits, y: Labels) -> Values:
    """Margin / (z_(1) - z_(3)), logits in descending order: neither their shift nor their scale matters.

    Croce and Hein, Reliable evaluation of adversarial robustness, ICML 2020. It takes 3 classes.
    """
    ordered = jax.lax.top_k(logits, 3)[0]
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + TINY)


OBJECTIVES = {"ce": ce, "margin": margin, "dlr": dlr}
CLASSES = {"ce": 2, "margin": 2, "dlr": 3}


def check_objective(name: str) -> None:
    """Refuse an objective that there is not.

    Raises:
      ValueError: names those that there are.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"there is no objective {name!r}; there are {', '.join(OBJECTIVES)}.")


def scores(problem: Problem, objective: Callable, x: Float[Array, "b *image"], i: Array | int) -> Values:
    """The objective of images, a mean over the draws of a random network; step i has draws of its own."""
    return jax.vmap(objective, (0, None))(problem.ask(x, i), problem.y).mean(0)


def ascent(
    problem: Problem, objective: Callable, x: Float[Array, "b *image"], i: Array | int
) -> tuple[Values, Float[Array, "b *image"]]:
    """The objective of images and its gradient in their pixels."""

    def total(x):
        values = scores(problem, objective, x, i)
        return values.sum(), values

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return values, gradient


def _others(logits: Logits, y: Labels) -> Logits:
    return jnp.where(jnp.arange(logits.shape[1])[None] == y[:, None], -jnp.inf, logits)
