"""Gossip: weighted means over neighbours, and D-PSGD, the plain decentralized SGD that is built on them."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.state import Info, Loop, State, check_share, gradient, optimizer, start
from subspace_jax.typing import Algorithm, Array, Float, PyTree

Order = Literal["combine_then_adapt", "adapt_then_combine"]
Weights = Float[np.ndarray, "agents agents"] | Float[np.ndarray, "times agents agents"]


def mixing(comm: Comm, weights: Weights, *, columns_only: bool = False) -> Callable:
    """(t, own, wire, decode) -> (sum_j w_ij x_j, bytes sent), with x_i = own and x_j = decode(wire of j).

    Weights of a graph that changes with time, (times, agents, agents), are W[t mod times] at step t. Where W is doubly
    stochastic and decode(own wire) == own, the mean over agents is kept.

    Args:
      comm: the agents.
      weights: W, doubly stochastic; W[i, j] is the weight at i of what j sent.
      columns_only: its rows may sum to anything, as for push-sum: the sum over agents is kept, not a mean at each.

    Raises:
      ValueError: weights that are not doubly stochastic, or of another number of agents.
    """
    weights = topology.check_weights(weights, agents=comm.agents, columns_only=columns_only)
    stack = weights if weights.ndim == 3 else weights[None]
    rounds = [_round(comm, topology.permutations(w)) for w in stack]

    def mix(t: Array, own: PyTree, wire: PyTree, decode: Callable = lambda wire: wire) -> tuple[PyTree, Array]:
        if len(rounds) == 1:
            return rounds[0](own, wire, decode)
        branches = [lambda own, wire, one=one: one(own, wire, decode) for one in rounds]
        return jax.lax.switch(t % len(rounds), branches, own, wire)

    return mix


def _round(comm: Comm, form: topology.Permutations) -> Callable:
    def mix(own, wire, decode):
        total, sent = weighted(comm, form.diagonal, own), jnp.uint32(0)
        for source, weight in zip(form.sources, form.weights, strict=True):
            received = decode(comm.permute(wire, source))
            total = optax.tree.add(total, weighted(comm, weight, received))
            sent += comm.bytes(wire, source)
        return total, sent

    return mix


def neighbours(comm: Comm, form: topology.Permutations, x: PyTree) -> tuple[list[PyTree], PyTree, Array]:
    """(models of the neighbours, one for each permutation; sum_j w_ij x_j; bytes sent)."""
    models = [comm.permute(x, source) for source in form.sources]
    mixed, sent = weighted(comm, form.diagonal, x), jnp.uint32(0)
    for model, source, weight in zip(models, form.sources, form.weights, strict=True):
        mixed = optax.tree.add(mixed, weighted(comm, weight, model))
        sent += comm.bytes(x, source)
    return models, mixed, sent


def weighted(comm: Comm, weights: Float[np.ndarray, " agents"], tree: PyTree) -> PyTree:
    """The tree times this agent's weight, in the tree's dtype."""
    weight = jnp.asarray(weights)[comm.index()]
    return jax.tree.map(lambda leaf: weight.astype(leaf.dtype) * leaf, tree)


def toward(x: PyTree, mixed: PyTree, gamma: float) -> PyTree:
    """The step x + gamma (mixed - x): the mixed model itself for gamma = 1, x itself for gamma = 0."""
    if gamma in (0, 1):
        return mixed if gamma else x
    return jax.tree.map(lambda a, b: a + gamma * (b - a), x, mixed)


def adapt_then_combine(
    loss: Callable,
    begin: Callable,
    exchange: Callable,
    *,
    lr: float | optax.Schedule,
    momentum: float,
    weight_decay: float,
    loop: Loop,
) -> Algorithm:
    """An SGD step of each agent, then an exchange of the parameters after it.

    Args:
      loss: see `decentralized.state`.
      begin: (params) -> memory before the first exchange.
      exchange: (key, t, params, memory) -> (params, memory, bytes sent).
      lr: learning rate, or an optax schedule of the step.
      momentum: of the local Nesterov buffer.
      weight_decay: L2 penalty.
      loop: see `state.gradient`.
    """
    grad, tx = gradient(loss, loop), optimizer(lr, momentum=momentum, weight_decay=weight_decay)

    def init(key, variables):
        return start(variables, tx, begin(variables["params"]))

    def step(key, state, batch):
        local, message = jax.random.split(key)
        value, batch_stats, grads = grad(state.params, state.batch_stats, batch, local)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        half = optax.apply_updates(state.params, updates)
        params, memory, sent = exchange(message, state.step, half, state.memory)
        new = State(state.step + 1, params, batch_stats, opt_state, memory)
        return new, Info(value, jnp.float32(1), sent, jnp.uint32(0))

    return Algorithm(init, step)


def d_psgd(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    gamma: float = 1.0,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    order: Order = "combine_then_adapt",
    loop: Loop = "vmap",
) -> Algorithm:
    """D-PSGD, in one of its two orders; in both u_i comes from the gradient at x_i, and both send one model.

    combine_then_adapt: x_i <- x_i + gamma (sum_j w_ij x_j - x_i) - lr u_i, as in the paper: models may travel while the
    gradient is computed. adapt_then_combine: h_i = x_i - lr u_i, x_i <- h_i + gamma (sum_j w_ij h_j - h_i), as in QGM,
    push-sum, CHOCO-SGD and the diffusion literature; it is `qgm` with beta 0.

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, see `mixing`.
      lr: learning rate, or an optax schedule of the step.
      gamma: averaging rate in [0, 1]; 0 trains each agent alone.
      momentum: of a local Nesterov buffer; known to hurt where the agents' data differ.
      weight_decay: L2 penalty.
      order: mix the models that were sent and take the step, or take the step and mix what it made.
      loop: see `state.gradient`.

    Raises:
      ValueError: gamma outside [0, 1]; an unknown order; weights as in `mixing`.

    Lian et al., "Can decentralized algorithms outperform centralized algorithms?", NeurIPS 2017.
    """
    check_share("gamma", gamma)
    if order not in get_args(Order):
        raise ValueError(f"order is one of {', '.join(get_args(Order))}; got {order!r}.")
    mix, grad = mixing(comm, weights), gradient(loss, loop)
    tx = optimizer(lr, momentum=momentum, weight_decay=weight_decay)

    def init(key, variables):
        return start(variables, tx)

    def step(key, state, batch):
        x = state.params
        value, batch_stats, grads = grad(x, state.batch_stats, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, x)
        if order == "combine_then_adapt":
            mixed, sent = mix(state.step, x, x)
            params = optax.apply_updates(toward(x, mixed, gamma), updates)
        else:
            half = optax.apply_updates(x, updates)
            mixed, sent = mix(state.step, half, half)
            params = toward(half, mixed, gamma)
        new = State(state.step + 1, params, batch_stats, opt_state, state.memory)
        return new, Info(value, jnp.float32(1), sent, jnp.uint32(0))

    return Algorithm(init, step)
