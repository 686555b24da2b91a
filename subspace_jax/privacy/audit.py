"""Is the stated epsilon true? Canaries in one more run of the same mechanism, and what they prove of its leak.

A canary is one further row whose clipped gradient is clip in a coordinate of its own, of an extra parameter vector that
nothing else touches: the worst case of the analysis. Each is included or not by a fair coin; the sum of what was
released in its coordinate tells which, as well as noise and sampling let it. From the guesses follows a LOWER bound of
epsilon (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846). One above the stated epsilon shows a broken mechanism; one
below proves nothing: with 200 canaries even a mechanism without noise gets about 3.

    case = audit.plant(key, loss, tx, variables, data, canaries=200, clip=1.0)
    found = dp_sgd.fit(key, case.loss, case.tx, case.variables, case.data, batch=q * case.samples, ...)
    audit.epsilon_one_run(*audit.scores(case, found.variables), delta=1e-4)
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Bool, Float, Key, LossFn, PyTree, Variables

PUSH = 2.0  # the gradient of a canary before clipping, in units of clip
PRECISION = 1e-6  # of the bound


class Case(NamedTuple):
    """What `dp_sgd.fit` trains on, and which canaries were included."""

    loss: LossFn
    tx: optax.GradientTransformation
    variables: Variables
    data: tuple[PyTree, PyTree]
    included: Bool[np.ndarray, " canaries"]
    samples: int
    """Rows of data, those of the canaries among them."""


def plant(
    key: Key[Array, ""], loss: LossFn, tx: optax.GradientTransformation, variables: Variables, data: tuple[Any, Any],
    *, canaries: int = 200, clip: float = 1.0,
) -> Case:  # fmt: skip
    """The same network on the same data and a random half of the canaries.

    Args:
      key: of the choice.
      loss: (variables, x, y) -> one loss a sample.
      tx: what follows the noise, for the network; the canaries' coordinates are only summed.
      variables: {"params": ..., "batch_stats": {}} of the network.
      data: (x, y), arrays or trees of them.
      canaries: at least 2; of each half of them is included, up to one.
      clip: as of the run, finite.

    Raises:
      ValueError: fewer than 2 canaries, a clip that is not above 0 and finite, x and y of other lengths.
    """
    key = as_key(key)
    if canaries < 2 or not 0 < clip < np.inf:
        raise ValueError(f"there are at least 2 canaries and a finite clip above 0; got {canaries} and {clip}.")
    checks.check_lengths(x=jax.tree.leaves(data[0])[0], y=jax.tree.leaves(data[1])[0])
    included = np.zeros(canaries, bool)
    included[np.asarray(jax.random.permutation(key, canaries))[: canaries // 2]] = True
    real, rows = len(jax.tree.leaves(data[0])[0]), np.flatnonzero(included)
    x, y = (jax.tree.map(lambda leaf: _with_blank(leaf, len(rows)), part) for part in data)
    number = np.concatenate([np.full(real, -1), rows]).astype(np.int32)
    params = {"network": variables["params"], "canaries": jnp.zeros(canaries)}
    fit_to = _loss(loss, PUSH * float(clip)), _tx(tx), {"params": params, "batch_stats": {}}
    return Case(*fit_to, (x, (y, number)), included, real + len(rows))


def scores(case: Case, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
    """What was released in the coordinates of the canaries, summed over the steps: of those included, of the others."""
    released = -np.asarray(variables["params"]["canaries"], np.float64)
    return released[case.included], released[~case.included]


@checks.on_host
def epsilon_one_run(
    in_scores: Float[Array | np.ndarray, " included"], out_scores: Float[Array | np.ndarray, " left"],
    *, significance: float = 0.05, delta: float,
) -> float:  # fmt: skip
    """Largest epsilon that the guesses refute: a lower bound that is wrong with chance at most `significance`.

    Every threshold calls the scores at or above it members. Of r guesses v are right; under (epsilon, delta)-DP with m
    canaries the chance of that is at most beta + 2 m delta alpha, with beta = P[B >= v], B binomial with r trials of
    chance 1 / (1 + e^-epsilon), and alpha the largest (P[B >= v - i] - beta) / i. The bound is the best over the
    thresholds on the upper hull of the ROC, `significance` divided by their number; as in jax-privacy this correction
    counts the hull alone, although the data choose it. 0 where nothing is refuted.

    Args:
      in_scores: of canaries that were included; larger means more like a member.
      out_scores: of those that were not.
      significance: in (0, 1).
      delta: of the guarantee, in [0, 1).

    Raises:
      ValueError: no scores on a side, scores that are not finite, numbers outside their ranges.
    """
    if not 0 < significance < 1 or not 0 <= delta < 1:
        raise ValueError(f"significance is in (0, 1) and delta in [0, 1); got {significance} and {delta}.")
    sides = [checks.as_real("scores", values) for values in (in_scores, out_scores)]
    for name, values in zip(("in_scores", "out_scores"), sides, strict=True):
        checks.check_finite(name, values)
        if values.ndim != 1 or not values.size:
            raise ValueError(f"{name} holds one score per canary, (n,), at least one; got shape {values.shape}.")
    thresholds = np.append(np.unique(np.concatenate(sides)), np.inf)
    below = np.stack([np.searchsorted(np.sort(values), thresholds) for values in sides], axis=1)
    right, wrong = (len(values) - below[_hull(below), i] for i, values in enumerate(sides))
    level, canaries = significance / len(right), sum(map(len, sides))
    return max(_refuted(int(v), int(v + w), canaries, level, delta) for v, w in zip(right, wrong, strict=True))


def _refuted(right: int, guesses: int, canaries: int, level: float, delta: float) -> float:
    """The largest epsilon that one threshold refutes."""

    def excess(epsilon: float) -> float:
        return _p_value(right, guesses, canaries, epsilon, delta) - level

    if not guesses or excess(0.0) >= 0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) < 0:
        low, high = high, 2 * high
    while high > low + PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return low


def _p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    from scipy import special, stats  # slow to import, and few need it

    chance = special.expit(epsilon)
    beta = stats.binom.sf(right - 1, guesses, chance)
    i = np.arange(1, right + 1)
    alpha = np.max((stats.binom.sf(right - i - 1, guesses, chance) - beta) / i, initial=0)
    return min(float(beta + 2 * canaries * delta * alpha), 1.0)


def _hull(points: np.ndarray) -> list[int]:
    """The vertices of the upper concave hull of points (n, 2) that ascend: thresholds which no mixture of two beats."""
    kept: list[int] = []
    for i, point in enumerate(points):
        while len(kept) > 1:
            first, last = points[kept[-2]], points[kept[-1]]
            (a, b), (c, d) = last - first, point - last
            if b * c - d * a > 0:  # a turn to the right
                break
            kept.pop()
        kept.append(i)
    return kept


def _with_blank(leaf: Any, rows: int) -> np.ndarray:
    leaf = np.asarray(leaf)
    return np.concatenate([leaf, np.zeros((rows, *leaf.shape[1:]), leaf.dtype)])


@lru_cache(maxsize=64)  # one function object, and so one compilation
def _loss(loss: LossFn, push: float) -> Callable:
    """The loss of the network, and of canary k push times its parameter."""

    def planted(variables, x, y):
        params, (label, canary) = variables["params"], y
        own = push * params["canaries"][canary]
        return jnp.where(canary >= 0, own, loss({"params": params["network"], "batch_stats": {}}, x, label))

    return planted


@lru_cache(maxsize=64)
def _tx(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.multi_transform(
        {"network": tx, "canaries": optax.sgd(1.0)}, {"network": "network", "canaries": "canaries"}
    )
