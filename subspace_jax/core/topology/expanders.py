"""Random regular graphs, and among many of them the one on which gossip agrees fastest."""

import math

import jax
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.core.topology.mixing import components, metropolis_hastings, spectral_radius
from subspace_jax.core.topology.named import undirected
from subspace_jax.typing import Array, Bool, Key


@checks.on_host
def random_regular(key: Key[Array, ""], n: int, *, degree: int) -> Bool[np.ndarray, "n n"]:
    """A random undirected graph of n agents with `degree` neighbours each; it may be disconnected.

    The ends of all edges are joined in random pairs; pairs that would be a loop or a second edge are dealt again, and
    where none of what is left can be joined, everything is. Steger and Wormald, "Generating random regular graphs
    quickly", 1999.

    Args:
      key: same key, same graph.
      n: agents.
      degree: neighbours of each, in [1, n - 1]; n * degree is even.

    Raises:
      ValueError: a graph that does not exist.
    """
    if not 1 <= degree < n or n * degree % 2:
        raise ValueError(
            f"agents of a regular graph have 1 to n - 1 neighbours, n * degree is even; got n {n} and degree {degree}."
        )
    return _joined(np.random.default_rng(np.asarray(jax.random.key_data(as_key(key)))), n, degree)


@checks.on_host
def best_expander(key: Key[Array, ""], n: int, *, degree: int, trials: int = 200) -> Bool[np.ndarray, "n n"]:
    """Of `trials` random regular graphs the connected one whose Metropolis-Hastings weights agree fastest.

    That of the smallest `spectral_radius`, which for large n cannot fall below (1 + 2 sqrt(degree - 1)) / (1 + degree)
    (Alon and Boppana).

    Args:
      key: same key, same graph.
      n: agents.
      degree: neighbours of each, as in `random_regular`.
      trials: graphs to draw, at least 1.

    Raises:
      ValueError: no such graph; trials below 1; none of the drawn graphs connected, as always with degree 1 and n > 2.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1; got {trials}.")
    key, best, least = as_key(key), None, math.inf
    for trial in range(trials):
        graph = random_regular(jax.random.fold_in(key, trial), n, degree=degree)
        radius = spectral_radius(metropolis_hastings(graph))
        if radius < least and components(graph) == 1:
            best, least = graph, radius
    if best is None:
        raise ValueError(f"none of {trials} graphs of {n} agents with {degree} neighbours is connected: take more.")
    return best


def _joined(rng: np.random.Generator, n: int, degree: int) -> Bool[np.ndarray, "n n"]:
    """Pairs of all ends, dealt until they make a graph."""
    edges: set[tuple[int, int]] = set()
    ends = np.repeat(np.arange(n), degree)
    while len(ends):
        left = []
        for pair in rng.permutation(ends).reshape(-1, 2):
            edge = (int(pair.min()), int(pair.max()))
            if edge[0] == edge[1] or edge in edges:
                left += edge
            else:
                edges.add(edge)
        kinds = sorted(set(left))
        if left and all(a == b or (a, b) in edges for a in kinds for b in kinds if a <= b):
            edges, left = set(), np.repeat(np.arange(n), degree).tolist()
        ends = np.array(left, int)
    return undirected(n, sorted(edges))
