"""One seed of asynchronous: makespans without training, a training study by a simulated clock, runs by the real one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.asynchronous import methods
from experiments.asynchronous.methods import Method
from experiments.harness import flags, sets
from subspace_jax import data, nn
from subspace_jax.core import topology
from subspace_jax.data import partition
from subspace_jax.parallel import asap

if TYPE_CHECKING:
    from experiments.asynchronous.experiment import Config

INIT_KEY, PARTITION_KEY, BATCH_KEY, TIMES_KEY, WALL_KEY, MAKESPAN_KEY = range(6)  # folded into the seed's key
SETTINGS = "jitter", "straggler"
SIZES, SIGMAS, GRAPHS, REPEATS = (8, 16, 32), (0.5, 1.0), ("ring", "regular", "full"), 2  # of the makespans
LOOKS = 120  # at the accuracy where there is no common iteration
SHOWN = 25.0  # mean compute times in the picture of who waits
CHECKED = 100  # iterations in which the simulator is compared with the recursion
ERROR = 0.01  # left of the distance from the mean, in the table of graphs


class Setup(NamedTuple):
    """What all seeds and methods share."""

    x: np.ndarray
    label: np.ndarray
    test: tuple[np.ndarray, np.ndarray]
    init: Callable
    settings: dict[str, Any]
    apply: Callable
    params: Any
    unravel: Callable


def setup(config: Config) -> Setup:
    """Load the data and build the network, all in float64."""
    jax.config.update("jax_enable_x64", True)
    found = sets.load(config, config.samples)
    raw = data.inputs(found.train)
    scaling = data.scaling(config.data, raw)
    x, test = (np.asarray(data.scale(inputs, scaling)) for inputs in (raw, data.inputs(found.test)))
    settings = {"classes": found.classes, "dtype": "float64"} | flags.network_arguments(config)
    settings |= {"widths": tuple(config.widths)} if config.widths else {}
    apply, params = asap.classifier(config.model, settings, x[:1])
    init = nn.build(config.model, **settings).init
    unravel = ravel_pytree(params)[1]
    return Setup(x, found.train["label"], (test, found.test["label"]), init, settings, apply, params, unravel)


def keyed(seed: int, use: int) -> Any:
    """The key of one use."""
    return jax.random.fold_in(jax.random.key(seed), use)


def spread(shared: Setup, seed: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """The workers' own samples: equal parts of a shuffle."""
    parts = partition.iid(keyed(seed, PARTITION_KEY), shared.label, agents=workers)
    return shared.x[parts], shared.label[parts]


def beginning(shared: Setup, seed: int, workers: int) -> np.ndarray:
    """One start for all workers."""
    params = jax.jit(shared.init)(keyed(seed, INIT_KEY), shared.x[:1])["params"]
    return np.tile(np.asarray(ravel_pytree(params)[0], np.float64), (workers, 1))


def times(config: Config, seed: int, setting: str, until: float = 0.0) -> np.ndarray:
    """Compute times of all workers, as many rows as they need until then, at least --iterations."""
    factor, rows = config.straggler if setting == "straggler" else 1.0, config.iterations
    draw = functools.partial(asap.lognormal_times, keyed(seed, TIMES_KEY), sigma=config.sigma, straggler=factor)
    while (drawn := draw(rows, config.workers)).sum(0).min() < until:
        rows *= 2
    return drawn


def link(config: Config, method: Method) -> dict[str, Any]:
    """What messages take, in models; those of an all-reduce are 2 / N each, N - 1 of them as many as a ring sends."""
    size = 2 / config.workers if method.reduces else 1.0
    return {"latency": config.latency, "bandwidth": config.bandwidth or np.inf, "nbytes": size}


def trained(config: Config, shared: Setup, seed: int, setting: str, method: Method) -> dict[str, Any]:
    """One method to the end time of bsp: accuracy of the mean model over time and over samples, and who waited."""
    until = end_of_bsp(config, seed, setting)
    drawn = times(config, seed, setting, until)
    drawn = drawn[: config.iterations] if method.policy.barrier else drawn
    weights = methods.weights(config, method.graph, config.workers)
    run = functools.partial(asap.simulate, weights=weights, policy=method.policy, times=drawn, **link(config, method))
    step = asap.sgd_step(
        keyed(seed, BATCH_KEY), shared.apply, shared.params, spread(shared, seed, config.workers), batch=config.batch,
        lr=config.lr,
    )  # fmt: skip
    look = by_iteration if method.policy.exact else by_time
    looked = look(config, run, step, beginning(shared, seed, config.workers), until)
    asap.check_trace(looked.trace, weights, policy=method.policy)
    accuracy = accuracies(shared, np.stack([*looked.models, looked.equal]))
    return described(config, looked.trace, until) | {
        "at": looked.at, "steps": looked.steps, "accuracy": accuracy[:-1], "equal": accuracy[-1]
    }  # fmt: skip


class Looked(NamedTuple):
    """Mean models on the way, when they were there, behind how many steps; that of as many samples as bsp sees."""

    trace: asap.Trace
    at: np.ndarray
    steps: np.ndarray
    models: list[np.ndarray]
    equal: np.ndarray


def by_iteration(config: Config, run: Callable, step: Callable, start: np.ndarray, until: float) -> Looked:
    """Where all workers compute the same iterations: the mean model of one is there when the last worker has folded."""
    means: dict[int, np.ndarray] = {}

    def folded(_: int, t: int, model: np.ndarray) -> None:
        if t % config.every == 0 or t == config.iterations:
            means[t] = means.get(t, 0.0) + model / len(start)

    trace = run(step, start, until=until, folded=folded).trace
    ends = asap.when(trace, "fold", len(start)).max(1)
    done = [t for t in means if np.isfinite(ends[t - 1])]
    looks = [t for t in done if t % config.every == 0]
    return Looked(
        trace, ends[np.array(looks) - 1], np.array(looks), [means[t] for t in looks],
        means[config.iterations if config.iterations in done else max(done)],
    )  # fmt: skip


def by_time(config: Config, run: Callable, step: Callable, start: np.ndarray, until: float) -> Looked:
    """Where they do not: the mean of what they hold at equally spaced times, and when enough steps are done."""
    at = until * np.arange(1, LOOKS + 1) / LOOKS
    done = np.sort(run(None, None, until=until).trace.of("end").time)
    equal = float(done[min(len(start) * config.iterations, len(done)) - 1])
    both = np.sort(np.append(at, equal))
    made = run(step, start, until=until, at=both.tolist(), observe=lambda _, models: np.mean(models, 0))
    place = int(np.searchsorted(both, equal))
    same = made.observed.pop(place)
    return Looked(made.trace, at, np.searchsorted(done, at, side="right") / len(start), made.observed, same)


def end_of_bsp(config: Config, seed: int, setting: str) -> float:
    """When bsp over the graph has done its iterations."""
    method = Method(config.graph, asap.bsp())
    weights = methods.weights(config, config.graph, config.workers)
    drawn = times(config, seed, setting)[: config.iterations]
    return asap.simulate(None, None, weights, policy=method.policy, times=drawn, **link(config, method)).seconds


def accuracies(shared: Setup, models: np.ndarray) -> np.ndarray:
    """Test accuracy of each model."""
    return np.asarray(_accuracies(shared.apply, shared.unravel, models, *shared.test))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _accuracies(apply: Callable, unravel: Callable, models: Any, x: Any, y: Any) -> Any:
    return jax.lax.map(lambda model: (apply(unravel(model), x).argmax(1) == y).mean(dtype="float64"), models)


def described(config: Config, trace: asap.Trace, until: float) -> dict[str, Any]:
    """Traffic, waiting, staleness, and the first computations of every worker."""
    starts, ends = (asap.when(trace, kind, config.workers) for kind in ("start", "end"))
    computed = np.nansum(np.where(np.isnan(ends), until, ends) - starts)
    early = np.argwhere((starts < SHOWN) & ~np.isnan(ends))
    return {
        "until": until,
        "sent": len(trace.of("send").time) / len(trace.of("end").time),
        "waiting": max(0.0, 1 - computed / (config.workers * until)),
        "staleness": asap.staleness(trace).mean(),
        "computing": np.array([(i, starts[t, i], ends[t, i]) for t, i in early]),
    }


def makespans(config: Config, seed: int) -> dict[str, Any]:
    """Speed-up of NOTIFY-ACK over barriers by graph, size and sigma; how far the simulator is from the recursion."""
    found, away = {}, [0.0]
    for sigma in SIGMAS:
        for n in SIZES:
            drawn = [
                asap.lognormal_times(jax.random.fold_in(keyed(seed, MAKESPAN_KEY), r), config.draws, n, sigma=sigma)
                for r in range(REPEATS)
            ]
            for graph in GRAPHS:
                adjacency = methods.adjacency(config, graph, n)
                gains = [asap.barriers(own)[-1] / asap.makespan(own, adjacency)[-1].max() for own in drawn]
                found[f"{graph}_{n}/sigma_{sigma}"] = np.mean(gains)
                if n == SIZES[1]:
                    away.append(apart(drawn[0][:CHECKED], adjacency))
    return found | {"oracle_difference": max(away)}


def apart(drawn: np.ndarray, adjacency: np.ndarray) -> float:
    """The largest difference between simulated end times and those of the recursion."""
    weights = topology.metropolis_hastings(adjacency)
    run = asap.simulate(None, None, weights, policy=asap.notify_ack(), times=drawn)
    ends = asap.when(run.trace, "fold", len(adjacency))
    return float(np.abs(ends - asap.makespan(drawn, adjacency)).max())


def timed(config: Config, shared: Setup, seed: int, kind: str, count: int) -> dict[str, Any]:
    """NOTIFY-ACK on a ring by the real clock, in threads with a barrier too; and what the clock should have shown."""
    key = jax.random.fold_in(keyed(seed, WALL_KEY), count)
    drawn = asap.lognormal_times(key, config.wall_iterations, count, sigma=config.sigma) * config.compute_ms / 1000
    weights, start = topology.weights("ring", count), beginning(shared, seed, count)
    batches = jax.random.key_data(keyed(seed, BATCH_KEY))  # pickles, for a process
    given, settings = spread(shared, seed, count), {"batch": config.batch, "lr": config.lr}
    step = asap.sgd_step(batches, shared.apply, shared.params, given, **settings)
    expected = asap.synchronous(step, start, weights, iterations=config.wall_iterations)
    factory = functools.partial(asap.classifier_step, batches, config.model, shared.settings, given, **settings)
    clock = {
        "threads": functools.partial(asap.run_threads, step),
        "processes": functools.partial(asap.run_processes, factory),
    }[kind]
    found: dict[str, Any] = {"simulated": asap.makespan(drawn, topology.ring(count))[-1].max(), "difference": 0.0}
    policies = {"notify_ack": asap.notify_ack()} | ({"bsp": asap.bsp()} if kind == "threads" else {})
    for name, policy in policies.items():
        made = clock(start, weights, policy=policy, times=drawn, timeout=config.timeout)
        asap.check_trace(made.trace, weights, policy=policy)
        found[f"wall/{name}"] = made.seconds
        found["difference"] = max(found["difference"], float(np.abs(made.models - expected).max()))
    return found


def graphs(config: Config) -> dict[str, tuple[float, float, float, float]]:
    """Spectral radius, messages a round, rounds and messages until 1 % is left, of graphs of --workers."""
    found = {}
    for name in ("ring", "regular", "exponential", "full"):
        weights = methods.weights(config, name, config.workers)
        cost = asap.reduce_cost(weights, error=ERROR)
        degree = cost.messages / cost.rounds
        found[name] = (topology.spectral_radius(weights), degree, float(cost.rounds), cost.messages)
    return found
