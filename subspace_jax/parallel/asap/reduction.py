"""Averages over a sparse graph in place of an all-reduce: how exact after some rounds, at what traffic."""

import math
from typing import NamedTuple

import numpy as np

from subspace_jax.core import topology
from subspace_jax.core.checks import as_real, check_finite, on_host
from subspace_jax.core.topology.mixing import square
from subspace_jax.parallel.asap.policies import Numbers


class Cost(NamedTuple):
    """Rounds until all agree, and the messages that a worker sends for it."""

    rounds: int
    messages: float


@on_host
def stochastic_reduce(x: Numbers, weights: Numbers, *, rounds: int) -> Numbers:
    """Every worker's weighted mean after some rounds over its neighbours: W^rounds x.

    Doubly stochastic W keeps the mean, and ||x - mean|| falls at least by the factor `contraction` a round: on a
    connected graph the limit is the mean. Where only rows sum to 1 the limit is pi'x with pi' W = pi', which is biased.

    Args:
      x: (N, ...), a row for each worker.
      weights: W (N, N), rows sum to 1, or (T, N, N) that are taken in turn.
      rounds: how many, at least 0.

    Raises:
      ValueError: rows that do not sum to 1 or of another number than x has; a disconnected graph; rounds below 0.
    """
    weights = as_real("weights", weights)
    topology.check_weights(weights.swapaxes(-1, -2), agents=len(x), connected=True, columns_only=True)
    if rounds < 0:
        raise ValueError(f"rounds are at least 0; got {rounds}.")
    stack, x = weights.reshape(-1, len(x), len(x)), np.asarray(x)
    for t in range(rounds):
        x = np.tensordot(stack[t % len(stack)], x, 1)
    return x


@on_host
def contraction(weights: Numbers) -> float:
    """The second largest singular value of W (N, N): what a round leaves of the distance from the mean, at most.

    `topology.spectral_radius` where W is symmetric; on a directed graph it may be larger, even 1.
    """
    w = square(weights)
    check_finite("weights", w, remedy="repair these weights")
    return float(np.linalg.svd(w - 1 / len(w), compute_uv=False)[0])


@on_host
def reduce_cost(weights: Numbers, *, error: float) -> Cost:
    """Rounds until the distance from the mean has fallen to `error` of itself, and the messages a worker sends in them.

    log(error) / log(contraction) rounds, rounded up, and 1 where a round is exact.

    Args:
      weights: doubly stochastic W (N, N) of a connected graph.
      error: share of the distance that may be left, in (0, 1).

    Raises:
      ValueError: other weights, an error outside (0, 1), a graph whose rounds need not shrink the distance at all.
    """
    weights, rho = topology.check_weights(weights, connected=True), contraction(weights)
    if not 0 < error < 1:
        raise ValueError(f"error is the share of the distance that may be left, in (0, 1); got {error}.")
    if rho >= 1 - topology.mixing.TOLERANCE:
        raise ValueError("a round need not bring the workers closer over this graph: take symmetric weights.")
    degree = float((weights > 0).sum() - (weights.diagonal() > 0).sum()) / len(weights)
    rounds = max(1, math.ceil(math.log(error) / math.log(max(rho, 1e-300)) - topology.mixing.TOLERANCE))
    return Cost(rounds, rounds * degree)
