"""DeepSqueeze: agents send their compressed models, and add what was lost to what they send next."""

from collections.abc import Callable
from functools import partial

import optax

from subspace_jax.core import compress
from subspace_jax.core.compress import Compressor
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, adapt_then_combine, mixing
from subspace_jax.decentralized.state import Loop, check_share
from subspace_jax.typing import Algorithm, Array, Key, PyTree


def deep_squeeze(
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
    """An SGD step at x_i, then one `deep_squeeze_round` of the models after it (adapt, then combine).

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, see `gossip.mixing`.
      lr: learning rate, or an optax schedule of the step.
      compressor: of the models; the method keeps its error memory.
      gamma: consensus rate in [0, 1]: the less a compressor keeps, the smaller; about .1 for 10 %, .01 for 1 %, 1 for
        everything.
      momentum: of the local Nesterov buffer.
      weight_decay: L2 penalty.
      loop: see `state.gradient`.

    Raises:
      ValueError: gamma outside [0, 1]; weights as in `gossip.mixing`.

    Tang et al., "DeepSqueeze: Decentralization meets error-compensated compression", arXiv 1907.07346.
    """
    check_share("gamma", gamma)
    exchange = partial(deep_squeeze_round, mix=mixing(comm, weights), compressor=compressor, gamma=gamma)
    return adapt_then_combine(
        loss, optax.tree.zeros_like, exchange, lr=lr, momentum=momentum, weight_decay=weight_decay, loop=loop
    )


def deep_squeeze_round(
    key: Key[Array, ""], t: Array, x: PyTree, memory: PyTree, *, mix: Callable, compressor: Compressor, gamma: float
) -> tuple[PyTree, PyTree, Array]:
    """One exchange: c_i = C(x_i + e_i); e_i <- x_i + e_i - c_i; x_i <- x_i + gamma (sum_j w_ij c_j - c_i).

    With the identity and gamma = 1 that is W x. The mean over agents stays whatever C is, but the distance from it
    does not fall to zero: the compression error scales with the model, not with its difference from the others.

    Args:
      key: of this agent's message.
      t: steps taken.
      x: any tree.
      memory: e_i of the last round, of the same tree; zeros at the start.
      mix: from `gossip.mixing`.
      compressor: C.
      gamma: consensus rate.

    Returns:
      (x, memory, bytes sent).
    """
    wire, own, error = compress.feedback(key, compressor, x, memory)
    mixed, sent = mix(t, own, wire, lambda wire: compressor.decode(wire, x))
    return optax.tree.add_scale(x, gamma, optax.tree.sub(mixed, own)), error, sent
