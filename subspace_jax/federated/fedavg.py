"""Federated averaging: every client trains alone for some steps and uploads by how much its weights moved.

A loss is `loss(params, x, y) -> (batch,)`, one value per sample. One round of a client with parts of equal size:

  1. w_local <- w - lr grad mean(loss) on each of its batches in turn; the update is U = w - w_local;
  2. what is uploaded is decoded to U^, which may differ from U; with error feedback the client remembers U - U^;
  3. w <- w - server_lr mean over clients of U^, and everybody downloads w.

Of one batch a round this is FedSGD. The server is simulated at every client: all hold the same w, and a message is
decoded once, for the server and for the sender's memory, so that both use the same bits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, compress, losses
from subspace_jax.core.compress import Compressor
from subspace_jax.core.exchange import Comm
from subspace_jax.core.keys import as_key
from subspace_jax.core.turns import one_by_one
from subspace_jax.typing import Algorithm, ApplyFn, Array, Bool, Float, Int, Key, PyTree, Variables

Uplink = Callable[[PyTree], Compressor]  # the weights that server and clients share -> how an update is sent


class State(NamedTuple):
    """What a client holds between two rounds; arrays only.

    Attributes:
      round: rounds taken.
      params: the server's weights, the same at every client.
      memory: with error feedback, what the uplink lost so far, a tree as `params`; () without.
    """

    round: Int[Array, ""]
    params: PyTree
    memory: PyTree


class Info(NamedTuple):
    """Metrics of one round of one client.

    Attributes:
      loss: mean over its local steps, each before the step.
      cosine: between what it wanted to send and what was decoded; 0 where one of them is zero.
      whole: whether it fell back to the full update.
      bytes_up: of the arrays uploaded, uint32.
      bytes_down: of the weights downloaded, uint32.
    """

    loss: Array
    cosine: Array
    whole: Bool[Array, ""]
    bytes_up: Array
    bytes_down: Array


def fedavg(
    loss: Callable,
    *,
    comm: Comm,
    lr: float,
    server_lr: float = 1.0,
    uplink: Uplink | None = None,
    error_feedback: bool = False,
    least_cosine: float | None = None,
    loop: str = "vmap",
) -> Algorithm:
    """FedAvg; with an `uplink` its compressed form (McMahan et al., AISTATS 2017, arXiv 1602.05629).

    `step(key, state, batch)` takes the batches of one client, (x, y) with leaves (steps, batch, ...). The same key may
    go to all clients: each folds its own number into it.

    Args:
      loss: loss(params, x, y) -> (batch,).
      comm: the clients.
      lr: of the local steps, plain SGD.
      server_lr: factor of the mean update.
      uplink: weights -> compressor of the update; the update itself is sent when None. `every` makes one of a
        compressor that needs no weights.
      error_feedback: add what the uplink lost before to the next update (`compress.feedback`).
      least_cosine: send the full update where the cosine between it and what was decoded is below this or NaN; its
        bytes then count in place of the message's. Never when None.
      loop: "map" computes the clients of a device one after the other: convolutions whose weights differ between
        clients gain nothing from batching.

    Raises:
      ValueError: a rate that is not positive; a least cosine outside [-1, 1]; at `init`, a network with running
        statistics.
    """
    for name, rate in (("lr", lr), ("server_lr", server_lr)):
        if not 0 < rate < np.inf:
            raise ValueError(f"{name} is a step size, above 0 and finite; got {rate}.")
    if least_cosine is not None and not -1 <= least_cosine <= 1:
        raise ValueError(f"least_cosine is a cosine, in [-1, 1]; got {least_cosine}.")
    if loop not in ("vmap", "map"):
        raise ValueError(f'loop is "vmap" or "map"; got {loop!r}.')
    uplink = uplink or every(compress.identity())
    method = FedAvg(loss, comm, lr, server_lr, uplink, error_feedback, least_cosine, loop == "map")
    return Algorithm(method.init, method.step)


class FedAvg(NamedTuple):
    """The settings of `fedavg`; `init` and `step` are the algorithm.

    Attributes:
      loss: per sample.
      comm: the clients.
      lr: of the local steps.
      server_lr: of the server.
      uplink: weights -> compressor.
      error_feedback: whether there is a memory.
      least_cosine: below it the full update is sent; None: never.
      in_turn: whether the clients of a device are computed one after the other.
    """

    loss: Callable
    comm: Comm
    lr: float
    server_lr: float
    uplink: Uplink
    error_feedback: bool
    least_cosine: float | None
    in_turn: bool

    def init(self, key: Key[Array, ""] | None, variables: Variables) -> State:
        """The state before the first round, from {"params": ..., "batch_stats": {}}."""
        refuse_statistics(variables)
        params = jax.tree.map(jnp.asarray, variables["params"])
        return State(jnp.int32(0), params, jax.tree.map(jnp.zeros_like, params) if self.error_feedback else ())

    def step(self, key: Key[Array, ""], state: State, batch: PyTree) -> tuple[State, Info]:
        """One round of this client."""
        key = jax.random.fold_in(as_key(key), self.comm.index())
        work = one_by_one(self.work) if self.in_turn else self.work
        sent, memory, loss, cosine, whole, size = work(jax.random.key_data(key), state, batch)
        mean = self.comm.mean(sent)
        params = jax.tree.map(lambda w, u: w - self.server_lr * u, state.params, mean)
        down = jnp.uint32(compress.nbytes(params))
        return State(state.round + 1, params, memory), Info(loss, cosine, whole, size, down)

    def work(self, key: Array, state: State, batch: PyTree) -> tuple:
        """What this client computes alone: (decoded update, memory, loss, cosine, whether it is whole, bytes)."""
        update, loss = local_update(self.loss, state.params, batch, lr=self.lr)
        wanted = jax.tree.map(jnp.add, update, state.memory) if self.error_feedback else update
        compressor, blank = self.uplink(state.params), jax.tree.map(jnp.zeros_like, update)
        wire, sent, error = compress.feedback(jax.random.wrap_key_data(key), compressor, wanted, blank)
        cosine, size, whole = 1 - distance(wanted, sent), jnp.uint32(compress.nbytes(wire)), jnp.bool_(False)
        if self.least_cosine is not None:
            whole = ~(cosine >= self.least_cosine)
            sent = jax.tree.map(lambda full, part: jnp.where(whole, full, part), wanted, sent)
            error = jax.tree.map(lambda lost: jnp.where(whole, 0, lost), error)
            size = jnp.where(whole, jnp.uint32(compress.nbytes(update)), size)
        return sent, error if self.error_feedback else (), loss, cosine, whole, size


def every(compressor: Compressor) -> Uplink:
    """The uplink by a compressor that needs no weights."""
    return lambda params: compressor


def local_update(
    loss: Callable, params: PyTree, batch: PyTree, *, lr: float | Array
) -> tuple[PyTree, Float[Array, ""]]:
    """(w - w_local, mean loss) of plain SGD, one step on each of the batches: (x, y) with leaves (steps, batch, ...).

    One step gives lr times the gradient. The update points to where the loss grows: a server subtracts it.

    Raises:
      ValueError: a leaf of the batch without the axes of steps and samples.
    """
    for leaf in jax.tree.leaves(batch):
        checks.check_axes("a leaf of the batch (steps, samples, ...)", leaf, 2)
    if len(jax.tree.leaves(batch)[0]) == 1:  # no loop: XLA on CPU is slow at convolution gradients in one
        value, grads = _mean_gradient(loss, params, jax.tree.map(lambda leaf: leaf[0], batch))
        return jax.tree.map(lambda g: lr * g, grads), value

    def one(w, samples):
        value, grads = _mean_gradient(loss, w, samples)
        return jax.tree.map(lambda a, g: a - lr * g, w, grads), value

    moved, values = jax.lax.scan(one, params, batch)
    return jax.tree.map(jnp.subtract, params, moved), values.mean()


@functools.lru_cache(maxsize=64)  # one function object a network, and so one compilation
def classification(apply: ApplyFn) -> Callable:
    """Cross-entropy of a classifier: loss(params, x, y) -> (batch,), y labels (batch,) or soft ones (batch, classes).

    A label outside [0, classes) is refused where its value is known, and gives NaN under `jit`.

    Args:
      apply: (variables, x) -> logits, of a network without running statistics, as `nn.Model` has it.
    """

    def loss(params, x, y):
        logits = apply({"params": params, "batch_stats": {}}, x)
        one_hot = jnp.eye(logits.shape[-1], dtype=logits.dtype)
        return losses.soft_cross_entropy(logits, y if y.ndim == 2 else losses.class_rows(one_hot, y))

    return loss


@checks.on_host
def draw(key: Key[Array, ""], samples: int, *, steps: int, batch: int) -> Int[np.ndarray, "steps batch"]:
    """Positions of one client's samples for its local steps: a permutation, drawn again when it is used up.

    Raises:
      ValueError: numbers below 1.
    """
    if min(samples, steps, batch) < 1:
        raise ValueError(f"samples, steps and batch are at least 1; got {samples}, {steps} and {batch}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
    passes = [rng.permutation(samples) for _ in range(-(-steps * batch // samples))]
    return np.concatenate(passes)[: steps * batch].reshape(steps, batch)


def distance(update: PyTree, other: PyTree, *, layerwise: bool = False) -> Float[Array, ""]:
    """1 - cos of two trees, at least 0: all leaves as one vector, or the mean over the leaves; 1 where one is zero."""
    pairs = list(zip(jax.tree.leaves(update), jax.tree.leaves(other), strict=True))
    groups = [[pair] for pair in pairs] if layerwise else [pairs]
    cosines = []
    for group in groups:
        product = sum(jnp.vdot(a, b) for a, b in group)
        squares = sum(jnp.vdot(a, a) for a, _ in group), sum(jnp.vdot(b, b) for _, b in group)
        some = (squares[0] != 0) & (squares[1] != 0)  # a NaN is no zero, and stays
        lengths = [jnp.sqrt(jnp.where(some, square, 1)) for square in squares]  # the root has no slope at zero
        cosines.append(jnp.where(some, product / (lengths[0] * lengths[1]), 0))
    return jnp.maximum(1 - jnp.stack(cosines).mean(), 0)


def refuse_statistics(variables: Any) -> None:
    """Refuse running statistics: the server averages weights, and cannot repeat what a client's batches did to them.

    Raises:
      ValueError: there are any.
    """
    if jax.tree.leaves(variables["batch_stats"]):
        raise ValueError(
            "the network keeps running statistics, which a server cannot reproduce from an update: build it with "
            'norm="evonorm" or norm="group".'
        )


def _mean_gradient(loss: Callable, params: PyTree, samples: PyTree) -> tuple[Float[Array, ""], PyTree]:
    return jax.value_and_grad(lambda w: losses.mean(loss(w, *samples)))(params)
