"""Messages in few bits: decentralized SGD on float parameters, which are sent to neighbours as packed codes only.

Aketi, Kodge and Roy, "Low precision decentralized distributed training over IID and non-IID data", Neural Networks
155 (2022), arXiv 2111.09389. Forward and backward in few bits are the network's own: `nn.layers`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core import compress
from subspace_jax.core.compress import Compressor
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.choco_sgd import choco_mixing, choco_round, choco_start
from subspace_jax.decentralized.deep_squeeze import deep_squeeze_round
from subspace_jax.decentralized.gossip import Weights, mixing
from subspace_jax.decentralized.state import Info, Loop, State, check_share, gradient, optimizer, start
from subspace_jax.typing import Algorithm, Array, Key, PyTree

EIGHT_BITS = compress.k_bit(8)
Method = Literal["none", "deep_squeeze", "choco"]


def low_precision(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    gamma: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    compressor: Compressor = EIGHT_BITS,
    method: Method = "none",
    loop: Loop = "vmap",
) -> Algorithm:
    """A Nesterov SGD step at x_i, then a round of `gossip_only` of the model after it (adapt, then combine).

    Args:
      loss: see `decentralized.state`; of a network that computes in few bits, or in float.
      comm: the agents.
      weights: W, see `gossip.mixing`.
      lr: learning rate, or an optax schedule of the step.
      gamma: see `gossip_only`.
      momentum: of the local Nesterov buffer.
      weight_decay: L2 penalty.
      compressor: see `gossip_only`.
      method: see `gossip_only`.
      loop: see `state.gradient`.

    Raises:
      ValueError: as `gossip_only`.
    """
    grad, tx = gradient(loss, loop), optimizer(lr, momentum=momentum, weight_decay=weight_decay)
    gossip = gossip_only(comm=comm, weights=weights, gamma=gamma, compressor=compressor, method=method)

    def init(key, variables):
        return start(variables, tx, gossip.init(key, variables).memory)

    def step(key, state, batch):
        local, message = jax.random.split(key)
        value, batch_stats, grads = grad(state.params, state.batch_stats, batch, local)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        half = State(state.step, optax.apply_updates(state.params, updates), batch_stats, opt_state, state.memory)
        new, info = gossip.step(message, half, batch)
        return new, info._replace(loss=value)

    return Algorithm(init, step)


def gossip_only(
    *,
    comm: Comm,
    weights: Weights,
    gamma: float = 1.0,
    compressor: Compressor = EIGHT_BITS,
    method: Method = "none",
) -> Algorithm:
    """Rounds of compressed exchange without SGD; the authors end with 50, which leave every agent near the mean.

    Parameters AND batch_stats are mixed, as one tree: the ranges observed by quantized layers belong to the weights
    they were measured with, and are averaged too. Takes over the state of `low_precision` with the same method and
    compressor, and leaves its optimiser's state as it is; the batch is ignored and the loss is NaN.

    Args:
      comm: the agents.
      weights: W, see `gossip.mixing`; with "choco" one matrix.
      gamma: averaging rate in [0, 1]; 1 in 8 bits, .01 where 1 % of the entries is sent.
      compressor: of what travels, per leaf: `compress.k_bit(8)` sends a byte an entry, and 8 bytes a leaf.
      method: what is done about the compression error: "none" ignores it (`compressed_round`), "deep_squeeze" adds it
        to the next message (`deep_squeeze_round`), "choco" sends differences (`choco_round`).

    Raises:
      ValueError: gamma outside [0, 1]; an unknown method; weights as in `gossip.mixing`.
    """
    check_share("gamma", gamma)
    if method not in ROUNDS:
        raise ValueError(f"method is one of {', '.join(ROUNDS)}; got {method!r}.")
    mixing_of, begin, exchange = ROUNDS[method]
    mix = mixing_of(comm, weights)

    def init(key, variables):
        return start(variables, optax.identity(), begin((variables["params"], variables["batch_stats"])))

    def step(key, state, batch):
        x = (state.params, state.batch_stats)
        (params, batch_stats), memory, sent = exchange(
            key, state.step, x, state.memory, mix=mix, compressor=compressor, gamma=gamma
        )
        new = State(state.step + 1, params, batch_stats, state.opt_state, memory)
        return new, Info(jnp.float32(jnp.nan), jnp.float32(1), sent, jnp.uint32(0))

    return Algorithm(init, step)


def compressed_round(
    key: Key[Array, ""], t: Array, x: PyTree, memory: tuple, *, mix: Callable, compressor: Compressor, gamma: float
) -> tuple[PyTree, tuple, Array]:
    """One exchange without memory: x_i <- x_i + gamma (sum_j w_ij C(x_j) - C(x_i)).

    The mean over agents stays whatever C is; how close they come to it depends on the error of C.

    Args:
      key: of this agent's message.
      t: steps taken.
      x: any tree.
      memory: ().
      mix: from `gossip.mixing`.
      compressor: C.
      gamma: averaging rate.

    Returns:
      (x, (), bytes sent).
    """
    wire = compressor.encode(key, x)
    own = compressor.decode(wire, x)
    mixed, sent = mix(t, own, wire, lambda wire: compressor.decode(wire, x))
    return optax.tree.add_scale(x, gamma, optax.tree.sub(mixed, own)), memory, sent


ROUNDS = {  # by method: its mixing, the memory before the first round, the round
    "none": (mixing, lambda x: (), compressed_round),
    "deep_squeeze": (mixing, optax.tree.zeros_like, deep_squeeze_round),
    "choco": (choco_mixing, choco_start, choco_round),
}
