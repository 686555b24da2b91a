"""Many steps of any method as one compiled program, and the test of what the agents have learnt."""

import weakref
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.core.keys import as_key
from subspace_jax.decentralized.gossip import Weights, mixing
from subspace_jax.decentralized.state import State, of_agents
from subspace_jax.training.fit import likes_scan
from subspace_jax.typing import Algorithm, Array, Float, Key, PyTree, Variables

QUEUE = 8  # dispatched steps with a collective; about 100 abort a process with several simulated devices


def stacked(key: Key[Array, ""], method: Algorithm, comm: Comm, variables: Variables | list[Variables]) -> State:
    """The states of all agents, (agents, ...), each on its own device.

    Args:
      key: for methods whose initial state is random.
      method: an algorithm made for `comm`.
      comm: the agents.
      variables: {"params": ..., "batch_stats": ...} from which all agents start, or a list of one for each of them.

    Raises:
      ValueError: a list of another length than the number of agents, or trees that differ; what `method.init` refuses.
    """
    key = as_key(key)
    if not isinstance(variables, list):
        return exchange.place(exchange.stack([method.init(key, variables)] * comm.agents), comm)
    if len(variables) != comm.agents:
        raise ValueError(f"{comm.agents} agents start from as many variables; got {len(variables)}.")
    return exchange.place(exchange.stack([method.init(key, own) for own in variables]), comm)


def uniform(key: Key[Array, ""], state: State, sets: PyTree, common: PyTree, batch: int) -> tuple[Array, ...]:
    """Rows of an agent's own sets, all with the same chance, with replacement."""
    rows = jax.random.randint(as_key(key), (batch,), 0, len(sets[0]))
    return tuple(part[rows] for part in sets)


def trainer(
    method: Algorithm,
    *,
    comm: Comm,
    runner: Callable,
    batch: int,
    prepare: Callable | None = None,
    draw: Callable = uniform,
) -> Callable:
    """A function (key, state, sets, start, steps, common=None) -> (state, mean Info): `steps` steps of all agents.

    Each agent draws each batch from its own set with replacement, by key, agent and number of the step alone: a run cut
    in parts, or by another runner, sees the same samples. `state` is as from `stacked`, `sets` is (x, y), stacked
    (agents, samples, ...) and placed by `exchange.place`, `start` the steps taken before, `common` what all agents
    have, placed by `exchange.copies`. Compiled once for each number of steps; step by step where the backend is slow at
    loops over convolutions.

    Args:
      method: an algorithm made for `comm`.
      comm: the agents.
      runner: `exchange.vmap`, `pmap` or `shard_map`.
      batch: samples per agent and step.
      prepare: (key, x) -> x on the device: scaling, augmentation.
      draw: (key, state, sets, common, batch) -> (x, y) of one agent.

    The function raises a ValueError for sets with NaN or infinite values, at its first call with them.
    """
    check = _once(_check_sets)

    def one(state, sets, key, t, common):
        pick, change, step = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, comm.index()), t), 3)
        x, *rest = draw(pick, state, sets, common, batch)
        state, info = method.step(step, state, (prepare(change, x) if prepare else x, *rest))
        return state, jax.tree.map(jnp.float32, info)

    def several(state, sets, key, times, common):
        state, infos = jax.lax.scan(lambda state, t: one(state, sets, key, t, common), state, times)
        return state, jax.tree.map(_mean, infos)

    single, span = (compiled(runner, runner(fn, comm, shared=(2, 3, 4))) for fn in (one, several))

    def train(key, state, sets, start, steps, common=None):
        check(sets)
        key = as_key(key)
        if likes_scan(state.params):
            return span(state, sets, key, start + np.arange(steps, dtype=np.int32), common)
        infos = []
        for t in range(start, start + steps):
            state, info = single(state, sets, key, np.int32(t), common)
            infos.append(info)
            if len(infos) % QUEUE == 0:
                jax.block_until_ready(info)
        return state, jax.tree.map(lambda *parts: _mean(jnp.stack(parts)), *infos)

    return train


class Judgement(NamedTuple):
    """Test accuracies and spread of the agents' models after some step.

    Attributes:
      accuracy: test accuracy of each agent's own model, (agents,).
      gossiped: test accuracy of each agent's model after one more exchange, (agents,).
      consensus: test accuracy of the mean of all models.
      distance: mean over agents of the squared distance of its parameters from the mean of all models.
    """

    accuracy: np.ndarray
    gossiped: np.ndarray
    consensus: float
    distance: float


def judge(apply: Callable, *, comm: Comm, runner: Callable, weights: Weights, chunk: int = 1000) -> Callable:
    """A function (state, x, y) -> Judgement that tests every agent on the same samples, on its own device.

    Args:
      apply: (variables, x) -> logits, at inference.
      comm: the agents.
      runner: as in `trainer`.
      weights: W of the one more exchange.
      chunk: samples tested at a time.
    """
    mix = mixing(comm, weights)

    def prepare(own, t):
        """Own, gossiped and mean variables of an agent, and its squared distance from the mean."""
        mean, params = comm.mean(own), own["params"]
        gossiped = own | {"params": mix(t, params, params)[0]}
        away = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), params, mean["params"])
        return (own, gossiped, mean), sum(jax.tree.leaves(away))

    right = of_agents(lambda variables, x, y: jnp.sum(apply(variables, x).argmax(-1) == y))

    def test(models, x, y):
        return jnp.stack([right(variables, x, y) for variables in models])

    models_of = compiled(runner, runner(prepare, comm))
    correct = compiled(runner, runner(test, comm, shared=(1, 2)))

    def run(state, x, y):
        models, distance = models_of({"params": state.params, "batch_stats": state.batch_stats}, state.step)
        parts = (slice(i, i + chunk) for i in range(0, len(x), chunk))
        counts = sum(exchange.fetch(correct(models, x[rows], y[rows])) for rows in parts)
        share = np.asarray(counts, np.float64) / len(x)
        return Judgement(share[:, 0], share[:, 1], float(share[0, 2]), float(np.mean(exchange.fetch(distance))))

    return run


def _mean(values: Float[Array, "steps ..."]) -> Float[Array, "..."]:
    """Mean over steps; exact, without rounding, if the value is the same in every step, as byte counts mostly are."""
    return values[0] + (values - values[:1]).mean(0)


def _check_sets(sets: PyTree) -> None:
    x, *rest = sets
    checks.check_finite("x of the agents", x)
    checks.check_finite("y of the agents", rest)


def _once(check: Callable) -> Callable:
    """The check, skipped if its last call was with the same arrays, of which it keeps only weak references."""
    passed = []

    def run(tree):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if checks.is_known(leaf)]
        if [id(ref()) for ref in passed] != [id(leaf) for leaf in leaves]:
            check(tree)
            passed[:] = map(weakref.ref, leaves)

    return run


def compiled(runner: Callable, run: Callable) -> Callable:
    """What a runner made, compiled: `pmap` compiles by itself."""
    return run if runner is exchange.pmap else jax.jit(run)
