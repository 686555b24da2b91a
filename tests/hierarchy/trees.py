"""Random class trees, and the distance between classes by breadth-first search on the explicit graph."""

import collections
import itertools

import numpy as np

from subspace_jax.hierarchy import tree

SHAPES = [(1, 3), (2, 5), (3, 8), (4, 6)]  # (levels, classes)


def drawn(shape, seed):
    """A random tree: from fine to coarse, nodes are merged at random; single children occur."""
    levels, classes = shape
    rng = np.random.default_rng(seed)
    columns = [np.arange(classes)]
    for _ in range(levels - 1):
        below = columns[0].max() + 1
        parents = rng.integers(0, max(1, below - rng.integers(0, 3)), below)
        columns.insert(0, np.unique(parents, return_inverse=True)[1][columns[0]])
    return tree.from_paths(np.stack(columns, axis=1))


def by_search(found):
    """Edges between any two classes, by breadth-first search from every class over the nodes (level, number)."""
    near = collections.defaultdict(set)
    for path in found.paths:
        nodes = ["root", *enumerate(path)]
        for above, below in itertools.pairwise(nodes):
            near[above].add(below)
            near[below].add(above)
    leaves = [(found.levels - 1, c) for c in range(found.classes)]
    return np.array([[depths(near, start)[end] for end in leaves] for start in leaves])


def depths(near, start):
    reached, queue = {start: 0}, collections.deque([start])
    while queue:
        node = queue.popleft()
        for other in near[node] - reached.keys():
            reached[other] = reached[node] + 1
            queue.append(other)
    return reached
