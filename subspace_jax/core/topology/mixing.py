"""Mixing matrices: the weights of a graph, how fast they average, and whether they average at all."""

import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Bool, Float, Num, Shaped

TOLERANCE = 1e-8  # of a row or column sum: far above float64 rounding, far below any weight of a graph
Matrix = Num[Array | np.ndarray, "..."]  # shapes are checked by our own error messages, not by the type


@checks.on_host
def metropolis_hastings(adjacency: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "n n"]:
    """Symmetric doubly stochastic weights of any undirected graph: w_ij = 1 / (1 + max(d_i, d_j)), w_ii the rest.

    On a regular graph every weight is 1 / (1 + degree). An agent without neighbours keeps all of its own.
    Xiao and Boyd, "Fast linear iterations for distributed averaging", 2004.

    Raises:
      ValueError: no square matrix, a self-loop, or an edge without its reverse.
    """
    adjacency = _adjacency(adjacency)
    _check_reverse(adjacency)
    degree = adjacency.sum(1)
    w = adjacency / (1.0 + np.maximum(degree[:, None], degree[None]))
    return w + np.diag(1 - w.sum(1))


@checks.on_host
def uniform(adjacency: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "n n"]:
    """Equal weights of an agent and all it hears: w_ij = 1 / (1 + in-degree of i). Directed graphs too.

    Raises:
      ValueError: no square matrix, a self-loop, or weights that are not doubly stochastic; they are where all in- and
        out-degrees are equal.
    """
    adjacency = _adjacency(adjacency)
    return check_weights((adjacency + np.eye(len(adjacency))) / (1.0 + adjacency.sum(1))[:, None])


@checks.on_host
def spectral_radius(W: Matrix) -> float:
    """Second largest |eigenvalue| rho of W (N, N): a gossip round shrinks the disagreement of agents by it.

    0 averages exactly in one round (and for a single agent); 1 never does: the graph is disconnected, or W is a plain
    permutation. For a stack take that of the product of its matrices.

    Raises:
      ValueError: no square matrix.
    """
    w = square(W)
    checks.check_finite("mixing weights", w, remedy="repair these weights")
    return float(np.sort(np.abs(np.linalg.eigvals(w)))[-2]) if len(w) > 1 else 0.0


@checks.on_host
def spectral_gap(W: Matrix) -> float:
    """1 - rho, rho = `spectral_radius`: the larger, the fewer rounds to agree."""
    return 1 - spectral_radius(W)


@checks.on_host
def components(adjacency: Shaped[np.ndarray, "..."]) -> int:
    """Number of connected components, strongly connected ones in a directed graph; 1 where the graph is connected.

    Raises:
      ValueError: no square matrix, a self-loop.
    """
    adjacency = _adjacency(adjacency)
    reach = adjacency | np.eye(len(adjacency), dtype=bool)
    for _ in range(len(reach).bit_length()):  # each squaring doubles the length of the paths
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return len(np.unique(reach & reach.T, axis=0))


@checks.on_host
def check_weights(
    W: Matrix,
    *,
    agents: int | None = None,
    symmetric: bool = False,
    connected: bool = False,
    columns_only: bool = False,
) -> Float[np.ndarray, "*steps n n"]:
    """W as float64, checked to keep the mean: no negative entry, every row and column sums to 1 within 1e-8.

    Args:
      W: (N, N), or a stack (T, N, N): every matrix of it is checked.
      agents: the required N; any when None.
      symmetric: every edge needs its reverse (in the same step), as methods that send gradients back do. The two
        weights may differ.
      connected: every agent needs to reach every other, in a stack over all of its steps together.
      columns_only: rows may have any sum, as in push-sum, which corrects for it.

    Raises:
      ValueError: the condition that does not hold, with the place and the number.
    """
    w = checks.as_real("mixing weights", W)
    if w.ndim not in (2, 3) or w.shape[-2] != w.shape[-1] or not w.size:
        raise ValueError(f"mixing weights are (N, N), or (T, N, N) where they change with time; got {w.shape}.")
    if agents is not None and w.shape[-1] != agents:
        raise ValueError(
            f"mixing weights are of {w.shape[-1]} agents, but there are {agents}; take a graph of {agents}."
        )
    for *step, i, j in np.argwhere(~(w >= 0))[:1]:  # NaN too
        raise ValueError(f"mixing weights are not negative, but W[{i}, {j}]{_at(step)} is {w[*step, i, j]:.9g}.")
    for axis, line in ((-2, "column"), (-1, "row"))[: 1 if columns_only else 2]:
        _check_sums(w.sum(axis), line)
    support = (w > 0) & ~np.eye(w.shape[-1], dtype=bool)
    if symmetric:
        _check_reverse(support)
    parts = components(np.logical_or.reduce(support.reshape(-1, *w.shape[-2:]))) if connected else 1
    if parts > 1:
        raise ValueError(f"graph has {parts} components; consensus impossible: add edges that join them.")
    return w


def _check_sums(sums: Float[np.ndarray, "..."], line: str) -> None:
    for *step, i in np.argwhere(~(np.abs(sums - 1) <= TOLERANCE))[:1]:
        raise ValueError(
            f"{line} {i} of the mixing weights{_at(step)} sums to {sums[*step, i]:.9g}, not 1; metropolis_hastings "
            "gives doubly stochastic weights to any undirected graph, push-sum takes columns alone."
        )


def _check_reverse(support: Bool[np.ndarray, "..."]) -> None:
    for *step, i, j in np.argwhere(support & ~support.swapaxes(-1, -2))[:1]:
        raise ValueError(
            f"agent {i} hears agent {j}, but the reverse edge {i} -> {j} is missing{_at(step)}; this takes an "
            "undirected graph."
        )


def _at(step: list[np.intp]) -> str:
    return f" at step {step[0]}" if step else ""


def square(matrix: Shaped[Array | np.ndarray, "..."]) -> np.ndarray:
    """One matrix (N, N) as NumPy; ValueError, with the shape, for anything else."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or not len(matrix):
        raise ValueError(f"one square matrix (N, N) is needed, got {matrix.shape}; of a stack take each by itself.")
    return matrix


def _adjacency(adjacency: Shaped[np.ndarray, "..."]) -> Bool[np.ndarray, "n n"]:
    adjacency = square(adjacency).astype(bool)
    for agent in np.flatnonzero(adjacency.diagonal())[:1]:
        raise ValueError(f"an adjacency has no self-loops, agent {agent} has one; clear the diagonal.")
    return adjacency
