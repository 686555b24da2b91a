"""Neighborhood Gradient Clustering: gradients of one's own data at the neighbours' models, and of theirs at one's own.

Aketi, Kodge and Roy, arXiv 2209.14390. Network and data of an edge differ, so g_ij has two readings: "model-variant",
my data and the model of neighbour j, which I compute from the model he sent anyway; "data-variant", his data and my
model, which he computes and sends back. The weighted mean of both repairs the local gradient.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import compress, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, toward, weighted
from subspace_jax.decentralized.state import Info, Loop, State, check_share, cosine, gradient, optimizer, start
from subspace_jax.typing import Algorithm, PyTree


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
    """NGC; with a compressor CompNGC.

    g~_i = w_ii g_ii + sum_j w_ij ((1 - alpha) grad f(d_i; x_j) + alpha grad f(d_j; x_i)), then the local SGD step and
    x_i <- x_i - lr u_i + gamma (sum_j w_ij x_j - x_i). alpha = 0 sends nothing but the models; alpha > 0 sends as many
    bytes of gradients again, unless they are compressed. Per step 1 + degree backward passes.

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
    form, grad = topology.permutations(weights), gradient(loss, loop)
    backs = [topology.inverse(source) for source in form.sources]
    returned = [(weights - np.diag(form.diagonal))[np.arange(comm.agents), list(back)] for back in backs]
    tx = optimizer(lr, momentum=momentum, weight_decay=weight_decay)

    def init(key, variables):
        refuse_statistics(variables["batch_stats"])
        blank = jax.tree.map(jnp.zeros_like, variables["params"])
        return start(variables, tx, [blank] * (1 + len(form.sources)) if compressor else ())

    def step(key, state, batch):
        x, sent, crossed = state.params, jnp.uint32(0), jnp.uint32(0)
        models = [comm.permute(x, source) for source in form.sources]
        mixed = weighted(comm, form.diagonal, x)
        for model, source, weight in zip(models, form.sources, form.weights, strict=True):
            mixed = optax.tree.add(mixed, weighted(comm, weight, model))
            sent += comm.bytes(x, source)
        moved = toward(x, mixed, gamma)

        value, _, own = grad(x if self_grad_at == "sent" else moved, state.batch_stats, batch, key)
        wire, used, error = send(jax.random.fold_in(key, 0), compressor, own, state.memory, 0)
        total, errors = weighted(comm, form.diagonal, used), [error]
        for k, (model, weight) in enumerate(zip(models, form.weights, strict=True), start=1):
            _, _, cross = grad(model, state.batch_stats, batch, key)
            wire, used, error = send(jax.random.fold_in(key, k), compressor, cross, state.memory, k)
            total = optax.tree.add(total, weighted(comm, (1 - alpha) * weight, used))
            errors.append(error)
            if alpha:
                received = comm.permute(wire, backs[k - 1])
                received = compressor.decode(received, cross) if compressor else received
                total = optax.tree.add(total, weighted(comm, alpha * returned[k - 1], received))
                crossed += comm.bytes(wire, backs[k - 1])
        updates, opt_state = tx.update(total, state.opt_state, x)
        params = optax.apply_updates(moved, updates)
        new = State(state.step + 1, params, state.batch_stats, opt_state, errors if compressor else ())
        return new, Info(value, cosine(own, total), sent, crossed)

    return Algorithm(init, step)


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
