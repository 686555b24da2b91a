"""A run by a simulated clock: the models are real, the time is not, and a laptop has sixty-four workers."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from subspace_jax.parallel.asap.mailboxes import Mailboxes
from subspace_jax.parallel.asap.policies import Numbers, Plan, Policy, plan
from subspace_jax.parallel.asap.traces import Run, gathered
from subspace_jax.parallel.asap.worker import Compute, Folded, Step, Wait, Worker


def simulate(
    step: Step | None,
    start: np.ndarray | None,
    weights: Numbers,
    *,
    policy: Policy,
    times: Numbers,
    latency: float = 0.0,
    bandwidth: float = math.inf,
    nbytes: float | None = None,
    until: float = math.inf,
    at: Sequence[float] = (),
    observe: Callable[[float, list], Any] | None = None,
    folded: Folded | None = None,
) -> Run:
    """Run all workers by a clock that jumps from event to event; the same arguments give the same run.

    A message takes `latency` after it has left the worker, whose link sends nbytes / bandwidth seconds a message, one
    after the other; acknowledgements and arrivals at a barrier have no size and queue behind. Folding takes no time.

    Args:
      step: (worker, iteration from 1, model) -> model after a local step; None to compute times alone.
      start: (N, ...), the models to start from; None without a step.
      weights: doubly stochastic W (N, N).
      policy: of every worker.
      times: (iterations, N), compute times in seconds; a worker ends after its last one.
      latency: seconds.
      bandwidth: of a worker's link, bytes a second.
      nbytes: size of a message; that of a model when None.
      until: stop all workers after what happens at this time.
      at: times at which to look, ascending, after what happens at them; later than the end of the run: at its end.
      observe: (time, models of all workers) -> anything; its results are `Run.observed`.
      folded: told (worker, iteration, model) behind each fold: under `notify_ack` workers do not hold the models of one
        iteration at the same time.

    Raises:
      ValueError: what `policies.plan` refuses; latency below 0, bandwidth not above 0; a step that changes shape or
        type of a model, or models of another number than workers.
    """
    made = plan(weights, policy=policy, times=times)
    if latency < 0 or not bandwidth > 0:
        raise ValueError(f"latency is at least 0, bandwidth above 0; got {latency} and {bandwidth}.")
    if (step is None) != (start is None) or (start is not None and len(start) != len(made.weights)):
        raise ValueError(f"a step takes {len(made.weights)} models to start from, a row for each worker.")
    size = nbytes if nbytes is not None else 0 if start is None else np.asarray(start[0]).nbytes
    clock = Clock(made, start, step, latency=latency, seconds=size / bandwidth, folded=folded)
    observed = clock.run(until, at, observe)
    trace = gathered([worker.events for worker in clock.workers])
    models = None if start is None else np.stack([worker.model for worker in clock.workers])
    return Run(trace, models, float(trace.time.max(initial=0.0)), observed)


class Clock(Mailboxes):
    """Mailboxes whose messages travel, and the clock of all workers."""

    def __init__(
        self, made: Plan, start: Any, step: Step | None, *, latency: float, seconds: float, folded: Folded | None = None
    ):
        """All workers at time 0; a message leaves a link within `seconds` and arrives `latency` later."""
        super().__init__(made, start)
        workers = range(len(made.weights))
        self.now, self.latency, self.seconds = 0.0, latency, seconds
        self.free = [0.0 for _ in workers]  # when a worker's link is
        models = [None for _ in workers] if start is None else list(start)
        self.workers = [Worker(i, made, self, step, models[i], lambda: self.now, folded) for i in workers]
        self.programs = [worker.run() for worker in self.workers]
        self.waiting: list[Wait | None] = [None for _ in workers]
        self.woken: deque[int] = deque()
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()

    def run(self, until: float, at: Sequence[float], observe: Callable | None) -> list:
        """From the start to the end, looking at the models on the way."""
        ahead, observed = deque(at), []

        def look(before: float) -> None:
            while observe and ahead and ahead[0] < before:
                observed.append(observe(ahead.popleft(), [worker.model for worker in self.workers]))

        for i in range(len(self.workers)):
            self.go_on(i)
        self.wake()
        while self.heap and self.heap[0][0] <= until:
            look(self.heap[0][0])
            self.now, _, act = heapq.heappop(self.heap)
            act()
            self.wake()
        look(math.inf)
        return observed

    def go_on(self, i: int) -> None:
        """Run a worker until it computes, or waits for what is not there."""
        for request in self.programs[i]:
            if isinstance(request, Compute):
                return self.later(request.seconds, lambda: self.go_on(i))
            if not request.ready():
                self.waiting[i] = request
                return None
        return None

    def wake(self) -> None:
        """Let all workers go on whose wait is over, first come first served."""
        while self.woken:
            i = self.woken.popleft()
            request = self.waiting[i]
            if request is not None and request.ready():
                self.waiting[i] = None
                self.go_on(i)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something after a while; what is due at the same time happens in the order of these calls."""
        heapq.heappush(self.heap, (self.now + seconds, next(self.order), act))

    def changed(self, worker: int) -> None:
        """Look at this worker before time goes on."""
        self.woken.append(worker)

    def put(self, sender: int, receiver: int, iteration: int, model: Any) -> None:
        """Send a message; it lies in its slot when it has arrived."""
        if not self.latency and not self.seconds:
            return super().put(sender, receiver, iteration, model)
        self.free[sender] = max(self.free[sender], self.now) + self.seconds
        arrive = super().put
        return self.later(
            self.free[sender] - self.now + self.latency, lambda: arrive(sender, receiver, iteration, model)
        )

    def ack(self, receiver: int, sender: int, iteration: int) -> None:
        """Send an acknowledgement."""
        self._small(receiver, super().ack, receiver, sender, iteration)

    def arrive(self, worker: int, iteration: int) -> None:
        """Tell everybody of an arrival, behind the messages that are on the way."""
        self._small(worker, super().arrive, worker, iteration)

    def _small(self, sender: int, act: Callable, *given: int) -> None:
        delay = max(self.free[sender] - self.now, 0.0) + self.latency
        if delay:
            self.later(delay, lambda: act(*given))
        else:
            act(*given)
