"""A run by the real clock, a process for each worker: shared memory, one-sided writes, and a parent that watches.

A writer puts the model into its slot before it raises the counter; a reader copies it before it acknowledges. Both look
at a sequence number around the copy, so that nobody folds half a message. This relies on stores becoming visible in
their order, as on x86; where a processor promises less (ARM), only the sequence number stands between.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from subspace_jax.parallel.asap.mailboxes import Mailboxes
from subspace_jax.parallel.asap.policies import Numbers, Plan, Policy, plan
from subspace_jax.parallel.asap.traces import Run, gathered
from subspace_jax.parallel.asap.worker import Step, Wait, Worker, drive

POLL = 5e-4  # seconds between two looks at the counters of another process
LOOK = 0.1  # seconds between two looks of the parent
STARTING = 180.0  # seconds for all processes to import JAX and compile their step
LEAD = 0.05  # seconds between the parent's word and the common start
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
COUNT, TIME = np.dtype(np.int64), np.dtype(np.float64)


class Shared(Mailboxes):
    """Mailboxes in memory that all processes map; every number there has one writer."""

    def __init__(self, made: Plan, shape: tuple[int, ...], dtype: np.dtype, memory: Any, timeout: float):
        """The view of one process, parent or child.

        Args:
          made: the run.
          shape: of a model.
          dtype: of a model.
          memory: the shared bytes, as many as `layout` says, all zero at first.
          timeout: longest wait for a slot to be whole, in seconds.
        """
        self.depth, self.timeout = made.policy.depth, timeout
        self.edges = {edge: e for e, edge in enumerate(made.edges())}
        views = {
            name: np.frombuffer(memory, place.dtype, math.prod(place.shape), place.offset).reshape(place.shape)
            for name, place in layout(made, shape, dtype)[0].items()
        }
        self.notified, self.acked, self.arrived = views["notified"], views["acked"], views["arrived"]
        self.sequence, self.versions, self.models = views["sequence"], views["versions"], views["models"]
        self.ready, self.began = views["ready"], views["began"]

    def put(self, sender: int, receiver: int, iteration: int, model: np.ndarray) -> None:
        """Write the model, then raise the counter; the slot's sequence number is odd while it is written."""
        place = self.edges[receiver, sender], iteration % self.depth
        self.sequence[place] += 1
        self.models[place] = model
        self.versions[place] = iteration
        self.sequence[place] += 1
        self.notified[receiver, sender] = iteration

    def read(self, receiver: int, sender: int, iteration: int) -> tuple[int, np.ndarray]:
        """A copy of what lies in the slot, taken again where the sender wrote meanwhile."""
        place, deadline = (self.edges[receiver, sender], iteration % self.depth), time.perf_counter() + self.timeout
        while time.perf_counter() < deadline:
            before = int(self.sequence[place])
            version, model = int(self.versions[place]), self.models[place].copy()
            if before % 2 == 0 and before == int(self.sequence[place]):
                return version, model
        raise TimeoutError(f"worker {receiver} waited {self.timeout:g} s for worker {sender} to finish a message.")

    def wait(self, worker: int, request: Wait) -> None:
        """Return once the request is ready; TimeoutError where that takes too long."""
        deadline = time.perf_counter() + self.timeout
        while not request.ready():
            if time.perf_counter() > deadline:
                raise TimeoutError(f"worker {worker} waited {self.timeout:g} s for {request.what()}.")
            time.sleep(POLL)

    def signs(self) -> int:
        """A number that grows whenever a worker does something."""
        return int(self.notified.sum() + self.acked.sum() + self.arrived.sum())


class Place(NamedTuple):
    """Where an array lies in the shared memory."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


def layout(made: Plan, shape: tuple[int, ...], dtype: np.dtype) -> tuple[dict[str, Place], int]:
    """The arrays in the shared memory, each at a multiple of 8 bytes; and how many bytes they take."""
    workers, slots = len(made.weights), (len(made.edges()), made.policy.depth)
    kinds = {
        "notified": (COUNT, (workers, workers)), "acked": (COUNT, (workers, workers)), "arrived": (COUNT, (workers,)),
        "ready": (COUNT, (workers,)), "began": (TIME, (1,)), "sequence": (COUNT, slots), "versions": (COUNT, slots),
        "models": (dtype, (*slots, *shape)),
    }  # fmt: skip
    places, offset = {}, 0
    for name, (kind, dimensions) in kinds.items():
        places[name] = Place(kind, dimensions, offset)
        offset += -(-math.prod(dimensions) * kind.itemsize // 8) * 8
    return places, offset


def run_processes(
    factory: Callable[[], Step], start: np.ndarray, weights: Numbers, *, policy: Policy, times: Numbers,
    timeout: float = 20.0,
) -> Run:  # fmt: skip
    """Run every worker in a process of its own, on this machine's CPU; it sleeps where it computes.

    As `run_threads`, but each process makes its own step and compiles it, before a common start. The processes are
    spawned: the main module of a script keeps its own commands under `if __name__ == "__main__"`. Where one dies the
    others are ended; where the parent dies, they end themselves.

    Args:
      factory: makes the step (worker, iteration from 1, model) -> model; a function of a module, or a
        `functools.partial` of one, that pickles.
      start: (N, ...), the models to start from.
      weights: doubly stochastic W (N, N).
      policy: of every worker.
      times: (iterations, N), seconds to sleep.
      timeout: longest wait of a worker, and longest time without a sign of anybody, in seconds.

    Raises:
      ValueError: what `policies.plan` refuses; models of another number than workers; a timeout not above 0.
      ChildProcessError: names the worker that failed, and how.

    Warns:
      UserWarning: more processes than twice the cores.
    """
    made = plan(weights, policy=policy, times=times)
    if len(start) != len(made.weights) or not timeout > 0:
        raise ValueError(
            f"{len(made.weights)} workers start from as many models, with a timeout above 0; got {len(start)} and "
            f"{timeout}."
        )
    if len(start) > 2 * (os.cpu_count() or 1):
        warnings.warn(f"{len(start)} processes share {os.cpu_count()} cores: times are of that.", stacklevel=2)
    spawn = multiprocessing.get_context("spawn")
    memory = spawn.RawArray("b", layout(made, start.shape[1:], start.dtype)[1])
    boxes = Shared(made, start.shape[1:], start.dtype, memory, timeout)
    for (_, sender), e in boxes.edges.items():
        boxes.models[e] = start[sender]
    pipes, children = [], []
    try:
        with _environment():
            for i, model in enumerate(start):
                ours, theirs = spawn.Pipe(duplex=False)
                given = i, made, model, memory, factory, timeout, theirs
                pipes.append(ours)
                children.append(spawn.Process(target=_live, args=given, daemon=True))
                children[-1].start()
                theirs.close()  # so that the end of the child is the end of the pipe
        _watch(boxes, children, pipes, lambda: bool(boxes.ready.all()), STARTING, "start")
        boxes.began[0] = time.perf_counter() + LEAD
        found = _watch(boxes, children, pipes, None, timeout + float(made.times.max()), "end")
    finally:
        _end(children)
    trace = gathered([found[i][0] for i in range(len(start))])
    return Run(trace, np.stack([found[i][1] for i in range(len(start))]), float(trace.time.max(initial=0.0)), [])


def _live(
    number: int, made: Plan, model: np.ndarray, memory: Any, factory: Callable, timeout: float, pipe: Any
) -> None:
    """A child: make the step, wait for the start, run the worker, send what happened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the children
    threading.Thread(target=_outlive, daemon=True).start()
    try:
        boxes, step = Shared(made, model.shape, model.dtype, memory, timeout), factory()
        step(number, 1, model)
        boxes.ready[number] = 1
        boxes.timeout = STARTING
        boxes.wait(number, Wait(lambda: bool(boxes.began[0]), lambda: "the start of all"))
        boxes.timeout = timeout
        zero = float(boxes.began[0])
        time.sleep(max(0.0, zero - time.perf_counter()))
        worker = Worker(number, made, boxes, step, model, lambda: time.perf_counter() - zero)
        drive(worker, lambda request: boxes.wait(number, request))
        pipe.send((worker.events, worker.model))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def _outlive() -> None:
    """End this process once its parent has."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _watch(
    boxes: Shared, children: list, pipes: list, done: Callable[[], bool] | None, timeout: float, what: str
) -> dict[int, Any]:
    """What the children sent, once each has, or once `done()`; `what` they are waited for to do.

    Raises:
      ChildProcessError: a child died, or sent an error, or nobody gave a sign for `timeout`.
    """
    found: dict[int, Any] = {}
    signs, since = -1, time.monotonic()
    while len(found) < len(children) and not (done and done()):
        left = [i for i in range(len(children)) if i not in found]
        connection.wait([*(pipes[i] for i in left), *(children[i].sentinel for i in left)], LOOK)
        said = {i: _received(pipes[i], children[i]) for i in left if pipes[i].poll()}
        for i in left:
            code = children[i].exitcode
            if code is not None and code < 0:
                raise ChildProcessError(f"worker {i} (process {children[i].pid}) was killed by signal {-code}.")
            if isinstance(said.get(i), str) or (code is not None and i not in said):
                how = said.get(i) or f"status {code}, without a result"
                raise ChildProcessError(f"worker {i} (process {children[i].pid}) ended with {how}")
        found |= said
        now = boxes.signs() + int(boxes.ready.sum()) + len(found)
        if now != signs:
            signs, since = now, time.monotonic()
        elif time.monotonic() - since > timeout:
            raise ChildProcessError(f"no worker gave a sign for {timeout:g} s; {len(left)} of them did not {what}.")
    return found


def _received(pipe: Any, child: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:  # it died without a word: the pipe closes a moment before the system tells how
        child.join(1)
        return "a closed connection"


def _end(children: list) -> None:
    """End what still runs."""
    begun = [child for child in children if child.pid]
    for child in begun:
        child.terminate()
    deadline = time.monotonic() + 1
    for child in begun:
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
            child.join()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The environment of the children: a CPU each, one thread in NumPy, the parent's precision."""
    import jax

    x64 = "1" if jax.config.jax_enable_x64 else "0"  # pyrefly: ignore[missing-attribute]
    given = ENVIRONMENT | {"JAX_ENABLE_X64": x64}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
