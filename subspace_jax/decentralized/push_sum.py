"""Push-sum: decentralized SGD on directed graphs, where the columns of W must sum to 1, but not its rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, mixing
from subspace_jax.decentralized.state import Info, Loop, State, gradient, optimizer, start
from subspace_jax.typing import Algorithm


def push_sum(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loop: Loop = "vmap",
) -> Algorithm:
    """Stochastic gradient push: models are mixed after the local step (adapt, then combine).

    With z_i = x_i / p_i: x_i <- sum_j w_ij (x_j - lr u_j), u_j from the gradient at z_j, and p_i <- sum_j w_ij p_j,
    p_i = 1 at the start. Columns of W that sum to 1 keep the sums over agents of x_i and of p_i, so that, on a strongly
    connected graph and without steps, every z_i tends to the mean of all. For a doubly stochastic W p stays 1: D-PSGD
    that adapts, then combines.

    `State.params` is z_i, the model to be judged, and `State.memory` the scalar p_i, float32 or wider; the biased x_i
    is p_i z_i. p_i travels with the model: 4 bytes a message, 8 in float64.

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, not negative, columns sum to 1: W[i, j] is the share of its model that j sends to i; (times, agents,
        agents) as in `gossip.mixing`.
      lr: learning rate, or an optax schedule of the step.
      momentum: of the local Nesterov buffer.
      weight_decay: L2 penalty, of z.
      loop: see `state.gradient`.

    Raises:
      ValueError: weights that are negative, whose columns do not sum to 1, or of another number of agents.

    Assran et al., "Stochastic gradient push for distributed deep learning", ICML 2019.
    """
    mix, grad = mixing(comm, weights, columns_only=True), gradient(loss, loop)
    tx = optimizer(lr, momentum=momentum, weight_decay=weight_decay)

    def init(key, variables):
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(variables["params"]))
        return start(variables, tx, jnp.ones((), dtype))

    def step(key, state, batch):
        z, p = state.params, state.memory
        value, batch_stats, grads = grad(z, state.batch_stats, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, z)
        biased = jax.tree.map(lambda z, u: p.astype(z.dtype) * z + u, z, updates)
        (x, p), sent = mix(state.step, (biased, p), (biased, p))
        params = jax.tree.map(lambda leaf: leaf / p.astype(leaf.dtype), x)
        new = State(state.step + 1, params, batch_stats, opt_state, p)
        return new, Info(value, jnp.float32(1), sent, jnp.uint32(0))

    return Algorithm(init, step)
