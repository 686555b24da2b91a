"""The methods that asynchronous compares, the graphs they average over, and the clocks they run by."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from subspace_jax.core import topology
from subspace_jax.parallel import asap

if TYPE_CHECKING:
    from experiments.asynchronous.experiment import Config

POLICIES = "bsp_all_reduce", "bsp", "notify_ack", "asynchronous", "ssp"


class Method(NamedTuple):
    """A policy over a graph."""

    graph: str
    policy: asap.Policy

    @property
    def reduces(self) -> bool:
        """Whether it is an all-reduce, which sends less than every worker's model to every other one."""
        return self.policy.barrier and self.graph == "full"


def check(config: Config) -> None:
    """Refuse what cannot be run, before anything is.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    for name in config.policy:
        if name not in (*POLICIES, "all"):
            raise ValueError(f"--policy is one or several of {', '.join(POLICIES)}, all; got {name!r}.")
    for flag in ("iterations", "every", "wall_iterations", "batch", "draws"):
        if getattr(config, flag) < 1:
            raise ValueError(f"--{flag.replace('_', '-')} must be at least 1; got {getattr(config, flag)}.")
    for flag in ("compute_ms", "timeout", "straggler", "lr"):
        if not getattr(config, flag) > 0:
            raise ValueError(f"--{flag.replace('_', '-')} must be above 0; got {getattr(config, flag)}.")
    for flag in ("latency", "bandwidth", "sigma"):
        if not getattr(config, flag) >= 0:
            raise ValueError(f"--{flag} must be at least 0; got {getattr(config, flag)}.")
    if config.iterations < config.every:
        raise ValueError(f"--every is at most --iterations; got {config.every} and {config.iterations}.")
    if config.runner == "processes" and config.processes < 2:
        raise ValueError(f"--runner processes takes at least 2 --processes; got {config.processes}.")
    if config.processes == 1 or config.processes < 0 or any(n < 2 for n in config.threads):
        raise ValueError(f"workers are at least 2; got --threads {config.threads} and --processes {config.processes}.")
    asap.ssp(staleness=config.staleness)
    weights(config, config.graph, config.workers)


def methods(config: Config) -> dict[str, Method]:
    """The methods by name; bsp over the graph is always there, to be compared with."""
    policies = {
        "bsp_all_reduce": asap.bsp(), "bsp": asap.bsp(), "notify_ack": asap.notify_ack(),
        "asynchronous": asap.asynchronous(), "ssp": asap.ssp(staleness=config.staleness),
    }  # fmt: skip
    return {
        name if name == "bsp_all_reduce" else f"{name}_{config.graph}": Method(
            "full" if name == "bsp_all_reduce" else config.graph, policy
        )
        for name, policy in policies.items()
        if name == "bsp" or {name, "all"} & set(config.policy)
    }


def adjacency(config: Config, graph: str, n: int) -> np.ndarray:
    """A graph of n workers; a regular one has at most n - 1 neighbours a worker."""
    return topology.build(graph, n) if graph != "regular" else _regular(config.seed, n, min(config.degree, n - 1))


def weights(config: Config, graph: str, n: int) -> np.ndarray:
    """Its doubly stochastic weights."""
    found = adjacency(config, graph, n)
    return (topology.metropolis_hastings if (found == found.T).all() else topology.uniform)(found)


def clocks(config: Config) -> list[tuple[str, int]]:
    """(kind, workers) of every run by the real clock."""
    listed = [("threads", n) for n in config.threads] if config.runner in ("threads", "all") else []
    if config.runner in ("processes", "all") and config.processes:
        listed.append(("processes", config.processes))
    return listed


@functools.lru_cache
def _regular(seed: int, n: int, degree: int) -> np.ndarray:
    """The best of many random graphs."""
    return topology.best_expander(jax.random.key(seed), n, degree=degree)
