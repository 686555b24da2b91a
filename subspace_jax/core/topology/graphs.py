"""Graphs by construction, by name, and from networkx. "Agent i hears j" means that i receives from j: A[i, j]."""

import math
import numbers
import warnings
from typing import Any

import numpy as np

from subspace_jax.core.topology.mixing import metropolis_hastings, uniform
from subspace_jax.core.topology.named import dyck, florentine, petersen, undirected
from subspace_jax.typing import Bool, Float


def ring(n: int) -> Bool[np.ndarray, "n n"]:
    """Agent i hears i - 1 and i + 1. Every graph here takes at least 2 agents and raises a ValueError otherwise."""
    return _circulant(n, (1, -1))


def directed_ring(n: int) -> Bool[np.ndarray, "n n"]:
    """Agent i hears i - 1 alone."""
    return _circulant(n, (1,))


def exponential(n: int) -> Bool[np.ndarray, "n n"]:
    """Static exponential-2 graph, directed: agent i hears i - 1, i - 2, i - 4, ..., as far as 2^k < n.

    Assran et al., "Stochastic gradient push", ICML 2019.
    """
    _check_size(n)
    return _circulant(n, _hops(n))


def full(n: int) -> Bool[np.ndarray, "n n"]:
    """Everybody hears everybody."""
    return _circulant(n, range(1, n))


def chain(n: int) -> Bool[np.ndarray, "n n"]:
    """A ring without the edge between the last agent and the first."""
    _check_size(n)
    return undirected(n, [(i, i + 1) for i in range(n - 1)])


def star(n: int) -> Bool[np.ndarray, "n n"]:
    """Edges between agent 0 and every other agent."""
    _check_size(n)
    return undirected(n, [(0, i) for i in range(1, n)])


def torus(n: int) -> Bool[np.ndarray, "n n"]:
    """The most square grid rows x columns = n with both ends joined, four neighbours each; agents in row-major order.

    Raises:
      ValueError: n without two factors of at least 3 (a side of 2 would join the same agents twice).
    """
    rows = _rows(n)
    if rows < 3:
        near = [m for m in range(max(n - 9, 9), max(n, 0) + 10) if _rows(m) >= 3]
        raise ValueError(
            f"a torus is rows x columns with both at least 3, but {n} is {_why(n)}; take "
            f"{min(near, key=lambda m: abs(m - n))} agents, or another graph."
        )
    agent = np.arange(n).reshape(rows, -1)
    beside = [np.stack([agent, np.roll(agent, -1, axis)], -1).reshape(-1, 2) for axis in (0, 1)]
    return undirected(n, np.concatenate(beside))


def grid(n: int) -> Bool[np.ndarray, "n n"]:
    """The most square mesh rows x columns = n, 24 as 4 x 6: a torus of which no ends are joined; row-major order.

    Two neighbours in a corner, three at a side, four inside.

    Raises:
      ValueError: n without two factors of at least 2 (a chain has one row).
    """
    rows = _rows(n)
    if rows < 2:
        raise ValueError(
            f"a grid is rows x columns with both at least 2, but {n} is {_why(n)}; take "
            f"{max(n, 3) + 1} agents, or a chain."
        )
    agent = np.arange(n).reshape(rows, -1)
    beside = [(agent[:, :-1], agent[:, 1:]), (agent[:-1], agent[1:])]
    return undirected(n, np.concatenate([np.stack(pair, -1).reshape(-1, 2) for pair in beside]))


def one_peer_exponential(n: int) -> Float[np.ndarray, "steps n n"]:
    """Mixing matrices of the one-peer exponential graph: in step t agent i averages itself with i - 2^(t mod T).

    One message per agent and step. For n a power of two T = log2(n) steps average EXACTLY: the product is 11' / n.
    Ying et al., "Exponential graph is provably efficient for decentralized deep training", NeurIPS 2021.

    Returns:
      (T, n, n), T = ceil(log2(n)).

    Warns:
      UserWarning: n is no power of two; T steps then average only approximately.
    """
    if n & (n - 1):
        warnings.warn(
            f"one-peer exponential averages exactly for a power of two only; {n} agents do not.", stacklevel=2
        )
    return np.stack([uniform(_circulant(n, (hop,))) for hop in _hops(n)])


def from_networkx(graph: Any) -> Bool[np.ndarray, "n n"]:
    """The adjacency of a networkx graph; agents in the order of `graph.nodes`.

    An edge u -> v of a directed graph means that v receives from u. Edge weights are ignored, parallel edges count
    once and self-loops not at all: an agent always averages its own model in.
    """
    number = {node: i for i, node in enumerate(graph.nodes)}
    adjacency = np.zeros((len(number), len(number)), bool)
    for u, v in graph.edges():
        adjacency[number[v], number[u]] = True
    np.fill_diagonal(adjacency, False)
    return adjacency if graph.is_directed() else adjacency | adjacency.T


SIZED = {
    "ring": ring,
    "directed_ring": directed_ring,
    "torus": torus,
    "grid": grid,
    "chain": chain,
    "star": star,
    "full": full,
    "exponential": exponential,
    "one_peer_exponential": exponential,  # all of its steps together
}
FIXED = {"petersen": petersen, "dyck": dyck, "florentine": florentine}
GRAPHS = (*SIZED, *FIXED)


def build(name: str, n: int) -> Bool[np.ndarray, "n n"]:
    """The adjacency of a graph of `GRAPHS` with n agents; `one_peer_exponential` gives the edges of all its steps.

    Raises:
      ValueError: an unknown name, or an n that this graph does not have.
    """
    if name in SIZED:
        return SIZED[name](n)
    if name not in FIXED:
        raise ValueError(f"graph is one of {', '.join(GRAPHS)}; got {name!r}.")
    adjacency = FIXED[name]()
    if len(adjacency) != n:
        raise ValueError(f"{name} has {len(adjacency)} agents; got {n}.")
    return adjacency


def weights(name: str, n: int) -> Float[np.ndarray, "*steps n n"]:
    """Doubly stochastic weights of a graph of `GRAPHS` with n agents.

    Metropolis-Hastings where it is undirected, `uniform` where it is directed, the stack (T, n, n) of
    `one_peer_exponential`. Raises what `build` raises.
    """
    if name == "one_peer_exponential":
        return one_peer_exponential(n)
    adjacency = build(name, n)
    return (metropolis_hastings if (adjacency == adjacency.T).all() else uniform)(adjacency)


def _circulant(n: int, hops) -> Bool[np.ndarray, "n n"]:
    """Agent i hears i - hop for each of them."""
    _check_size(n)
    adjacency = np.zeros((n, n), bool)
    agent = np.arange(n)
    for hop in hops:
        adjacency[agent, (agent - hop) % n] = True
    return adjacency


def _hops(n: int) -> list[int]:
    _check_size(n)
    return [2**k for k in range((n - 1).bit_length())]


def _check_size(n: int) -> None:
    if not isinstance(n, numbers.Integral) or n < 2:
        raise ValueError(f"a graph takes at least 2 agents, got {n}.")


def _rows(n: int) -> int:
    """The largest factor of n up to its root; 0 where there is none."""
    return max((rows for rows in range(1, math.isqrt(max(n, 0)) + 1) if n % rows == 0), default=0)


def _why(n: int) -> str:
    rows = _rows(n)
    return "prime" if rows == 1 and n > 1 else f"{rows} x {n // rows} at best" if rows else "no number of agents"
