"""A run by the real clock, a thread for each worker."""

import threading
import time
from typing import Any

import numpy as np

from subspace_jax.parallel.asap.mailboxes import Mailboxes
from subspace_jax.parallel.asap.policies import Numbers, Plan, Policy, plan
from subspace_jax.parallel.asap.traces import Run, gathered
from subspace_jax.parallel.asap.worker import Step, Wait, Worker, drive


class Stopped(Exception):
    """Another worker has failed."""


class Notifying(Mailboxes):
    """Mailboxes that wake the thread which waits for a change."""

    def __init__(self, made: Plan, start: Any):
        """Empty boxes."""
        super().__init__(made, start)
        self.conditions = [threading.Condition() for _ in made.weights]
        self.stopped = False

    def changed(self, worker: int) -> None:
        """Let it look again."""
        with self.conditions[worker]:
            self.conditions[worker].notify()

    def wait(self, worker: int, request: Wait, timeout: float) -> None:
        """Return once the request is ready; raise where that takes too long, or another worker has failed."""
        with self.conditions[worker]:
            if not self.conditions[worker].wait_for(lambda: self.stopped or request.ready(), timeout):
                raise TimeoutError(f"worker {worker} waited {timeout:g} s for {request.what()}.")
        if self.stopped:
            raise Stopped

    def stop(self) -> None:
        """End the waits of all workers."""
        self.stopped = True
        for worker in range(len(self.conditions)):
            self.changed(worker)


def run_threads(
    step: Step, start: np.ndarray, weights: Numbers, *, policy: Policy, times: Numbers, timeout: float = 20.0
) -> Run:
    """Run every worker in a thread of this process; it sleeps where it computes, and takes its step after that.

    Sleep stands for the computation of a machine of its own: there are fewer cores here than workers. What a step and
    the exchange cost is real, and comes on top.

    Args:
      step: (worker, iteration from 1, model) -> model after a local step; called once more beforehand, to compile it.
      start: (N, ...), the models to start from.
      weights: doubly stochastic W (N, N).
      policy: of every worker.
      times: (iterations, N), seconds to sleep.
      timeout: longest wait of a worker, in seconds.

    Raises:
      ValueError: what `policies.plan` refuses; models of another number than workers; a step that changes shape or type
        of a model.
      TimeoutError: names the worker, and what it waited for.
    """
    made = plan(weights, policy=policy, times=times)
    if len(start) != len(made.weights):
        raise ValueError(f"{len(made.weights)} workers start from as many models; got {len(start)}.")
    step(0, 1, start[0])
    boxes, began, errors = Notifying(made, start), [0.0], []

    def begin() -> None:
        began[0] = time.perf_counter()

    gate = threading.Barrier(len(start), begin)
    workers = [Worker(i, made, boxes, step, x, lambda: time.perf_counter() - began[0]) for i, x in enumerate(start)]

    def live(worker: Worker) -> None:
        try:
            gate.wait(timeout)
            drive(worker, lambda request: boxes.wait(worker.number, request, timeout))
        except Exception as error:
            errors.append(error)
            boxes.stop()

    threads = [threading.Thread(target=live, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        boxes.stop()  # after Ctrl-C nobody goes on
    for error in errors[:1]:  # the first one; it stopped the others
        raise error
    trace = gathered([worker.events for worker in workers])
    return Run(trace, np.stack([worker.model for worker in workers]), float(trace.time.max(initial=0.0)), [])
