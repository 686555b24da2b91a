"""A-GEM: the part of a gradient that would raise the loss on earlier samples is removed. Chaudhry et al., ICLR 2019."""

import jax
import jax.numpy as jnp
import optax

from subspace_jax.continual.baselines.er import draw, with_buffer
from subspace_jax.continual.protocol import Learner, descend, learner, task_loss
from subspace_jax.nn import Model
from subspace_jax.typing import Params


def a_gem_learner(model: Model, tx: optax.GradientTransformation, *, capacity: int, told: bool = False) -> Learner:
    """Update by g - <g, m> / <m, m> m where <g, m> < 0, with m the gradient on a batch of the reservoir (`er`).

    Args:
      model: the network.
      tx: the optimiser, which receives the projected gradient.
      capacity: samples kept, at least 1.
      told: whether the network has one head per task.

    Raises:
      ValueError: capacity below 1.
    """
    gradient = jax.grad(task_loss(model), has_aux=True)

    def step(state, batches, t, key):
        (x, y), params = batches[0], state.variables["params"]
        grads, batch_stats = gradient(params, state, x, y, t, key)
        replayed = draw(jax.random.fold_in(key, 1), state.kept, len(x))
        memory, _ = gradient(params, state, *replayed, key)
        return descend(tx, state, project(grads, memory, active=state.kept["seen"] > 0), batch_stats)

    return with_buffer(learner(model, tx, told=told), capacity)._replace(step=step)


def project(grads: Params, memory: Params, *, active) -> Params:
    """The gradient without its component opposite to the memory's gradient, if it has one."""
    inner, energy = (
        sum(jax.tree.leaves(jax.tree.map(lambda a, m: jnp.vdot(a, m).real, a, memory))) for a in (grads, memory)
    )
    share = jnp.where(active & (inner < 0), inner / jnp.maximum(energy, 1e-30), 0.0)
    return jax.tree.map(lambda g, m: g - share * m, grads, memory)
