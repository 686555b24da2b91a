"""Neighborhood Gradient Clustering: gradients of one's own data at the neighbours' models, and of theirs at one's own.

Aketi, Kodge and Roy, arXiv 2209.14390. With each neighbour j there are two cross-gradients. The "model-variant" one is
that of my data at his model: I compute it, from the model that he sends anyway. The "data-variant" one is that of his
data at my model: he computes it and sends it back. A weighted mean of these takes the place of the local gradient.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import compress, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, neighbours, toward, weighted
from subspace_jax.decentralized.state import Info, Loop, State, check_share, cosine, gradient, optimizer, start
from subspace_jax.typing import Algorithm, Array, Float, Key, PyTree, Variables


def ngc(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    alpha: float = 1.0,
    gamma: float = 1.0,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    self_grad_at: Literal["sent", "mixed"] = "mixed",
    compressor: compress.Compressor | None = None,
    loop: Loop = "vmap",
) -> Algorithm:
    """NGC, or CompNGC where the gradients are compressed.

    g~_i = w_ii g_ii + sum_j w_ij ((1 - alpha) grad f(d_i; x_j) + alpha grad f(d_j; x_i)), then the local SGD step and
    x_i <- x_i - lr u_i + gamma (sum_j w_ij x_j - x_i). alpha = 0 sends nothing but the models; alpha > 0
    doubles the bytes, unless gradients are compressed. Per step 1 + degree backward passes.

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, symmetric and doubly stochastic: a cross-gradient goes back along its edge.
      lr: learning rate, or an optax schedule of the step.
      alpha: share of the data-variant gradients, in [0, 1].
      gamma: averaging rate in [0, 1].
      momentum: of the local Nesterov buffer over g~; the authors' runs have .9, with lr .01 and gamma .1.
      weight_decay: L2 penalty, added to g~, not to the cross-gradients.
      self_grad_at: where g_ii is taken: at the model that was "sent" (the paper), or at the "mixed" one (its code).
      compressor: of the gradients, own ones included, each with an error memory; `compress.sign()` is CompNGC.
      loop: see `state.gradient`.

    Raises:
      ValueError: alpha or gamma outside [0, 1]; weights that are not symmetric and doubly stochastic; a compressor
        with alpha = 0, which sends no gradient; at `init`, a network with running statistics.
    """
    check_share("alpha", alpha)
    check_share("gamma", gamma)
    if self_grad_at not in ("sent", "mixed"):
        raise ValueError(f'self_grad_at is "sent" or "mixed"; got {self_grad_at!r}.')
    if compressor and not alpha:
        raise ValueError("alpha = 0 sends no gradients: there is nothing to compress; leave the compressor away.")
    weights = topology.check_weights(weights, agents=comm.agents, symmetric=True)
    grad, tx = gradient(loss, loop), optimizer(lr, momentum=momentum, weight_decay=weight_decay)
    method = NGC(comm, weights, topology.permutations(weights), grad, tx, alpha, gamma, self_grad_at, compressor)
    return Algorithm(method.init, method.step)


class NGC(NamedTuple):
    """The settings of `ngc`, prepared; `init` and `step` are the algorithm.

    Attributes:
      comm: the agents.
      weights: W.
      form: W as a sum of weighted permutations.
      grad: from `state.gradient`.
      tx: the local optimiser.
      alpha: share of the data-variant gradients.
      gamma: averaging rate.
      self_grad_at: "sent" or "mixed".
      compressor: of the gradients, or None.
    """

    comm: Comm
    weights: Weights
    form: topology.Permutations
    grad: Callable
    tx: optax.GradientTransformation
    alpha: float
    gamma: float
    self_grad_at: str
    compressor: compress.Compressor | None

    def init(self, key: Key[Array, ""] | None, variables: Variables) -> State:
        """The state before the first step; an error memory for the own gradient and for each neighbour's model."""
        refuse_statistics(variables["batch_stats"])
        edges = range(1 + len(self.form.sources) if self.compressor else 0)
        memory = [optax.tree.zeros_like(variables["params"]) for _ in edges]  # arrays of their own: may be donated
        return start(variables, self.tx, memory if self.compressor else ())

    def step(self, key: Key[Array, ""], state: State, batch: PyTree) -> tuple[State, Info]:
        """Exchange models, cluster the gradients of both kinds, take the local step."""
        x = state.params
        models, mixed, sent = neighbours(self.comm, self.form, x)
        moved = toward(x, mixed, self.gamma)
        value, _, own = self.grad(x if self.self_grad_at == "sent" else moved, state.batch_stats, batch, key)
        _, used, error = send(jax.random.fold_in(key, 0), self.compressor, own, state.memory, 0)
        total, errors, crossed = weighted(self.comm, self.form.diagonal, used), [error], jnp.uint32(0)
        for k, model in enumerate(models):
            terms, error, more = self.cross(key, k, model, state, batch)
            total, crossed = functools.reduce(optax.tree.add, terms, total), crossed + more
            errors.append(error)
        updates, opt_state = self.tx.update(total, state.opt_state, x)
        params = optax.apply_updates(moved, updates)
        new = State(state.step + 1, params, state.batch_stats, opt_state, errors if self.compressor else ())
        return new, Info(value, cosine(own, total), sent, crossed)

    def cross(self, key: Key[Array, ""], k: int, model: PyTree, state: State, batch: PyTree) -> tuple:
        """Both gradients of neighbour k by their weights, the new error memory of that edge, the bytes sent back."""
        _, _, grads = self.grad(model, state.batch_stats, batch, key)
        wire, used, error = send(jax.random.fold_in(key, k + 1), self.compressor, grads, state.memory, k + 1)
        here = weighted(self.comm, (1 - self.alpha) * self.form.weights[k], used)
        if not self.alpha:
            return [here], error, jnp.uint32(0)
        back = topology.inverse(self.form.sources[k])
        received = self.comm.permute(wire, back)
        received = self.compressor.decode(received, grads) if self.compressor else received
        there = weighted(self.comm, self.alpha * self.returned(back), received)
        return [here, there], error, self.comm.bytes(wire, back)

    def returned(self, back: tuple[int, ...]) -> Float[np.ndarray, " agents"]:
        """The weight at each agent of what comes back to it along `back`, 0 where it is its own."""
        return (self.weights - np.diag(self.form.diagonal))[np.arange(self.comm.agents), list(back)]


def refuse_statistics(batch_stats: PyTree) -> None:
    """Cross-gradients run a batch through a neighbour's network: running statistics would mix the two.

    Raises:
      ValueError: there are any.
    """
    if jax.tree.leaves(batch_stats):
        raise ValueError(
            "the network keeps running statistics, which passes through the neighbours' models would corrupt: build it "
            'with norm="evonorm" or norm="group".'
        )


def send(key, compressor, grads, memory, k):
    """(wire, what both ends use, new error memory)."""
    return compress.feedback(key, compressor, grads, memory[k]) if compressor else (grads, grads, ())
