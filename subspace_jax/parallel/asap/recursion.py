"""How long a run takes, without running it: a recursion over the iterations in which only max and plus occur."""

import jax
import numpy as np

from subspace_jax.core.checks import check_count, on_host
from subspace_jax.core.keys import as_key
from subspace_jax.core.topology.mixing import metropolis_hastings
from subspace_jax.parallel.asap.policies import Numbers, checked_times
from subspace_jax.typing import Array, Bool, Float, Key


@on_host
def makespan(times: Numbers, adjacency: Bool[np.ndarray, "n n"]) -> Float[np.ndarray, "iterations n"]:
    """When each worker ends each iteration under NOTIFY-ACK, if messages take no time.

    S_i(t) = max over i and its neighbours j of S_j(t - 1) + tau_j(t), S(0) = 0, with tau the compute times. The last
    row's largest entry is the length of the run. On the complete graph it is that of `barriers`.

    Args:
      times: tau, (iterations, N), above 0.
      adjacency: (N, N) of an undirected graph; on a directed one acknowledgements matter too: `simulate` it.

    Returns:
      S, (iterations, N).

    Raises:
      ValueError: times that are not above 0 or of another shape; an edge without its reverse.
    """
    metropolis_hastings(adjacency)  # refuses what is no undirected graph
    hears = np.asarray(adjacency, bool) | np.eye(len(adjacency), dtype=bool)
    times = checked_times(times, len(hears))
    ends, before = np.empty_like(times), np.zeros(len(hears))
    for t, own in enumerate(times):
        before = ends[t] = np.where(hears, before + own, -np.inf).max(1)
    return ends


def barriers(times: Numbers) -> Float[np.ndarray, " iterations"]:
    """When each iteration ends with a barrier behind it: the sum of the slowest worker's times, (iterations,)."""
    return np.cumsum(np.max(times, axis=1))


@on_host
def lognormal_times(
    key: Key[Array, ""], iterations: int, workers: int, *, sigma: float, straggler: float = 1.0
) -> Float[np.ndarray, "iterations n"]:
    """Random compute times of mean 1: exp(N(-sigma^2 / 2, sigma^2)); those of worker 0 are `straggler` times as long.

    More iterations only add rows: the first ones stay.

    Args:
      key: same key, same times.
      iterations: rows.
      workers: columns.
      sigma: deviation of the logarithm, at least 0; 0 gives equal times.
      straggler: factor of worker 0, above 0.

    Raises:
      ValueError: sigma below 0, straggler not above 0, no worker, a negative number of iterations.
    """
    if not sigma >= 0 or not straggler > 0:
        raise ValueError(f"sigma is at least 0 and straggler above 0; got {sigma} and {straggler}.")
    check_count("iterations", iterations, 0)
    check_count("workers", workers)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
    times = np.exp(sigma * rng.normal(size=(iterations, workers)) - sigma**2 / 2)
    times[:, 0] *= straggler
    return times
