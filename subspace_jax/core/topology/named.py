"""Graphs of one size only, written down as their edges."""

from collections.abc import Sequence

import numpy as np

from subspace_jax.typing import Bool

MEDICI = (  # Padgett and Ansell, 1993: marriages of the families of Florence, the one that married nobody left out
    "Acciaiuoli-Medici", "Castellani-Peruzzi", "Castellani-Strozzi", "Castellani-Barbadori", "Medici-Barbadori",
    "Medici-Ridolfi", "Medici-Tornabuoni", "Medici-Albizzi", "Medici-Salviati", "Salviati-Pazzi", "Peruzzi-Strozzi",
    "Peruzzi-Bischeri", "Strozzi-Ridolfi", "Strozzi-Bischeri", "Ridolfi-Tornabuoni", "Tornabuoni-Guadagni",
    "Albizzi-Ginori", "Albizzi-Guadagni", "Bischeri-Guadagni", "Guadagni-Lamberteschi",
)  # fmt: skip
DYCK = (5, -5, 13, -13) * 8  # LCF notation: agent i of the ring also hears agent i + DYCK[i]


def petersen() -> Bool[np.ndarray, "10 10"]:
    """The Petersen graph: an outer ring 0..4, an inner star 5..9, five spokes; 3 neighbours each, diameter 2."""
    pairs = [pair for i in range(5) for pair in ((i, (i + 1) % 5), (i, i + 5), (i + 5, (i + 2) % 5 + 5))]
    return undirected(10, pairs)


def dyck() -> Bool[np.ndarray, "32 32"]:
    """The Dyck graph, LCF [5,-5,13,-13]^8: 32 agents with 3 neighbours each."""
    return undirected(32, [pair for i, jump in enumerate(DYCK) for pair in ((i, (i + 1) % 32), (i, (i + jump) % 32))])


def florentine() -> Bool[np.ndarray, "15 15"]:
    """The Florentine families: 15 agents, 20 edges, 1 to 6 neighbours; numbered as `MEDICI` first names them."""
    pairs = [edge.split("-") for edge in MEDICI]
    number = {name: i for i, name in enumerate(dict.fromkeys(name for pair in pairs for name in pair))}
    return undirected(15, [(number[a], number[b]) for a, b in pairs])


def undirected(n: int, pairs: Sequence[tuple[int, int]] | np.ndarray) -> Bool[np.ndarray, "n n"]:
    """The adjacency of n agents with these pairs as edges, each in both directions."""
    a, b = np.array(pairs).T
    adjacency = np.zeros((n, n), bool)
    adjacency[a, b] = adjacency[b, a] = True
    return adjacency
