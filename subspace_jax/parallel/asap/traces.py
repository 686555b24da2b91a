"""What happened when in a run, and whether its policy kept its promises."""

from typing import NamedTuple

import numpy as np

from subspace_jax.core.topology.mixing import square
from subspace_jax.parallel.asap.policies import Numbers, Policy
from subspace_jax.typing import Float, Int

KINDS = "start", "end", "send", "read", "fold"


class Trace(NamedTuple):
    """Events of all workers, ordered by time.

    Attributes:
      time: seconds since the start.
      worker: whose event it is.
      kind: its place in `KINDS`: a computation starts or ends, a message is sent or read, the messages are folded.
      iteration: of the worker, from 1.
      peer: the other end of a message, else -1.
      version: the iteration in which a message was computed, else -1.
    """

    time: Float[np.ndarray, " events"]
    worker: Int[np.ndarray, " events"]
    kind: Int[np.ndarray, " events"]
    iteration: Int[np.ndarray, " events"]
    peer: Int[np.ndarray, " events"]
    version: Int[np.ndarray, " events"]

    def of(self, kind: str) -> "Trace":
        """The events of one kind."""
        chosen = self.kind == KINDS.index(kind)
        return Trace(*(column[chosen] for column in self))


class Run(NamedTuple):
    """A run that has ended.

    Attributes:
      trace: what happened.
      models: (N, ...), the last of every worker; None where times alone were computed.
      seconds: until the last worker had ended.
      observed: what `observe` returned in a simulation, in order.
    """

    trace: Trace
    models: np.ndarray | None
    seconds: float
    observed: list


def gathered(events: list[list[tuple]]) -> Trace:
    """The trace of all workers' events."""
    rows = [(*row[:2], worker, *row[2:]) for worker, own in enumerate(events) for row in own]
    time, kind, worker, iteration, peer, version = zip(*rows, strict=True) if rows else ((),) * 6
    order = np.argsort(np.array(time, float), kind="stable")
    kinds = np.array([KINDS.index(name) for name in kind], int)
    columns = (np.array(column, int)[order] for column in (worker, kinds, iteration, peer, version))
    return Trace(np.array(time, float)[order], *columns)


def when(trace: Trace, kind: str, workers: int) -> Float[np.ndarray, "iterations n"]:
    """Times of an event by iteration (the first row is iteration 1) and worker; NaN where it did not happen.

    Raises:
      ValueError: an event that happened twice.
    """
    own = trace.of(kind)
    table = np.full((trace.iteration.max(initial=0), workers), np.nan)
    table[own.iteration - 1, own.worker] = own.time
    if np.isfinite(table).sum() != len(own.time):
        raise ValueError(f"the trace is broken: a worker has two events {kind!r} of one iteration.")
    return table


def staleness(trace: Trace) -> Int[np.ndarray, " reads"]:
    """Iterations by which each message that was read lags behind its reader; below 0 where the sender is ahead."""
    reads = trace.of("read")
    return reads.iteration - reads.version


def check_trace(trace: Trace, weights: Numbers, *, policy: Policy) -> None:
    """Check of a run, finished or cut off, what its policy promises.

    - Every worker computes, sends, reads and folds its iterations one after the other; nothing is read before it is
      sent.
    - exact: a fold reads the message of its own iteration from each neighbour, exactly once; workers at distance d are
      never more than d iterations apart.
    - acks: no message is overwritten before it is read.
    - barrier: nobody folds before everybody has computed.
    - lead: nobody starts further ahead of the slowest, and nothing older is read.
    - otherwise: what is read of a neighbour never gets older.

    Args:
      trace: of the run.
      weights: W (N, N) of the run.
      policy: of the run.

    Raises:
      ValueError: the promise that was broken, with worker and iteration.
    """
    weights = np.asarray(square(weights), float)
    starts, ends, folds = (when(trace, kind, len(weights)) for kind in ("start", "end", "fold"))
    for early, late, words in (
        (starts, ends, "ended its step before it started"), (ends, folds, "folded before its step ended"),
        (folds[:-1], starts[1:], "started before its last fold"),
    ):  # fmt: skip
        _refuse((np.isnan(early) & ~np.isnan(late)) | (early > late), words)
    sends, reads = _messages(trace, "send", len(weights)), _messages(trace, "read", len(weights))
    _check_messages(trace, weights, folds, sends, policy)
    if policy.exact:
        _check_distances(weights, folds)
    if policy.acks:
        later = sends[policy.depth + 1 :]
        early = reads[1 : max(len(reads) - policy.depth, 1)]
        _refuse(np.any(~np.isnan(later) & ~(early <= later), axis=2), "had a message overwritten before it was read")
    if policy.barrier:
        last = np.where(np.isnan(ends).any(1), np.inf, ends.max(1))
        _refuse(folds < last[:, None], "folded before everybody had computed")
    if policy.lead is not None:
        ahead = policy.lead + 1
        last = np.where(np.isnan(ends).any(1), np.inf, ends.max(1))[: max(len(ends) - ahead, 0)]
        _refuse(starts[ahead:] < last[:, None], "was further ahead of the slowest than allowed", ahead)


def _check_messages(trace: Trace, weights: np.ndarray, folds: np.ndarray, sends: np.ndarray, policy: Policy) -> None:
    """What was read, how often, and whether it was there."""
    reads = trace.of("read")
    sent = sends[np.maximum(reads.version, 0), reads.worker, reads.peer]
    early = (reads.version > 0) & ~(sent <= reads.time)
    _refuse_reads(reads, early, "before it was sent")
    _refuse_reads(reads, weights[reads.worker, reads.peer] == 0, "which it does not hear")
    if policy.exact:
        _refuse_reads(reads, reads.version != reads.iteration, "of another iteration")
    if policy.lead is not None:
        _refuse_reads(reads, reads.version < reads.iteration - 1 - policy.lead, "older than allowed")
    order = np.lexsort((reads.iteration, reads.peer, reads.worker))
    ordered = Trace(*(column[order] for column in reads))  # the messages on an edge, one after the other
    later = Trace(*(column[1:] for column in ordered))
    same = (np.diff(ordered.worker) == 0) & (np.diff(ordered.peer) == 0)
    _refuse_reads(later, same & (np.diff(ordered.iteration) == 0), "twice")
    _refuse_reads(later, same & (np.diff(ordered.version) < 0), "older than the one before it")
    counts = np.zeros(folds.shape, int)
    np.add.at(counts, (reads.iteration - 1, reads.worker), 1)
    degrees = ((weights > 0).sum(1) - (weights.diagonal() > 0))[None]
    _refuse(~np.isnan(folds) & (counts != degrees), "folded without a message of every neighbour")


def _check_distances(weights: np.ndarray, folds: np.ndarray) -> None:
    """A worker's fold t comes after the fold t - d of every worker whose messages take d edges to it."""
    reached, latest = np.eye(len(weights), dtype=bool), np.where(np.isnan(folds), np.inf, folds)
    for d in range(1, min(len(weights), len(folds))):
        further = reached | (reached.astype(int) @ (weights > 0).astype(int) > 0)
        for i, j in np.argwhere(further & ~reached):
            bad = folds[d:, i] < latest[:-d, j]
            _refuse(bad[:, None], f"is more than {d} iterations behind worker {i}, at distance {d}", d, worker=int(j))
        reached = further


def _messages(trace: Trace, kind: str, workers: int) -> np.ndarray:
    """Times of messages (version, receiver, sender), the first by version; NaN where there was none."""
    own = trace.of(kind)
    table = np.full((trace.iteration.max(initial=0) + 1, workers, workers), np.nan)
    ends = (own.worker, own.peer) if kind == "read" else (own.peer, own.worker)
    table[own.version[::-1], ends[0][::-1], ends[1][::-1]] = own.time[::-1]
    return table


def _refuse(bad: np.ndarray, words: str, skipped: int = 0, *, worker: int | None = None) -> None:
    """`bad` by iteration and worker, or of one worker alone; the first `skipped` iterations are left out of it."""
    for t, i in np.argwhere(bad)[:1]:
        raise ValueError(f"worker {i if worker is None else worker} {words}, in iteration {t + 1 + skipped}.")


def _refuse_reads(reads: Trace, bad: np.ndarray, words: str) -> None:
    for k in np.flatnonzero(bad)[:1]:
        raise ValueError(
            f"worker {reads.worker[k]} read message {reads.version[k]} of worker {reads.peer[k]} {words}, in "
            f"iteration {reads.iteration[k]}."
        )
