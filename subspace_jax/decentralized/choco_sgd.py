"""CHOCO-SGD: agents send compressed changes of their models, from which each follows the models of its neighbours."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from subspace_jax.core.compress import Compressor
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, adapt_then_combine, mixing
from subspace_jax.decentralized.state import Loop, check_share
from subspace_jax.typing import Algorithm, Array, Key, PyTree


class Copies(NamedTuple):
    """The memory of an agent.

    Attributes:
      own: x^_i, what the neighbours know of this agent.
      mixed: S_i = sum_j w_ij x^_j, what this agent knows of its neighbourhood.
    """

    own: PyTree
    mixed: PyTree


def choco_sgd(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    compressor: Compressor,
    gamma: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    loop: Loop = "vmap",
) -> Algorithm:
    """An SGD step at x_i, then one `choco_round` of the models after it (adapt, then combine).

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, (agents, agents), doubly stochastic.
      lr: learning rate, or an optax schedule of the step.
      compressor: of the differences; contractive ones such as `compress.top_k`, or `compress.qsgd(..., biased=True)`.
      gamma: consensus rate in [0, 1]: the less a compressor keeps, the smaller; about .1 for 10 %, .01 for 1 %, 1 for
        everything.
      momentum: of the local Nesterov buffer.
      weight_decay: L2 penalty.
      loop: see `state.gradient`.

    Raises:
      ValueError: gamma outside [0, 1]; weights as in `gossip.mixing`, or that change with time.

    Koloskova, Stich and Jaggi, "Decentralized stochastic optimization and gossip algorithms with compressed
    communication", ICML 2019.
    """
    check_share("gamma", gamma)
    exchange = partial(choco_round, mix=choco_mixing(comm, weights), compressor=compressor, gamma=gamma)
    return adapt_then_combine(
        loss, choco_start, exchange, lr=lr, momentum=momentum, weight_decay=weight_decay, loop=loop
    )


def choco_mixing(comm: Comm, weights: Weights) -> Callable:
    """`gossip.mixing` for `choco_round`.

    Raises:
      ValueError: weights as in `gossip.mixing`; weights that change with time, since S_i is a running sum with one W.
    """
    if weights.ndim == 3 and len(weights) > 1:
        raise ValueError(
            f"CHOCO takes one mixing matrix for all steps; got {len(weights)}: use DeepSqueeze on a graph that changes."
        )
    return mixing(comm, weights)


def choco_start(x: PyTree) -> Copies:
    """The memory before the first round: all copies are zero."""
    return Copies(optax.tree.zeros_like(x), optax.tree.zeros_like(x))


def choco_round(
    key: Key[Array, ""], t: Array, x: PyTree, memory: Copies, *, mix: Callable, compressor: Compressor, gamma: float
) -> tuple[PyTree, Copies, Array]:
    """One exchange: q_i = C(x_i - x^_i); x^_i += q_i; S_i += sum_j w_ij q_j; x_i <- x_i + gamma (S_i - x^_i).

    With the identity and gamma = 1 that is W x. The mean over agents stays whatever C is, and a contractive C with a
    small gamma brings all to it at a linear rate, without a floor.

    Args:
      key: of this agent's message.
      t: steps taken.
      x: any tree.
      memory: of the last round, or `choco_start(x)`.
      mix: from `choco_mixing`.
      compressor: C.
      gamma: consensus rate.

    Returns:
      (x, memory, bytes sent).
    """
    wire = compressor.encode(key, optax.tree.sub(x, memory.own))
    change = compressor.decode(wire, x)
    heard, sent = mix(t, change, wire, lambda wire: compressor.decode(wire, x))
    own, mixed = optax.tree.add(memory.own, change), optax.tree.add(memory.mixed, heard)
    return optax.tree.add_scale(x, gamma, optax.tree.sub(mixed, own)), Copies(own, mixed), sent
