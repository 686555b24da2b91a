"""Sharpness-aware minimisation: train for parameters whose whole neighbourhood has a low loss.

A baseline for training with wrong labels; Verifix can correct its networks too.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax.core import losses


@lru_cache(maxsize=64)  # one function object an objective, and so one compilation of what uses it
def sam(objective: Callable, *, rho: float = 0.05) -> Callable:
    """The objective at w + rho g / ||g||, with g its gradient at w; the perturbation is not differentiated.

    Twice the cost of a step. Both passes see the same batch and the same random numbers; new batch statistics
    are those of the pass at w. Where the gradient is zero, or rho = 0, it is the objective itself.

    Foret, Kleiner, Mobahi, Neyshabur, ICLR 2021 (arXiv 2010.01412).

    Args:
      objective: (params, batch_stats, batches, constants, key) -> (loss, new batch_stats), as `training.minimise` takes
        it, such as `training.mean_loss(model.train_apply)`.
      rho: radius of the neighbourhood in the Euclidean norm of all parameters.

    Returns:
      An objective of the same form; the same arguments give the same function object.

    Raises:
      ValueError: a rho that is negative or not finite.
    """
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho is the radius of the neighbourhood, at least 0 and finite; got {rho}.")

    def sharp(params, batch_stats, *arguments):
        here = jax.lax.stop_gradient(params)
        grads, batch_stats_here = jax.grad(objective, has_aux=True)(here, batch_stats, *arguments)
        grads = losses.uphill(grads)
        norm = jnp.sqrt(sum(jnp.vdot(g, g).real for g in jax.tree.leaves(grads)))
        step = rho / jnp.where(norm > 0, norm, 1.0)
        loss, _ = objective(jax.tree.map(lambda w, g: w + step * g, params, grads), batch_stats, *arguments)
        return loss, batch_stats_here

    return sharp
