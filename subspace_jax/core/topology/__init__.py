"""The graph over which agents average their models: adjacency, mixing weights, decomposition into permutations.

A row is the receiver. An adjacency A is boolean (N, N), A[i, j] where agent i RECEIVES from agent j, without self-loops
(networkx has the sender in the row: `from_networkx` transposes). A mixing matrix W is float64 (N, N), W[i, j] the
weight at i of what j sent, W[i, i] of i's own: row i is what agent i makes of what it hears, column j who hears agent
j. A stack (T, N, N) is a graph that changes with time, used as W[t % T]. Everything here is NumPy and happens once,
before anything is compiled.

>>> W = metropolis_hastings(ring(5))
>>> round(spectral_radius(W), 6)
0.539345
>>> permutations(W).sources
((1, 2, 3, 4, 0), (4, 0, 1, 2, 3))
"""

from subspace_jax.core.topology.expanders import best_expander, random_regular
from subspace_jax.core.topology.graphs import (
    GRAPHS,
    build,
    chain,
    directed_ring,
    exponential,
    from_networkx,
    full,
    grid,
    one_peer_exponential,
    ring,
    star,
    torus,
    weights,
)
from subspace_jax.core.topology.mixing import (
    check_weights,
    components,
    metropolis_hastings,
    spectral_gap,
    spectral_radius,
    uniform,
)
from subspace_jax.core.topology.named import dyck, florentine, petersen
from subspace_jax.core.topology.permutation_form import Permutations, dense, inverse, permutations

__all__ = [
    "GRAPHS",
    "Permutations",
    "best_expander",
    "build",
    "chain",
    "check_weights",
    "components",
    "dense",
    "directed_ring",
    "dyck",
    "exponential",
    "florentine",
    "from_networkx",
    "full",
    "grid",
    "inverse",
    "metropolis_hastings",
    "one_peer_exponential",
    "permutations",
    "petersen",
    "random_regular",
    "ring",
    "spectral_gap",
    "spectral_radius",
    "star",
    "torus",
    "uniform",
    "weights",
]
