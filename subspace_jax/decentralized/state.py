"""What every decentralized method carries from step to step, and the local part of a step.

A loss is `loss(params, batch_stats, batch, key) -> (scalar, new batch_stats)`: params and batch_stats are any pytrees,
the second {} where the network keeps no statistics; batch is one agent's.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core import checks, losses
from subspace_jax.core.turns import one_by_one
from subspace_jax.training.fit import likes_scan
from subspace_jax.typing import Array, Int, PyTree, Variables

Loop = Literal["vmap", "map"]


class State(NamedTuple):
    """Training state of one agent; arrays only, so that a checkpoint saves all of it.

    Attributes:
      step: steps taken.
      params: this agent's own.
      batch_stats: this agent's own, never exchanged unless a method says so.
      opt_state: of the local optimiser.
      memory: what else a method keeps: what compression lost so far, copies of the neighbours' models.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    memory: PyTree


class Info(NamedTuple):
    """Metrics of one step of one agent.

    Attributes:
      loss: on its own batch with its own parameters.
      cosine: between its own gradient and the direction it takes; 1 where a method leaves the gradient alone.
      bytes_model: parameters sent in this step, uint32.
      bytes_cross: gradients sent in this step, uint32.
    """

    loss: Array
    cosine: Array
    bytes_model: Array
    bytes_cross: Array


def optimizer(lr: float | optax.Schedule, *, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """SGD on the gradient that a method hands it: g += weight_decay x; v = momentum v + g; step g + momentum v.

    Raises:
      ValueError: a learning rate, a momentum or a decay that is negative or not finite.
    """
    check_rates(lr, momentum=momentum, weight_decay=weight_decay)
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    return optax.chain(*decay, optax.sgd(lr, momentum or None, nesterov=bool(momentum)))


def check_rates(lr: float | optax.Schedule, **rates: float) -> None:
    """Refuse rates of a step that are negative or not finite; a schedule is not asked.

    Raises:
      ValueError: names the rate.
    """
    for name, value in (rates if callable(lr) else rates | {"lr": lr}).items():
        checks.check_number(name, value, 0)


def start(variables: Variables, tx: optax.GradientTransformation, memory: PyTree = ()) -> State:
    """The state before the first step."""
    params = jax.tree.map(jnp.asarray, variables["params"])
    return State(jnp.int32(0), params, variables["batch_stats"], tx.init(params), memory)


def gradient(loss: Callable, loop: Loop = "vmap") -> Callable:
    """(params, batch_stats, batch, key) -> (loss, new batch_stats, gradient) of one agent.

    The gradient points to where the loss grows, of complex weights too (`losses.uphill`).
    Everything else in a step stays batched, whatever `loop` is, see `of_agents`.
    """

    def run(params, batch_stats, batch, key):
        (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(params, batch_stats, batch, key)
        return value, batch_stats, losses.uphill(grads)

    return of_agents(run, loop)


def of_agents(fn: Callable, loop: Loop = "vmap") -> Callable:
    """fn(params, ...) of one agent, whose `vmap` computes all agents of a device at once, or one after the other.

    One after the other with loop="map", and for convolutional networks on a CPU: see `core.turns.one_by_one`.
    """
    alone = one_by_one(fn)
    return lambda params, *rest: (fn if loop == "vmap" and likes_scan(params) else alone)(params, *rest)


@lru_cache(maxsize=64)  # one function object per network, and so one compilation
def classification(train_apply: Callable) -> Callable:
    """The loss of a classifier: mean cross-entropy in train mode over a batch (x, y).

    Args:
      train_apply: (variables, x, key) -> (logits, new batch_stats), as `nn.Model` has it.
    """

    def loss(params, batch_stats, batch, key):
        x, y = batch
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        return losses.mean(losses.softmax_cross_entropy(logits, y)), batch_stats

    return loss


def cosine(a: PyTree, b: PyTree) -> Array:
    """Cosine of two trees; 0 where one of them is zero, NaN where one holds a NaN."""
    product, lengths = optax.tree.vdot(a, b), optax.tree.norm(a) * optax.tree.norm(b)
    return jnp.where(lengths == 0, 0, product / jnp.where(lengths == 0, 1, lengths))  # NaN stays


def check_share(name: str, value: float) -> None:
    """Refuse a mixing weight outside [0, 1].

    Raises:
      ValueError: names it.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]; got {value}.")
