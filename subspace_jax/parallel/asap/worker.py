"""The one program of a worker, whatever its policy and its clock; and synchronous gossip, what it must equal."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from subspace_jax.core import topology
from subspace_jax.parallel.asap.mailboxes import Mailboxes
from subspace_jax.parallel.asap.policies import Numbers, Plan

Step = Callable[[int, int, Any], Any]  # (worker, iteration from 1, model) -> model after a local step
Folded = Callable[[int, int, Any], None]  # (worker, iteration, model)


class Compute(NamedTuple):
    """A worker computes for so many seconds."""

    seconds: float


class Wait(NamedTuple):
    """A worker goes on once `ready()`; `what` it waits for, in words."""

    ready: Callable[[], bool]
    what: Callable[[], str]


class Worker:
    """One worker: `run()` yields `Compute` and `Wait` to whoever has the clock; `model` and `events` tell the rest."""

    def __init__(
        self, number: int, plan: Plan, boxes: Mailboxes, step: Step | None, model: Any, clock: Callable[[], float],
        folded: Folded | None = None,
    ):  # fmt: skip
        """A worker before its first iteration.

        Args:
          number: its own.
          plan: the run.
          boxes: of all workers.
          step: the local step; without one only times are computed.
          model: to start from.
          clock: the time now, in seconds.
          folded: told the model behind each fold.
        """
        self.number, self.plan, self.boxes, self.step = number, plan, boxes, step
        self.model, self.clock, self.folded = model, clock, folded
        self.heard = plan.heard(number)
        behind = lambda j: (j - number) % len(plan.weights)  # noqa: E731 -- so that nobody is always the first
        self.hearers = sorted(plan.hearers(number), key=behind)
        self.shares = {j: float(plan.weights[number, j]) for j in sorted([number, *self.heard])}
        self.events: list[tuple[float, str, int, int, int]] = []  # time, kind, iteration, peer, version

    def run(self) -> Iterator[Compute | Wait]:
        """All iterations: compute, send, read, fold."""
        lead = self.plan.policy.lead
        for t, seconds in enumerate(self.plan.times[:, self.number].tolist(), 1):
            if lead is not None:
                yield Wait(lambda t=t: self.boxes.slowest() >= t - 1 - lead, lambda: "the slowest worker")
            self.note("start", t)
            yield Compute(seconds)
            own = None if self.step is None else self._computed(self.step, t)
            self.note("end", t)
            received = yield from self._exchange(t, own)
            if own is not None:
                received[self.number] = own
                self.model = fold(self.shares, received)
            self.note("fold", t)
            if self.folded:
                self.folded(self.number, t, self.model)

    def note(self, kind: str, iteration: int, peer: int = -1, version: int = -1) -> None:
        """Write down an event."""
        self.events.append((self.clock(), kind, iteration, peer, version))

    def _computed(self, step: Step, t: int) -> np.ndarray:
        model = np.asarray(step(self.number, t, self.model))
        if model.shape != self.model.shape or model.dtype != self.model.dtype:
            raise ValueError(
                f"a step keeps shape and type of the model; worker {self.number} was given {self.model.dtype} "
                f"{self.model.shape} and returned {model.dtype} {model.shape}."
            )
        return model

    def _exchange(self, t: int, model: Any) -> Iterator[Any]:
        """Send to and read from each neighbour as soon as either is possible, in whatever order that is.

        A fixed order would let a slow neighbour hold up a message to another one.
        """
        policy, boxes = self.plan.policy, self.boxes
        unsent, unread, received = list(self.hearers), list(self.heard), {}
        tells = policy.barrier or policy.lead is not None
        while True:
            unsent = [j for j in unsent if not self._send(j, t, model)]
            if tells and not unsent:
                boxes.arrive(self.number, t)
                tells = False
            unread = [j for j in unread if not self._read(j, t, received)]
            if not unsent and not unread:
                return received
            yield Wait(
                lambda unsent=unsent, unread=unread: (
                    any(self._may_send(j, t) for j in unsent) or any(self._may_read(j, t) for j in unread)
                ),
                lambda unsent=unsent, unread=unread: _words(t, unsent, unread),
            )

    def _may_send(self, j: int, t: int) -> bool:
        policy = self.plan.policy
        return not policy.acks or self.boxes.acked[j][self.number] >= t - policy.depth

    def _may_read(self, j: int, t: int) -> bool:
        policy = self.plan.policy
        if policy.barrier and self.boxes.slowest() < t:
            return False
        return not policy.exact or self.boxes.notified[self.number][j] >= t

    def _send(self, j: int, t: int, model: Any) -> bool:
        """Whether the message could be sent."""
        if not self._may_send(j, t):
            return False
        self.note("send", t, j, t)
        self.boxes.put(self.number, j, t, model)
        return True

    def _read(self, j: int, t: int, received: dict[int, Any]) -> bool:
        """Whether there was a message; it is acknowledged after the copy."""
        if not self._may_read(j, t):
            return False
        version, received[j] = self.boxes.read(self.number, j, t)
        self.note("read", t, j, version)
        if self.plan.policy.acks:
            self.boxes.ack(self.number, j, t)
        return True


def fold(shares: dict[int, float], received: dict[int, Any]) -> Any:
    """sum_j w_ij u_j, always in the same order, so that the same models give the same bits."""
    first, *others = shares
    total = shares[first] * received[first]
    for j in others:
        total = total + shares[j] * received[j]
    return total


def drive(worker: Worker, wait: Callable[[Wait], None]) -> None:
    """Run a worker by the real clock: sleep where it computes, `wait` where it waits."""
    for request in worker.run():
        if isinstance(request, Compute):
            time.sleep(request.seconds)
        else:
            wait(request)


def synchronous(step: Step, start: np.ndarray, weights: Numbers, *, iterations: int) -> np.ndarray:
    """Synchronous gossip, worker after worker: what `bsp` and `notify_ack` compute, bit for bit.

    Args:
      step: the local step.
      start: (N, ...), the models to start from.
      weights: W (N, N).
      iterations: how many.

    Returns:
      The models, (N, ...).
    """
    weights, models = topology.check_weights(weights), list(start)
    shares = [{int(j): float(row[j]) for j in range(len(row)) if row[j] or j == i} for i, row in enumerate(weights)]
    for t in range(1, iterations + 1):
        sent = dict(enumerate(np.asarray(step(i, t, model)) for i, model in enumerate(models)))
        models = [fold(own, sent) for own in shares]
    return np.stack(models)


def _words(t: int, unsent: list[int], unread: list[int]) -> str:
    """What a worker waits for."""
    parts = [f"message {t} of worker {j}" for j in unread]
    parts += [f"an acknowledgement of worker {j} before message {t}" for j in unsent]
    return " and ".join(parts)
