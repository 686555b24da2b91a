"""Permutation form: W as a few rounds in which every agent sends at most one message and receives at most one."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.topology.mixing import Matrix, square
from subspace_jax.typing import Bool, Float, Int

Source = tuple[int, ...]
Mates = list[list[int]]
FREE = -1


class Permutations(NamedTuple):
    """W = diag(diagonal) + sum_k diag(weights[k]) P_k, where P_k gives agent i what agent sources[k][i] holds.

    Attributes:
      diagonal: (N,), what an agent keeps of its own.
      sources: K full permutations as static tuples; sources[k][i] == i where agent i receives nothing.
      weights: (K, N), W[i, sources[k][i]]; 0 where nothing is received, or a message only completes a permutation.
    """

    diagonal: Float[np.ndarray, " n"]
    sources: tuple[Source, ...]
    weights: Float[np.ndarray, "k n"]


@checks.on_host
def permutations(W: Matrix) -> Permutations:
    """The permutation form of one mixing matrix W (N, N); each edge is in exactly one permutation.

    - A circulant graph (rings, full, exponential) gives one cyclic shift per neighbour.
    - Any other graph whose edges all have their reverse is edge-coloured (Misra and Gries, 1992) into involutions, in
      which two neighbours swap and agents without a partner rest: as many as the largest degree, or one more; never
      one more where the graph has no odd cycle (chain, star, even torus).
    - Any other directed graph gives as many permutations as its largest in- or out-degree (Konig): where some agents
      have nobody to send to, messages of weight 0 make the permutation full.

    W may have any values, such as those of push-sum, where only columns sum to 1.

    Raises:
      ValueError: no square matrix; a stack (T, N, N) has one form per step.
    """
    w = checks.as_real("W", square(W))
    support = (w != 0) & ~np.eye(len(w), dtype=bool)
    agent = np.arange(len(w))
    ahead = (agent[:, None] + agent) % len(w)
    shifts = support[agent[:, None], ahead]  # (i, s): does i hear i + s
    if (shifts == shifts[0]).all():
        heard = ahead.T[shifts[0]]
    else:
        heard = _swaps(support) if (support == support.T).all() else _matchings(support)
    weights = np.where(heard != FREE, w[agent, heard], 0.0)
    return Permutations(w.diagonal().copy(), tuple(_completed(row) for row in heard), weights)


@checks.on_host
def inverse(source: Source) -> Source:
    """The permutation that sends everything back: agent source[i] receives from agent i."""
    return tuple(np.argsort(source).tolist())


@checks.on_host
def dense(form: Permutations) -> Float[np.ndarray, "n n"]:
    """The W of a permutation form."""
    w = np.diag(form.diagonal)
    for source, weight in zip(form.sources, form.weights, strict=True):
        w[np.arange(len(w)), source] += weight
    return w


def _completed(heard: Int[np.ndarray, " n"]) -> Source:
    """A permutation from a matching (FREE: hears nobody): agents that are not in it rest, ends of paths are joined."""
    source = heard.copy()
    silent, unheard = np.flatnonzero(heard == FREE), np.setdiff1d(np.arange(len(heard)), heard)
    resting = np.intersect1d(silent, unheard)
    source[resting] = resting
    source[np.setdiff1d(silent, resting)] = np.setdiff1d(unheard, resting)
    return tuple(source.tolist())


# Edge colourings. `mate[u][c]` is the node that the edge of colour c leads to from u, FREE where there is none.


def _swaps(support: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, "k n"]:
    """Proper edge colouring of an undirected graph: by a swap along one path (Konig), else by a fan.

    The path always suffices where there is no odd cycle, hence the exact count there.
    """
    mate = _uncoloured(len(support), support.sum(1).max() + 1)
    for u, v in np.argwhere(np.triu(support)).tolist():
        colour = mate[u].index(FREE)
        _swap_path(mate, v, colour, mate[v].index(FREE))
        if mate[u][colour] == FREE:
            mate[u][colour], mate[v][colour] = v, u
        else:  # the path ended in u
            _colour_by_fan(mate, u, v)
    heard = np.array(mate).T
    return heard[(heard != FREE).any(1)]


def _colour_by_fan(mate: Mates, u: int, v: int) -> None:
    """Colour the edge u - v by turning a fan around u: never stuck with one colour more than the degree."""
    fan = _fan(mate, u, v)
    last = mate[fan[-1]].index(FREE)
    _swap_path(mate, u, last, mate[u].index(FREE))
    end = next(k for k, w in enumerate(fan) if mate[w][last] == FREE)  # the swap may have cut the fan
    for a, b in pairwise(fan[: end + 1]):  # each spoke takes the colour of the next
        colour = mate[u].index(b)
        mate[u][colour], mate[a][colour], mate[b][colour] = a, u, FREE
    mate[u][last], mate[fan[end]][last] = fan[end], u


def _fan(mate: Mates, u: int, v: int) -> list[int]:
    """Neighbours of u from v on, each joined to u by a colour that is free at the one before; as long as possible."""
    fan, rest = [v], [w for w in mate[u] if w != FREE]
    while follower := [w for w in rest if mate[fan[-1]][mate[u].index(w)] == FREE]:
        fan.append(follower[0])
        rest.remove(follower[0])
    return fan


def _matchings(support: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, "k n"]:
    """Colouring of the bipartite graph receivers (0..n-1) - senders (n..2n-1), with as many colours as its degree."""
    n = len(support)
    mate = _uncoloured(2 * n, max(support.sum(0).max(), support.sum(1).max()))
    for i, j in np.argwhere(support).tolist():
        colour = mate[n + j].index(FREE)
        _swap_path(mate, i, colour, mate[i].index(FREE))  # never meets j: it enters senders by the colour free there
        mate[i][colour], mate[n + j][colour] = n + j, i
    heard = np.array(mate[:n]).T
    return np.where(heard == FREE, FREE, heard - n)


def _uncoloured(nodes: int, colours: int | np.integer) -> Mates:
    return [[FREE] * int(colours) for _ in range(nodes)]


def _swap_path(mate: Mates, start: int, first: int, second: int) -> None:
    """Exchange two colours on the path that leaves `start` by the first; the second is free there."""
    path, colour = [start], first
    while (node := mate[path[-1]][colour]) != FREE:
        path.append(node)
        colour = second if colour == first else first
    for node in path:
        mate[node][first], mate[node][second] = mate[node][second], mate[node][first]
