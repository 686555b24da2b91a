"""Which common samples look like an agent's own, and what it labels them: the step of IDKD between two trainings.

Scores are maximum softmax probabilities, labels the softmax itself. The threshold belongs to each agent: its detector
has seen its own classes alone.
"""

import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, exchange, metrics, roc, shares
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights
from subspace_jax.decentralized.soft_labels import Rule, merger
from subspace_jax.decentralized.state import State
from subspace_jax.decentralized.train import compiled
from subspace_jax.typing import Array, Bool, Float, Num

MISSED = 0.05  # share of its own held-out samples that an agent gives up for the threshold tpr95
Threshold = float | str


@checks.on_host
def cutoff(threshold: Threshold, inside: Num[np.ndarray, " n"], outside: Num[np.ndarray, " m"] | None = None) -> float:
    """The score from which on a sample counts as like an agent's own: the larger, the fewer are labelled.

    Args:
      threshold: "youden": where the share of own held-out samples at or above it exceeds that of unlike samples most
        (`roc.youden_threshold`; inf where the scores tell nothing); "tpr95": the largest score that 95 % of the own
        held-out samples reach; or a number in [0, 1] itself: 0 labels everything.
      inside: scores of held-out samples of the agent's own.
      outside: scores of samples that are unlike them, for "youden".

    Raises:
      ValueError: another name, a number outside [0, 1], no scores where they are needed, or scores that are not finite.
    """
    if not isinstance(threshold, str):
        if not 0 <= threshold <= 1:
            raise ValueError(f"a threshold of probabilities lies in [0, 1]; got {threshold}.")
        return float(threshold)
    if threshold not in ("youden", "tpr95"):
        raise ValueError(f"threshold is youden, tpr95 or a number in [0, 1]; got {threshold!r}.")
    if not len(inside):
        raise ValueError(f"the threshold {threshold} is measured on held-out samples of each agent; there are none.")
    if threshold == "tpr95":
        checks.check_finite("scores", inside, remedy="a model diverged")
        return float(np.sort(inside)[shares.at_most(len(inside), MISSED)])
    if outside is None or not len(outside):
        raise ValueError(
            "the threshold youden also takes samples that are unlike the agents' own; give them, or tpr95."
        )
    positive = np.arange(len(inside) + len(outside)) < len(inside)
    return roc.youden_threshold(roc.curve(np.concatenate([inside, outside]), positive))


class Labelled(NamedTuple):
    """What one exchange of labels did, of all agents, in NumPy.

    Attributes:
      threshold: of each agent, (agents,); NaN where `keep` was given.
      kept: common samples that an agent itself gave a label, (agents, samples).
      covered: those for which it has a label after the exchange, (agents, samples).
      sent: bytes that it sent, (agents,).
    """

    threshold: Float[np.ndarray, " agents"]
    kept: Bool[np.ndarray, "agents samples"]
    covered: Bool[np.ndarray, "agents samples"]
    sent: Num[np.ndarray, " agents"]


class Homogenizer(NamedTuple):
    """The two ways to get labels, each between two parts of the training.

    Attributes:
      label: (state, common, held, inside=None, outside=None, *, keep=None) -> (state, Labelled). All agents predict the
        common samples, keep what reaches their threshold, and exchange. `held` (agents, classes): training samples of
        each class; `inside` (agents, n, ...): held-out samples of each agent; `outside` (m, ...): unlike samples, for
        the threshold "youden". `keep` (samples,) or (agents, samples) replaces the thresholds by a choice made outside.
      propagate: (state, held) -> (state, Labelled): without any prediction the labels that the agents have are sent one
        edge further.
    """

    label: Callable
    propagate: Callable


def homogenizer(
    apply: Callable,
    *,
    comm: Comm,
    runner: Callable,
    weights: Weights,
    threshold: Threshold = "youden",
    rule: Rule = "mean",
    chunk: int = 2000,
) -> Homogenizer:
    """How agents label the common samples, see `Homogenizer`; nothing of it is random.

    Warns of agents whose threshold keeps no sample, or all of them: the training goes on with what there is.

    Args:
      apply: (variables, x) -> logits at inference, of samples as they are stored.
      comm: the agents.
      runner: as in `train.trainer`.
      weights: W, see `gossip.mixing`.
      threshold: see `cutoff`.
      rule: how labels of a sample are merged, see `soft_labels.merger`.
      chunk: common samples predicted at a time.

    Raises:
      ValueError: what `cutoff` and `soft_labels.merger` refuse. `label` raises it for common samples of another shape
        than the agents' own, of another number than `idkd.idkd` was told, that are not finite, or that are not in the
        same order in all processes, and for a network of another number of classes.
    """
    cutoff(threshold, np.ones(1), np.zeros(1))

    def predict(variables, x):
        logits = apply(variables, x)
        wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return jax.nn.softmax(wide).astype(float), metrics.msp(wide)  # labels of the dtype that a memory has

    predict_common, predict_own = (compiled(runner, runner(predict, comm, shared=shared)) for shared in ((1,), ()))
    merge = compiled(runner, runner(merger(comm, weights, rule), comm))

    def exchanged(state, labels, kept, held, limits):
        held = exchange.place(np.asarray(held, np.int32), comm)
        labels, covered, sent = merge(labels, exchange.place(kept, comm), held)
        memory = state.memory._replace(labels=labels, covered=covered)
        covered, sent = exchange.fetch((covered, sent))
        return state._replace(memory=memory), Labelled(limits, kept, covered, sent)

    def label(state, common, held, inside=None, outside=None, *, keep=None):
        _check(apply, state, comm, common, inside, outside)
        state = exchange.place(state, comm)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        found = [predict_common(variables, common[i : i + chunk]) for i in range(0, len(common), chunk)]
        labels, scores = (_joined(*parts) for parts in zip(*found, strict=True))
        if keep is not None:
            kept = np.broadcast_to(np.asarray(keep, bool), (comm.agents, len(common)))
            return exchanged(state, labels, kept, held, np.full(comm.agents, np.nan))
        scores = exchange.fetch(scores)
        own, other = (np.zeros((comm.agents, 0)) for _ in range(2))
        if inside is not None:
            own = exchange.fetch(predict_own(variables, exchange.place(inside, comm))[1])
        if outside is not None:
            other = exchange.fetch(predict_common(variables, outside)[1])
        limits = np.array([cutoff(threshold, *pair) for pair in zip(own, other, strict=True)])
        kept = scores >= limits[:, None]
        _warn(kept, limits)
        return exchanged(state, labels, kept, held, limits)

    def propagate(state, held):
        state = exchange.place(state, comm)
        kept = exchange.fetch(state.memory.covered)
        return exchanged(state, state.memory.labels, kept, held, np.full(comm.agents, np.nan))

    return Homogenizer(label, propagate)


@jax.jit
def _joined(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=1)


def _check(apply: Callable, state: State, comm: Comm, common: Any, inside: Any, outside: Any) -> None:
    """Refuse common samples that do not fit the agents' own, their network or their memory."""
    for name, x, lead in (("held-out", inside, 2), ("unlike", outside, 1)):
        if x is not None and np.shape(x)[lead:] != np.shape(common)[1:]:
            raise ValueError(
                f"common samples are {np.shape(common)[1:]}, {name} samples of the agents {np.shape(x)[lead:]}: bring "
                "all to one size and number of channels."
            )
    samples, classes = state.memory.labels.shape[1:]
    if len(common) != samples:
        raise ValueError(f"the agents have room for labels of {samples} common samples; got {len(common)}.")
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
    variables = {"params": one.params, "batch_stats": one.batch_stats}
    logits = jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((1, *common.shape[1:]), common.dtype))
    if logits.shape[1:] != (classes,):
        raise ValueError(f"labels have {classes} classes, the network gives {logits.shape[1:]} numbers a sample.")
    checks.check_finite("common samples", common)
    own = np.full(comm.agents, zlib.crc32(np.ascontiguousarray(common).data), np.uint32)
    check_order(exchange.fetch(exchange.place(own, comm)))


def check_order(digests: Num[np.ndarray, " agents"]) -> None:
    """Refuse common samples that are not the same, in the same order, at all agents, by a checksum of each.

    Raises:
      ValueError: names the first agent that differs from agent 0.
    """
    for agent in np.flatnonzero(digests != digests[0])[:1]:
        raise ValueError(
            f"agent {agent} has other common samples than agent 0, or another order of them: labels would go to the "
            "wrong samples; read the same file everywhere."
        )


def _warn(kept: Bool[np.ndarray, "agents samples"], limits: Float[np.ndarray, " agents"]) -> None:
    for which, said in (
        (~kept.any(1), "keeps no common sample: it gives no labels"),
        (kept.all(1) & (limits > 0), "keeps every common sample: nothing is detected"),
    ):
        if which.any():
            agents = ", ".join(map(str, np.flatnonzero(which)))
            warnings.warn(f"the threshold of agent {agents} {said}; the training goes on.", stacklevel=4)
