"""Partition a data set among agents into equally large parts, from IID to one class per agent.

A partition is int64 (agents, size): row i holds the positions, in the arrays given, of the samples of agent i. Parts
are disjoint and equally large, any remainder is left out. All are pure functions of a key and the labels.
"""

from typing import Any

import jax
import numpy as np

from subspace_jax.core import checks, shares
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Int, Key, Num

GROUP = 10  # agents per group in `dirichlet`
ATTEMPTS = 10_000  # draws per group: at alpha = 0.01 about thirty for ten agents, thousands for 1 % of groups; 3 s

Labels = Num[np.ndarray, "..."]  # other shapes are refused by a message here, not by the type check
Parts = Int[np.ndarray, "agents size"]


@checks.on_host
def iid(key: Key[Array, ""], labels: Labels, *, agents: int) -> Parts:
    """One shuffle, cut into equal slices: every agent sees all classes. `label_sorted` with skew 0."""
    return label_sorted(key, labels, agents=agents, skew=0.0)


@checks.on_host
def label_sorted(key: Key[Array, ""], labels: Labels, *, agents: int, skew: float = 1.0) -> Parts:
    """The share `skew` of every class is dealt out sorted by label, the rest shuffled.

    Of each class of n_c samples the first floor(skew n_c) go to the sorted pool. An agent gets an equal contiguous
    slice of it, then an equal slice of the shuffled rest, which includes the remainder of the sorted pool.

    Where agents exceed the classes, neighbouring slices share a class, and neighbours on a ring would; slices are then
    dealt with a stride: 0, q, 2q, ..., then 1, 1 + q, ..., where q is one more than the slices that the largest class
    can fill. On a ring a class then goes to agents that are not adjacent, as long as there are at least 3 q agents;
    with fewer (two or three large classes) neighbours may share a class where one round of the dealing ends.

    Args:
      key: of the shuffle; without effect at skew 1.
      labels: class numbers (n,), integers.
      agents: N, at most n.
      skew: 0 shuffles all, 1 sorts all: ten agents then hold about one of ten classes each.

    Returns:
      (N, n // N).

    Raises:
      ValueError: labels that are no integers (n,), skew outside [0, 1], more agents than samples or fewer than 1.
    """
    labels, size = _checked(labels, agents)
    if not 0 <= skew <= 1:
        raise ValueError(f"skew is the share of each class that is dealt out sorted, in [0, 1]; got {skew}.")
    by_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    in_order = [positions[: shares.at_most(len(positions), skew)] for positions in by_class]
    pool = np.concatenate(in_order)
    each = len(pool) // agents
    dealt = pool[: agents * each].reshape(agents, each)
    if agents > len(by_class) and each:
        stride = 1 + -(-max(map(len, in_order)) // each)
        dealt = dealt[np.concatenate([np.arange(agents)[start::stride] for start in range(stride)])]
    others = _generator(key).permutation(np.setdiff1d(np.arange(len(labels)), dealt))
    return np.concatenate([dealt, others[: agents * (size - each)].reshape(agents, -1)], axis=1)


@checks.on_host
def dirichlet(key: Key[Array, ""], labels: Labels, *, agents: int, alpha: float) -> Parts:
    """Each class is split among ten agents at a time by shares drawn from Dir(alpha): small alpha, few classes each.

    The recipe of quasi-global momentum (Lin et al., ICML 2021), used since: shuffle; give every group of ten agents
    (the last is smaller) its proportional slice. In a group, for each class draw p ~ Dir(alpha 1), set p_j to 0 where
    agent j already holds a full share, renormalise (redraw where nothing is left), cut the class at floor(cumsum(p)
    n_c). Start the group over until every agent holds at least half a share. All lists one after another are cut into
    equal parts, so that an agent may end with some of what its neighbour drew.

    Args:
      key: same key, same parts.
      labels: class numbers (n,), integers.
      agents: N; N times the number of classes is at most n.
      alpha: concentration, above 0: .01 gives 2.5 to 3 classes each on average, 100 nearly equal shares.

    Returns:
      (N, n // N).

    Raises:
      ValueError: labels as in `label_sorted`, alpha that is not above 0 and finite, N * classes > n, or no draw in
        10,000 that leaves every agent with half a share (a small alpha with few classes for the agents of a group).
    """
    labels, size = _checked(labels, agents)
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha is the concentration of the shares, above 0 and finite; got {alpha}.")
    classes = len(np.unique(labels))
    if agents * classes > len(labels):
        raise ValueError(
            f"{agents} agents and {classes} classes take {agents * classes} samples, there are {len(labels)}; take "
            "fewer agents."
        )
    rng = _generator(key)
    order = rng.permutation(len(labels))
    starts = [*range(0, agents, GROUP), agents]
    slices = np.split(order, [len(labels) * start // agents for start in starts[1:-1]])
    held = [
        _share_out(rng, positions, labels, agents=end - start, alpha=alpha)
        for start, end, positions in zip(starts[:-1], starts[1:], slices, strict=True)
    ]
    return np.concatenate(held)[: agents * size].reshape(agents, size)


@checks.on_host
def shards(key: Key[Array, ""], labels: Labels, *, agents: int, shards: int = 2) -> Parts:
    """Sorted by label and cut into agents * shards equal pieces, of which every agent draws `shards` at random.

    McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.

    Returns:
      (N, shards * (n // (N * shards))).

    Raises:
      ValueError: labels and agents as in `label_sorted`, shards below 1, more pieces than samples.
    """
    labels, _ = _checked(labels, agents)
    if not 1 <= shards <= len(labels) // agents:
        raise ValueError(
            f"shards is in [1, {len(labels) // agents}] for {agents} agents and {len(labels)} samples; got {shards}."
        )
    size = len(labels) // (agents * shards)
    pieces = np.argsort(labels, kind="stable")[: agents * shards * size].reshape(-1, size)
    return _generator(key).permutation(pieces).reshape(agents, -1)


@checks.on_host
def label_pairs(key: Key[Array, ""], labels: Labels, *, agents: int) -> Parts:
    """Every agent holds two classes, half of each: of the classes in random cyclic order, agent i has 2 i and 2 i + 1.

    With fewer than half as many agents as classes some classes are held by nobody; with more, a class is divided among
    those who hold it. The class with the fewest samples per holder sets the size of all parts.

    Returns:
      (N, 2 s), s of each of the two classes, s = min over the classes held of n_c // holders.

    Raises:
      ValueError: labels and agents as in `label_sorted`, fewer than two classes, a class with fewer samples than
        holders.
    """
    labels, _ = _checked(labels, agents)
    rng = _generator(key)
    circle = rng.permutation(np.unique(labels))
    if len(circle) < 2:
        raise ValueError(f"a pair of labels takes at least 2 classes, got {len(circle)}.")
    taken = circle[np.arange(2 * agents) % len(circle)]
    samples = {c: rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(taken)}
    size, rarest = min((len(positions) // (taken == c).sum(), c) for c, positions in samples.items())
    if size < 1:
        raise ValueError(
            f"class {rarest} has {len(samples[rarest])} samples for {(taken == rarest).sum()} agents; take fewer."
        )
    parts = np.empty((2 * agents, size), np.int64)
    for c, positions in samples.items():
        holders = np.flatnonzero(taken == c)
        parts[holders] = positions[: len(holders) * size].reshape(-1, size)
    return parts.reshape(agents, 2 * size)


PARTITIONS = {
    "label_sorted": label_sorted,
    "dirichlet": dirichlet,
    "shards": shards,
    "label_pairs": label_pairs,
    "iid": iid,
}


@checks.on_host
def build(
    key: Key[Array, ""],
    name: str,
    labels: Labels,
    *,
    agents: int,
    skew: float = 1.0,
    alpha: float = 0.1,
    shards: int = 2,
) -> Parts:
    """Call the partition of `PARTITIONS` with this name, for command lines, with the one setting that it takes.

    `skew` is for `label_sorted`, `alpha` for `dirichlet`, `shards` for `shards`; the others are ignored.

    Raises:
      ValueError: an unknown name, and what the partition itself raises.
    """
    settings: dict[str, Any] = {
        "label_sorted": {"skew": skew},
        "dirichlet": {"alpha": alpha},
        "shards": {"shards": shards},
    }
    if name not in PARTITIONS:
        raise ValueError(f"partition is one of {', '.join(PARTITIONS)}; got {name!r}.")
    return PARTITIONS[name](key, labels, agents=agents, **settings.get(name, {}))


@checks.on_host
def histogram(labels: Labels, parts: Parts, *, classes: int) -> Int[np.ndarray, "agents classes"]:
    """How many samples of each class every agent holds.

    Raises:
      ValueError: labels that are no integers in [0, classes), (n,); parts that are no positions of labels.
    """
    checks.check_labels(labels, classes)
    labels = np.asarray(labels)
    for part in parts:
        checks.check_positions("parts", part, len(labels))
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts])


@checks.on_host
def skewness(histogram: Num[np.ndarray, "agents classes"]) -> float:
    """Mean over agents of the total variation sum_k |p_ik - p_k| / 2 between the class shares of an agent and of all.

    0 where all have the same class distribution; 1 - 1 / N where N equal parts have no class in common.

    Raises:
      ValueError: an agent that holds nothing.
    """
    checks.check_filled("histogram", histogram)
    checks.check_finite("histogram", histogram)
    total = histogram.sum(1, keepdims=True)
    for agent in np.flatnonzero(total == 0)[:1]:
        raise ValueError(f"agent {agent} holds no sample; its classes have no distribution.")
    everybody = histogram.sum(0, keepdims=True) / histogram.sum()
    return float(np.abs(histogram / total - everybody).sum(1).mean() / 2)


def _share_out(
    rng: np.random.Generator, positions: Int[np.ndarray, " n"], labels: Labels, *, agents: int, alpha: float
) -> Int[np.ndarray, " n"]:
    """The samples of one group in the order of the agents that hold them, every agent at least half a share."""
    by_class = [positions[labels[positions] == c] for c in np.unique(labels[positions])]
    share = len(positions) / agents
    for _ in range(ATTEMPTS):
        held = np.zeros(agents, int)
        pieces = []
        for members in by_class:
            cuts = _cuts(rng, held < share, alpha, len(members))
            pieces.append(np.split(members, cuts[:-1]))
            held += np.diff(cuts, prepend=0)
        if held.min() >= int(share / 2):
            return np.concatenate([piece for of_agent in zip(*pieces, strict=True) for piece in of_agent])
    raise ValueError(
        f"in {ATTEMPTS} draws with alpha {alpha} some of {agents} agents always held less than half a share of the "
        f"{len(positions)} samples; raise alpha or take fewer agents."
    )


def _cuts(rng: np.random.Generator, hungry: np.ndarray, alpha: float, n: int) -> Int[np.ndarray, " agents"]:
    """Where to cut a class of n samples: floor(cumsum(p) n), with p ~ Dir(alpha) on those without a full share."""
    p = np.zeros(len(hungry))
    while not p.sum():  # at a tiny alpha one agent draws everything, and it may be full already
        p = rng.dirichlet(np.full(len(hungry), alpha)) * hungry
    total = p.cumsum()
    return (total / total[-1] * n).astype(int)  # the last cut is n exactly, so an agent with p = 0 gets nothing


def _checked(labels: Labels, agents: int) -> tuple[Int[np.ndarray, " n"], int]:
    """The labels, and how many samples there are for each agent."""
    checks.check_labels(labels)
    labels = np.asarray(labels)
    checks.check_count("agents", agents, 0)
    if not 1 <= agents <= len(labels):
        raise ValueError(
            f"agents is in [1, {len(labels)}], so that nobody's part of {len(labels)} samples is empty; got {agents}."
        )
    return labels, len(labels) // agents


def _generator(key: Key[Array, ""]) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
