"""A complete run of one method over all agents: training with regular evaluations and checkpoints, and resuming."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import checkpoint, trees
from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.core.keys import as_key
from subspace_jax.decentralized.gossip import Weights
from subspace_jax.decentralized.state import State
from subspace_jax.decentralized.train import Judgement, judge, stacked, trainer, uniform
from subspace_jax.training import TrainState
from subspace_jax.training.progress import track
from subspace_jax.typing import Algorithm, Array, Bool, Key, PyTree, Variables

PARTS = "params", "batch_stats", "opt_state", "memory"  # of a state, beside its step


def run(
    key: Key[Array, ""],
    method: Algorithm,
    variables: Variables | list[Variables] | State,
    data: PyTree,
    test: tuple[Any, Any],
    *,
    comm: Comm,
    runner: Callable,
    apply: Callable,
    weights: Weights,
    steps: int,
    batch: int,
    every: int,
    directory: str | pathlib.Path | None = None,
    save_every: int = 1,
    label: str = "agents",
    prepare: Callable | None = None,
    draw: Callable = uniform,
    common: PyTree = None,
    final: tuple[str, ...] = ("params", "batch_stats"),
) -> dict[str, np.ndarray]:
    """Train all agents and test them every `every` steps.

    With a `directory` an interrupted run, called again with the same arguments, resumes from its last checkpoint and
    gives the same result as without the interruption: bit for bit on the same number of devices.

    Args:
      key: of the whole run.
      method: an algorithm made for `comm`, such as from `methods.build`; compiled once for all runs that hand over the
        same object.
      variables: {"params": ..., "batch_stats": ...} that all agents start from, or a list of one for each of them; or
        the state of all agents that a run before left, see `state_of`: steps count on from there, and the same key then
        continues that run.
      data: (x, y) of all agents, (agents, samples, ...).
      test: (x, y) that every agent is tested on.
      comm: the agents.
      runner: `exchange.vmap`, `pmap` or `shard_map`.
      apply: (variables, x) -> logits at inference; the same object for all runs, as is `prepare`.
      weights: W of the extra exchange before the accuracy `gossiped`, see `train.Judgement`.
      steps: of every agent.
      batch: samples per agent and step.
      every: steps between two evaluations; the last one is after all steps.
      directory: of the checkpoints; nothing is saved when None.
      save_every: evaluations between two checkpoints; the last one is always saved.
      label: name beside the progress bar.
      prepare: (key, x) -> x on the device, as in `train.trainer`.
      draw: the batch of an agent, as in `train.trainer`; the same object for all runs.
      common: arrays that all agents have, for `draw`.
      final: parts of the last state to return, of `PARTS`.

    Returns:
      By evaluation: step; accuracy and gossiped (evaluations, agents), consensus, distance, see `train.Judgement`; loss
      and cosine, means over the agents and the steps since the last evaluation; bytes_model and bytes_cross, sent so
      far by an agent in this run, mean over the agents. Of the whole run: seconds, and the variables of all agents
      after the last step, "final/params/<path>" (agents, ...).

    Raises:
      ValueError: steps, batch, every or save_every below 1; data that are not finite; parameters that became NaN or
        infinite: the message names the step, and the last checkpoint is kept.
    """
    key = as_key(key)
    _check(steps=steps, batch=batch, every=every, save_every=save_every)
    train = _trainer(method, comm, runner, batch, prepare, draw)
    judged = _judge(apply, comm, runner, weights.shape, np.asarray(weights, np.float64).tobytes())
    begin, samples_key = jax.random.split(key)
    state = exchange.place(variables, comm) if isinstance(variables, State) else stacked(begin, method, comm, variables)
    placed, common = exchange.place(data, comm), exchange.copies(common, comm)
    first = int(exchange.fetch(state.step)[0])
    ends = [first, *range(first + every, first + steps, every), first + steps]
    history, count, samples = _blank(len(ends) - 1, comm.agents), len(ends) - 1, every * batch * comm.agents
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(checkpoint.manager(directory)) if directory else None
        done, state, history = _resumed(folder, key, state, history, comm)
        for e in track(range(done, count), label=label, total=count, samples=samples, done=done):
            since, start, end, before = time.perf_counter(), ends[e], ends[e + 1], state
            state, info = train(samples_key, state, placed, start, end - start, common)
            if not exchange.fetch(_finite(state.params)).all():
                again = range(start, end)
                where = _diverged(lambda state, t: train(samples_key, state, placed, t, 1, common), before, again)
                raise ValueError(f"{label}: {where}; take a smaller learning rate; {_kept(folder, ends)}.")
            del before  # the evaluation needs the room
            found, info = judged(state, *test), exchange.fetch(info)
            _note(history, e, end, end - start, found, info)
            history["seconds"] += time.perf_counter() - since
            if jax.process_count() > 1:  # whose log is read instead of a progress bar
                print(f"{label}: step {end} of {ends[-1]}, accuracy {found.accuracy.mean():.3f}", file=sys.stderr)
            if folder and ((e + 1) % save_every == 0 or e + 1 == count):
                _save(folder, key, e + 1, state, history, label)
    left = exchange.fetch({part: getattr(state, part) for part in final})
    return history | {f"final/{path}": leaf for path, leaf in trees.flatten(left).items()}


def state_of(found: dict[str, np.ndarray], method: Algorithm, variables: Variables, *, comm: Comm) -> State:
    """The state of all agents after a `run` that returned all `PARTS` of it, for another run to continue.

    Args:
      found: what the run returned.
      method: its algorithm.
      variables: that one agent started from; only their shapes are used.
      comm: the agents.
    """
    one = jax.eval_shape(method.init, jax.random.key(0), variables)
    parts = {part: getattr(one, part) for part in PARTS}
    whole = trees.map_with_path(lambda path, _: found[f"final/{path}"], parts)
    steps: Any = np.full(comm.agents, found["step"][-1], np.int32)
    return State(steps, **whole)


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is a number of at least 1; got {value}.")


@lru_cache
def _trainer(
    method: Algorithm, comm: Comm, runner: Callable, batch: int, prepare: Callable | None, draw: Callable
) -> Callable:
    """The same for every seed."""
    return trainer(method, comm=comm, runner=runner, batch=batch, prepare=prepare, draw=draw)


@lru_cache
def _judge(apply: Callable, comm: Comm, runner: Callable, shape: tuple[int, ...], weights: bytes) -> Callable:
    """The same for every method and seed."""
    return judge(apply, comm=comm, runner=runner, weights=np.frombuffer(weights).reshape(shape))


@jax.jit
def _finite(params: PyTree) -> Bool[Array, " agents"]:
    """Whether all parameters of each agent are finite."""
    flags = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))), params)
    return jax.tree.reduce(jnp.logical_and, flags)


def _diverged(train: Callable, state: State, times: range) -> str:
    """Name the first step and agent that diverged: the steps since the last evaluation are repeated one by one."""
    for t in times:
        state, info = train(state, t)
        flags = exchange.fetch(_finite(state.params))
        if not flags.all():
            agent, others = int(np.argmin(flags)), int((~flags).sum()) - 1
            loss = exchange.fetch(info).loss[agent]
            return f"step {t + 1}, at a loss of {loss:.4g}, made agent {agent} and {others} more NaN or infinite"
    return f"parameters became NaN or infinite in steps {times.start + 1} to {times.stop}"


def _kept(folder: Any, ends: list[int]) -> str:
    """What is left of a run that stops."""
    if not folder or folder.latest_step() is None:
        return "nothing was saved"
    return f"the checkpoint of step {ends[folder.latest_step()]} is kept in {folder.directory}"


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
    found = folder and checkpoint.restore(folder, whole, {"memory": memory, "history": history})
    if not found:
        return 0, state, history
    done, whole, carries = found
    saved = State(whole.step, whole.params, whole.batch_stats, whole.opt_state, carries["memory"])
    return done, exchange.place(saved, comm), {name: np.array(values) for name, values in carries["history"].items()}


def _whole(key: Key[Array, ""], state: State) -> tuple[TrainState, Any]:
    """The state as a checkpoint takes it: NumPy arrays of all agents, which any number of processes can read."""
    state = exchange.fetch(state)
    return TrainState(state.step, state.params, state.batch_stats, state.opt_state, key), state.memory
