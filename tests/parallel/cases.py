"""Small runs of a few workers: graphs, a step in NumPy, what a step of another worker would have sent."""

import functools
import os
import signal
import time

import jax
import numpy as np

from subspace_jax.core import topology
from subspace_jax.parallel import asap

DIRECTED = "directed_ring", "exponential"
UNDIRECTED = "ring", "full", "star", "random"
POLICIES = {
    "bsp": asap.bsp(), "notify_ack": asap.notify_ack(), "notify_ack_3": asap.notify_ack(depth=3),
    "ssp": asap.ssp(staleness=2), "ssp_0": asap.ssp(staleness=0), "asynchronous": asap.asynchronous(),
}  # fmt: skip
EXACT = "bsp", "notify_ack", "notify_ack_3"


def graph(name, n, seed=0):
    if name == "random":
        return topology.best_expander(jax.random.key(seed), n + n % 2, degree=3, trials=20)
    return topology.build(name, n)


def weights(name, n, seed=0):
    adjacency = graph(name, n, seed)
    return (topology.uniform if name in DIRECTED else topology.metropolis_hastings)(adjacency)


def times(seed, iterations, n, sigma=1.0):
    return asap.lognormal_times(jax.random.key(seed), iterations, n, sigma=sigma)


def step(worker, iteration, model):
    """Differs by worker and iteration, and contracts."""
    return 0.9 * model + np.sin(worker + iteration * np.arange(1, 1 + model.size)).reshape(model.shape)


def start(n, size=3):
    return np.random.default_rng(0).normal(size=(n, size))


def factory():
    return step


def broken(worker, iteration, model):
    if (worker, iteration) == (1, 3):
        raise FloatingPointError("too much")
    return step(worker, iteration, model)


def breaking():
    return broken


def killed_late(pipe):
    """Its pipe closes a while before the process ends."""
    pipe.close()
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def constant(worker, iteration, model):
    """Every entry of a model is the same: half of one and half of another would show."""
    if not (model == model[0]).all():
        raise AssertionError("half a message")
    return np.full_like(model, worker + 10.0 * iteration)


def constants():
    return constant


@functools.cache
def simulated(policy, name="ring", n=6, seed=0, iterations=12):
    w = weights(name, n, seed)
    drawn = times(seed, iterations, len(w))
    return w, drawn, asap.simulate(step, start(len(w)), w, policy=POLICIES[policy], times=drawn)
