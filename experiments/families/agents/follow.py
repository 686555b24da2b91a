"""One method trained by all agents for one seed: evaluated as it goes, saved as it goes, continued after a kill."""

import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from subspace_jax import checkpoint, trees
from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.state import State
from subspace_jax.decentralized.train import Judgement, judge, stacked, trainer
from subspace_jax.training import TrainState
from subspace_jax.training.progress import track
from subspace_jax.typing import Algorithm, Array, Key, Variables


def follow(
    config: Any,
    key: Key[Array, ""],
    method: Algorithm,
    variables: Variables,
    sets: Any,
    test: tuple[np.ndarray, np.ndarray],
    *,
    comm: Comm,
    runner: Callable,
    apply: Callable,
    weights: np.ndarray,
    steps: int,
    batch: int,
    every: int,
    directory: str,
    label: str,
    prepare: Callable | None = None,
) -> dict[str, np.ndarray]:
    """Train and test; a run that was interrupted goes on behind its last checkpoint, to the same numbers.

    Args:
      config: its `save_every` evaluations lie between two checkpoints.
      key: of the whole course.
      method: an algorithm made for `comm`; compiled once, for all seeds that hand over the same object.
      variables: that all agents start from.
      sets: (x, y) of all agents, (agents, samples, ...).
      test: (x, y) that every agent is tested on.
      comm: the agents.
      runner: of `core.exchange`.
      apply: (variables, x) -> logits; the same object for all seeds, as is `prepare`.
      weights: W, of the one further exchange of `gossiped`.
      steps: of every agent.
      batch: samples per agent and step.
      every: steps between two evaluations; the last one is after all steps.
      directory: of the checkpoints.
      label: name beside the progress bar.
      prepare: as in `decentralized.train.trainer`.

    Returns:
      By evaluation: step, accuracy and gossiped (evaluations, agents), consensus, distance; loss and cosine, means over
      the agents and the steps since the last one; bytes_model and bytes_cross, sent by then by an agent in the mean.
      Of all: seconds, and the variables of all agents after the last step, "final/params/<path>" (agents, ...).
    """
    train = _trainer(method, comm, runner, batch, prepare)
    judged = _judge(apply, comm, runner, weights.shape, np.asarray(weights, np.float64).tobytes())
    begin, draw = jax.random.split(key)
    state, placed = stacked(begin, method, comm, variables), exchange.place(sets, comm)
    ends = [*range(every, steps, every), steps]
    history = _blank(len(ends), comm.agents)
    with checkpoint.manager(directory) as folder:
        done, state, history = _resumed(folder, key, state, history, comm)
        rest = track(
            range(done, len(ends)), label=label, total=len(ends), samples=every * batch * comm.agents, done=done
        )
        for e in rest:
            since, start = time.perf_counter(), ends[e - 1] if e else 0
            state, info = train(draw, state, placed, start, ends[e] - start)
            found, info = judged(state, *test), exchange.fetch(info)
            _note(history, e, ends[e], ends[e] - start, found, info)
            history["seconds"] += time.perf_counter() - since
            if jax.process_count() > 1:  # whose log is read instead of a progress bar
                print(f"{label}: step {ends[e]} of {steps}, accuracy {found.accuracy.mean():.3f}", file=sys.stderr)
            if (e + 1) % config.save_every == 0 or e + 1 == len(ends):
                _save(folder, key, e + 1, state, history, label)
    final = {"params": state.params, "batch_stats": state.batch_stats}
    return history | {f"final/{path}": leaf for path, leaf in trees.flatten(exchange.fetch(final)).items()}


@lru_cache
def _trainer(method: Algorithm, comm: Comm, runner: Callable, batch: int, prepare: Callable | None) -> Callable:
    """The same for every seed."""
    return trainer(method, comm=comm, runner=runner, batch=batch, prepare=prepare)


@lru_cache
def _judge(apply: Callable, comm: Comm, runner: Callable, shape: tuple[int, ...], weights: bytes) -> Callable:
    """The same for every method and seed."""
    return judge(apply, comm=comm, runner=runner, weights=np.frombuffer(weights).reshape(shape))


def _blank(evaluations: int, agents: int) -> dict[str, np.ndarray]:
    single = ("step", "consensus", "distance", "loss", "cosine", "bytes_model", "bytes_cross")
    history = {name: np.full(evaluations, np.nan) for name in single}
    history |= {name: np.full((evaluations, agents), np.nan) for name in ("accuracy", "gossiped")}
    return history | {"seconds": np.zeros(())}


def _note(history: dict[str, np.ndarray], e: int, step: int, steps: int, found: Judgement, info: Any) -> None:
    """Write evaluation e, after `steps` further steps."""
    history["step"][e] = step
    for name, value in found._asdict().items():
        history[name][e] = value
    for name in ("loss", "cosine"):
        history[name][e] = np.mean(getattr(info, name), dtype=np.float64)
    for name in ("bytes_model", "bytes_cross"):
        before = history[name][e - 1] if e else 0
        history[name][e] = before + steps * np.mean(getattr(info, name), dtype=np.float64)


def _save(
    folder: Any, key: Key[Array, ""], evaluation: int, state: State, history: dict[str, np.ndarray], label: str
) -> None:
    whole, memory = _whole(key, state)
    checkpoint.save(folder, evaluation, whole, config={"label": label}, carries={"memory": memory, "history": history})


def _resumed(
    folder: Any, key: Key[Array, ""], state: State, history: dict[str, np.ndarray], comm: Comm
) -> tuple[int, State, dict[str, Any]]:
    """Evaluations done, and everything as the last checkpoint has it."""
    whole, memory = _whole(key, state)
    found = checkpoint.restore(folder, whole, {"memory": memory, "history": history})
    if not found:
        return 0, state, history
    done, whole, carries = found
    saved = State(whole.step, whole.params, whole.batch_stats, whole.opt_state, carries["memory"])
    return done, exchange.place(saved, comm), {name: np.array(values) for name, values in carries["history"].items()}


def _whole(key: Key[Array, ""], state: State) -> tuple[TrainState, Any]:
    """The state as a checkpoint takes it: NumPy arrays of all agents, which any number of processes can read."""
    state = exchange.fetch(state)
    return TrainState(state.step, state.params, state.batch_stats, state.opt_state, key), state.memory
