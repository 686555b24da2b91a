"""When a worker may send, read and go on: barriers, NOTIFY-ACK, bounded staleness, or never any waiting."""

from typing import NamedTuple

import numpy as np

from subspace_jax.core import topology
from subspace_jax.core.checks import as_real
from subspace_jax.typing import Array, Float, Num

Numbers = Num[Array | np.ndarray, "..."]  # shapes are checked by our own error messages


class Policy(NamedTuple):
    """What a worker waits for.

    Attributes:
      exact: it folds the messages of its own iteration, all of them; otherwise the newest that lie there.
      barrier: it reads nothing before every worker has sent.
      acks: it overwrites no message before the receiver has acknowledged its copy.
      depth: slots of an edge; with acks the number of messages that may lie there unread.
      lead: iterations it may be ahead of the slowest when it starts one; any number when None.
    """

    exact: bool
    barrier: bool = False
    acks: bool = False
    depth: int = 1
    lead: int | None = None


def bsp() -> Policy:
    """Bulk synchronous: send, wait for everybody, fold.

    Two slots an edge: whoever is past the barrier may send again while a neighbour still reads; nobody is two ahead.
    """
    return Policy(exact=True, barrier=True, depth=2)


def notify_ack(*, depth: int = 1) -> Policy:
    """No barrier and no lost message: overwrite a message once its reader has acknowledged it, read each exactly once.

    What is computed is that of `bsp`, bit for bit. On an undirected graph depth changes nothing: a worker needs its
    neighbour's next message anyway, which is sent after the acknowledgement.

    Raises:
      ValueError: depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth is the number of messages that may lie unread, at least 1; got {depth}.")
    return Policy(exact=True, acks=True, depth=depth)


def ssp(*, staleness: int) -> Policy:
    """Bounded staleness: start only while at most `staleness` iterations ahead of the slowest; fold the newest.

    Raises:
      ValueError: staleness below 0.
    """
    if staleness < 0:
        raise ValueError(f"staleness is the lead over the slowest worker, at least 0; got {staleness}.")
    return Policy(exact=False, lead=staleness)


def asynchronous() -> Policy:
    """Never wait: overwrite, fold the newest, skip or repeat what comes too fast or too slowly."""
    return Policy(exact=False)


class Plan(NamedTuple):
    """A run before it starts, as `plan` has checked it.

    Attributes:
      weights: W (N, N), W[i, j] the weight at i of what j sent.
      policy: of every worker.
      times: (iterations, N), seconds that worker i computes in each iteration.
    """

    weights: Float[np.ndarray, "n n"]
    policy: Policy
    times: Float[np.ndarray, "iterations n"]

    def heard(self, worker: int) -> list[int]:
        """The workers that it receives from."""
        return [int(j) for j in np.flatnonzero(self.weights[worker]) if j != worker]

    def hearers(self, worker: int) -> list[int]:
        """The workers that receive from it."""
        return [int(j) for j in np.flatnonzero(self.weights[:, worker]) if j != worker]

    def edges(self) -> list[tuple[int, int]]:
        """(receiver, sender) of every edge."""
        return [(i, j) for i in range(len(self.weights)) for j in self.heard(i)]


def plan(weights: Numbers, *, policy: Policy, times: Numbers) -> Plan:
    """Check a run.

    Args:
      weights: doubly stochastic W (N, N) of a graph on which every worker reaches every other, as of
        `topology.weights`.
      policy: of every worker.
      times: (iterations, N), compute times in seconds.

    Raises:
      ValueError: weights that are not doubly stochastic; a graph that is disconnected or leads one way only; weights
        that change with time; times of another shape, or not above 0.
    """
    if np.ndim(weights) != 2:
        raise ValueError(f"the workers' graph is one matrix (N, N); got {np.shape(weights)}: it may not change.")
    weights = topology.check_weights(weights, connected=True)
    return Plan(weights, policy, checked_times(times, len(weights)))


def checked_times(times: Numbers, workers: int) -> Float[np.ndarray, "iterations n"]:
    """Compute times as float64 (iterations, N); ValueError for another shape, or a time that is not above 0."""
    times = as_real("times", times)
    if times.ndim != 2 or times.shape[1] != workers or not len(times):
        raise ValueError(f"times are (iterations, {workers}), a column for each worker; got {times.shape}.")
    for t, i in np.argwhere(~((times > 0) & np.isfinite(times)))[:1]:
        raise ValueError(f"compute times are above 0 and finite; worker {i} has {times[t, i]} in iteration {t + 1}.")
    return times
