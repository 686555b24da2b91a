"""Quasi-global momentum: the buffer averages the movement of the mixed model, not an agent's own gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, mixing, toward
from subspace_jax.decentralized.state import Info, Loop, State, check_rates, check_share, cosine, gradient, start
from subspace_jax.typing import Algorithm


def qgm(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    mu: float = 0.9,
    beta: float = 0.9,
    gamma: float = 1.0,
    weight_decay: float = 0.0,
    loop: Loop = "vmap",
) -> Algorithm:
    """QG-DSGDm-N: models are mixed after the local step (adapt, then combine).

    g = grad f(d_i; x_i) + weight_decay x_i; v = beta m_i + g; h_i = x_i - lr (g + beta v), a Nesterov step;
    x_i' = h_i + gamma (sum_j w_ij h_j - h_i); m_i <- mu m_i + (1 - mu) (x_i - x_i') / lr, m_i = 0 at the start.
    Plain momentum is biased to the labels that its agent holds, the movement of the mixed model hardly is.
    Without any exchange and with mu = 0, m_i is the last step itself. Where the lr of a step is 0, m_i only decays.

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, see `gossip.mixing`.
      lr: learning rate, or an optax schedule of the step; the buffer divides by its value at this step.
      mu: share that the buffer keeps, in [0, 1].
      beta: weight of the buffer in a step, in [0, 1]; 0 is D-PSGD that adapts, then combines.
      gamma: averaging rate in [0, 1].
      weight_decay: L2 penalty.
      loop: see `state.gradient`.

    Raises:
      ValueError: mu, beta or gamma outside [0, 1]; weights as in `gossip.mixing`.

    Lin et al., "Quasi-global momentum: Accelerating decentralized deep learning on heterogeneous data", ICML 2021.
    """
    for name, value in (("mu", mu), ("beta", beta), ("gamma", gamma)):
        check_share(name, value)
    check_rates(lr, weight_decay=weight_decay)
    mix, grad = mixing(comm, weights), gradient(loss, loop)

    def init(key, variables):
        return start(variables, optax.identity(), optax.tree.zeros_like(variables["params"]))

    def step(key, state, batch):
        x, rate = state.params, jnp.asarray(lr(state.step) if callable(lr) else lr)
        value, batch_stats, grads = grad(x, state.batch_stats, batch, key)
        decayed = optax.tree.add_scale(grads, weight_decay, x)
        v = optax.tree.add_scale(decayed, beta, state.memory)
        u = optax.tree.add_scale(decayed, beta, v)
        half = jax.tree.map(lambda a, b: a - rate.astype(a.dtype) * b, x, u)
        mixed, sent = mix(state.step, half, half)
        params = toward(half, mixed, gamma)
        share = jnp.where(rate > 0, (1 - mu) / jnp.where(rate > 0, rate, 1), 0)
        way = jax.tree.map(lambda old, new: share.astype(old.dtype) * (old - new), x, params)
        new = State(state.step + 1, params, batch_stats, state.opt_state, optax.tree.add_scale(way, mu, state.memory))
        return new, Info(value, cosine(grads, u), sent, jnp.uint32(0))

    return Algorithm(init, step)
