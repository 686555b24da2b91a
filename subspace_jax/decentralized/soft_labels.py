"""Soft labels of common samples that neighbours send each other: the message, its size, and how labels are merged.

All agents have the same samples in the same order. An agent gives a class distribution for some of them, labels
(samples, classes), and a mask (samples,) says which: a label of zeros and no label are different things. A merged label
is a distribution too. One message at a time is received and added, so that an agent never holds more than its own
labels, one neighbour's, and the sum.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import compress, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.typing import Array, Bool, Float, Int, Num, UInt8

Rule = Literal["mean", "owner", "hop"]


class Wire(NamedTuple):
    """What one agent sends a neighbour; arrays of fixed shape, of which `nbytes` travel.

    Attributes:
      mask: one bit a sample, whether it has a label, packed.
      rows: the labels that there are, in the order of the samples; the rest of the array is zero and is not sent.
      held: training samples of each class that the sender holds, for the rule "owner"; None for the others.
    """

    mask: UInt8[Array, " bytes"]
    rows: Float[Array, "samples classes"]
    held: Int[Array, " classes"] | None = None


def encode(
    labels: Float[Array, "samples classes"], mask: Bool[Array, " samples"], held: Num[Array, " classes"] | None = None
) -> Wire:
    """The message with the labels of the masked samples."""
    first = jnp.argsort(~mask, stable=True)
    rows = jnp.where(mask[first][:, None], labels[first], 0)
    return Wire(compress.pack(mask.astype(jnp.uint8), 1), rows, held)


def decode(wire: Wire) -> tuple[Float[Array, "samples classes"], Bool[Array, " samples"]]:
    """(labels, mask) of a message; zeros where there is no label."""
    mask = compress.unpack(wire.mask, 1, len(wire.rows)) == 1
    place = jnp.maximum(jnp.cumsum(mask) - 1, 0)
    return jnp.where(mask[:, None], wire.rows[place], 0), mask


def nbytes(wire: Wire) -> Array:
    """Bytes of a message, uint32: ceil(samples / 8) of mask, 4 classes a label (float32), and those of `held`.

    Labels are counted from the bits of the mask that is sent.
    """
    count = jax.lax.population_count(wire.mask).astype(jnp.uint32).sum(dtype=jnp.uint32)
    label = wire.rows.shape[1] * wire.rows.dtype.itemsize
    return np.uint32(compress.nbytes((wire.mask, wire.held))) + np.uint32(label) * count


def merger(comm: Comm, weights: Num[np.ndarray, "..."], rule: Rule = "mean") -> Callable:
    """(labels, mask, held) -> (merged labels, covered, bytes sent) of one agent, by one exchange with its neighbours.

    A sample is covered where the agent itself or a neighbour gives a label. Calling it again with the merged labels
    spreads labels by one more edge. The rules choose among the labels of a sample:

    mean: the mean of all of them.
    owner: the one whose giver holds most training samples of the label's largest class; of several the agent with the
      lowest number. Every agent learns its neighbours' class counts by this rule.
    hop: the agent's own where it has one, else the mean of its neighbours': the label that travelled least.

    Args:
      comm: the agents.
      weights: W, see `gossip.mixing`; agents with a weight above 0 are neighbours, in a stack at any time.
      rule: one of those above.

    Raises:
      ValueError: an unknown rule; weights that are not doubly stochastic, or of another number of agents.

    "mean" and "owner" are those of Ravikumar et al., TMLR 2024, in the paper and in the released code.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"labels are merged by one of {', '.join(get_args(Rule))}; got {rule!r}.")
    weights = topology.check_weights(weights, agents=comm.agents)
    form = topology.permutations(weights if weights.ndim == 2 else weights.mean(0))

    def merge(labels, mask, held):
        me = comm.index()
        wire = encode(labels, mask, held if rule == "owner" else None)
        found, sent = _add(_nothing(labels), labels, mask, _rank(rule, labels, held, me, comm, own=True)), jnp.uint32(0)
        for source, weight in zip(form.sources, form.weights, strict=True):
            sender, hears = jnp.asarray(source)[me], jnp.asarray(weight != 0)[me]
            received = comm.permute(wire, source)
            theirs, given = decode(received)
            found = _add(found, theirs, given & hears, _rank(rule, theirs, received.held, sender, comm, own=False))
            sent += jnp.where(sender != me, nbytes(wire), np.uint32(0))
        total, count, _ = found
        return total / jnp.maximum(count, 1)[:, None].astype(total.dtype), count > 0, sent

    return merge


def _rank(rule: Rule, labels: Array, held: Any, sender: Array, comm: Comm, *, own: bool) -> Array:
    """Which label of a sample counts: the one of highest rank, the mean of those of equal rank."""
    if rule == "owner":
        return held[labels.argmax(1)].astype(jnp.int32) * comm.agents + comm.agents - 1 - sender
    return jnp.full(len(labels), int(own and rule == "hop"), jnp.int32)


def _nothing(labels: Array) -> tuple[Array, Array, Array]:
    """Sum of labels, their number, and their rank, before the first one."""
    count = jnp.zeros(len(labels), jnp.int32)
    return jnp.zeros_like(labels), count, count - 1


def _add(found: tuple[Array, Array, Array], labels: Array, mask: Array, rank: Array) -> tuple[Array, Array, Array]:
    total, count, best = found
    above, equal = mask & (rank > best), mask & (rank == best)
    total = jnp.where(above[:, None], labels, total + jnp.where(equal[:, None], labels, 0))
    return total, jnp.where(above, 1, count + equal), jnp.where(above, rank, best)
