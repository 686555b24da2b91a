"""Memorization and influence by subsampling (Feldman, STOC 2020; Feldman and Zhang, NeurIPS 2020, arXiv 2008.03703).

mem_i = Pr[h_I(x_i) = y_i | i in I] - Pr[h_I(x_i) = y_i | i not in I] over random subsets I and training runs h_I; the
influence of i on a test point is the same difference in that point's correctness. Everything is a function of two
tables: which samples each model was trained on, and which points it got right.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, shares
from subspace_jax.core.keys import as_key
from subspace_jax.core.losses import softmax_cross_entropy
from subspace_jax.memorization.dynamics import margin
from subspace_jax.typing import ApplyFn, Array, Bool, Float, Int, Key, Num, Variables

TABLE_LIMIT = 2**29  # entries of one influence table, 2 GiB; `estimate` holds three such tables


class Subsets(NamedTuple):
    """`index` (models, m): the samples of each model, ascending. `mask` (models, n): the same as membership."""

    index: Int[np.ndarray, "models m"]
    mask: Bool[np.ndarray, "models n"]


class Sums(NamedTuple):
    """Sums over models; those of two groups of models add up field by field (`merge`)."""

    members: Float[Array, " n"]  # number of models trained on i
    others: Float[Array, " n"]  # number of models not trained on i
    right_members: Float[Array, "k n"]  # their summed outcomes on point j; k = 1 for memorization
    right_others: Float[Array, "k n"]


class Estimate(NamedTuple):
    """`value` with its standard error; NaN where no model, or every model, was trained on the sample."""

    value: Float[Array, "..."]
    stderr: Float[Array, "..."]


@checks.on_host
def subset_tables(key: Key[Array, ""], samples: int, *, models: int, ratio: float, balanced: bool = True) -> Subsets:
    """Random subsets of size m = floor(ratio * samples).

    Args:
      key: same key, same subsets.
      samples: n.
      models: T.
      ratio: r; .7 is nearer to the full data, .5 has the lowest variance and serves membership attacks too.
      balanced: every sample is in floor(Tm/n) or ceil(Tm/n) subsets: less variance, and, unless T is
        tiny, no sample in all or in none of them.

    Raises:
      ValueError: ratio outside (0, 1), subsets without samples, no model.
    """
    key = as_key(key)
    if models < 1:
        raise ValueError(f"models is the number of subsets, at least 1; got {models}.")
    size = shares.at_most(samples, ratio) if 0 < ratio < 1 else 0
    if size < 1:
        raise ValueError(f"ratio must be in (0, 1) and leave at least one of {samples} samples; got {ratio}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    mask = np.zeros((models, samples), bool)
    used = np.zeros(samples, int)
    for row in mask:  # the least used samples, ties at random, so that usage stays within one
        row[np.argpartition(used * balanced + rng.random(samples), size)[:size]] = True
        used += row
    return Subsets(np.nonzero(mask)[1].reshape(models, size), mask)


def outcomes(
    apply: ApplyFn, variables: Variables, x: Num[Any, "n ..."], y: Int[Any, " n"], *,
    signal: Literal["correct", "prob"] = "correct",
) -> Float[Array, "models n"]:  # fmt: skip
    """Outcome of every model (variables stacked on axis 0) on every point: correct (0 or 1), or the probability p_y.

    Probabilities give most of the ranking with a quarter of the models. A diverged model counts as wrong everywhere;
    its probabilities are NaN.

    Raises:
      ValueError: points that are not finite; labels that are no integers in [0, classes), or another number of them.
    """
    checks.check_data(x, y)
    x, y = jnp.asarray(x), jnp.asarray(y)

    def one(model):
        logits = apply(model, x)
        if signal == "prob":
            return jnp.exp(-softmax_cross_entropy(logits, y))
        return (margin(logits, y) > 0).astype(jnp.float32)

    return jax.lax.map(one, variables)


def memorization_sums(outcome: Float[Any, "models n"], mask: Bool[Any, "models n"]) -> Sums:
    """The sums over models of each training sample's own outcomes.

    Raises:
      ValueError: shapes that differ, a mask that is not boolean, or outcomes outside [0, 1].
    """
    _check(outcome, mask)
    if outcome.shape != mask.shape:
        raise ValueError(f"outcome {outcome.shape} and mask {mask.shape} must both be (models, samples).")
    mask = jnp.asarray(mask, jnp.float32)
    inside, outside = mask.sum(axis=0), (1 - mask).sum(axis=0)
    return Sums(inside, outside, (mask * outcome).sum(axis=0)[None], ((1 - mask) * outcome).sum(axis=0)[None])


def influence_sums(outcome: Float[Any, "models k"], mask: Bool[Any, "models n"]) -> Sums:
    """The sums for each test point j and training sample i: two matrix products, k x T by T x n.

    Raises:
      ValueError: numbers of models that differ, outcomes outside [0, 1], or a table of more than 2 GiB.
    """
    _check(outcome, mask)
    points, samples = outcome.shape[1], mask.shape[1]
    if points * samples > TABLE_LIMIT:
        raise ValueError(
            f"the influence of {samples} samples on {points} points is a table of {points * samples / 2**28:.1f} GiB; "
            "give fewer points at a time, or use high_influence, which works in blocks (`block`)."
        )
    mask = jnp.asarray(mask, jnp.float32)
    with jax.default_matmul_precision("highest"):  # 1 - mask: total minus members would not be 0 for no model
        members, others = outcome.T @ mask, outcome.T @ (1 - mask)
    return Sums(mask.sum(axis=0), (1 - mask).sum(axis=0), members, others)


def merge(a: Sums, b: Sums) -> Sums:
    """The sums over both groups of models."""
    return jax.tree.map(jnp.add, a, b)


def estimate(sums: Sums) -> Estimate:
    """p1 - p0 with se^2 = p1 (1 - p1) / T_in + p0 (1 - p0) / T_out, per pair (k, n); row 0 is memorization.

    The standard error is for 0/1 outcomes, an upper bound for probabilities; 0 where the models of each side agree. The
    value is in [-1, 1].
    """
    inside, outside = sums.members[None], sums.others[None]
    p1, p0 = sums.right_members / inside, sums.right_others / outside  # 0 / 0: no model on that side, NaN
    stderr = jnp.sqrt(jnp.maximum(p1 * (1 - p1) / inside + p0 * (1 - p0) / outside, 0))
    return Estimate(p1 - p0, stderr)


def memorization(outcome: Float[Any, "models n"], mask: Bool[Any, "models n"]) -> Estimate:
    """mem_i of every training sample, from one group of models."""
    return Estimate(*(row[0] for row in estimate(memorization_sums(outcome, mask))))


def cscore(sums: Sums) -> Float[Array, " n"]:
    """Consistency: Pr[h_I(x_i) = y_i | i not in I] (Jiang et al., ICML 2021)."""
    return (sums.right_others / sums.others[None])[0]


@checks.on_host
def high_influence(
    outcome: Float[Any, "models k"],
    mask: Bool[Any, "models n"],
    labels: Int[Any, " n"],
    test_labels: Int[Any, " k"],
    mem: Float[Any, " n"],
    *,
    mem_above: float = 0.25,
    influence_above: float = 0.15,
    top: int = 3,
    block: int = 1024,
) -> list[tuple[int, int, float]]:
    """Pairs (training sample, test point, influence) of one class, the strongest first.

    Blocks of test points keep memory at block x n; the full table of 60,000 x 10,000 would take 2.4 GB. At most
    `top` pairs are returned per test point.

    Raises:
      ValueError: as `influence_sums`; labels that are no integers (n,), or of other samples than mem, mask and outcome;
        thresholds that are NaN, top or block below 1.
    """
    for name, least in (("mem_above", mem_above), ("influence_above", influence_above)):
        if math.isnan(least):
            raise ValueError(f"{name} is the least value that counts; got NaN.")
    checks.check_count("top", top)
    checks.check_count("block", block)
    checks.check_labels(labels)
    checks.check_labels(test_labels, name="test_labels")
    checks.check_lengths(labels=labels, mem=mem, mask=mask.T)
    checks.check_lengths(test_labels=test_labels, outcome=outcome.T)
    pairs = []
    eligible = jnp.asarray(mem) >= mem_above
    labels, test_labels = jnp.asarray(labels), np.asarray(test_labels)
    for start in range(0, len(test_labels), block):
        points = slice(start, start + block)
        value = estimate(influence_sums(outcome[:, points], mask)).value
        same = eligible[None] & (labels[None] == jnp.asarray(test_labels[points])[:, None])
        best, who = jax.lax.top_k(jnp.where(same & ~jnp.isnan(value), value, -1.0), min(top, value.shape[1]))
        for point, rank in np.argwhere(np.asarray(best) >= influence_above):
            pairs.append((int(who[point, rank]), start + int(point), float(best[point, rank])))
    return sorted(pairs, key=lambda pair: -pair[2])


def leave_one_out(learner: Callable[[np.ndarray], np.ndarray], samples: int, i: int) -> float:
    """The definition itself for a deterministic learner: correct on i with all samples, minus correct without i.

    Args:
      learner: sample numbers to train on -> correctness (0 or 1) on all `samples`.
      samples: n.
      i: the sample left out.
    """
    everyone = np.arange(samples)
    return float(learner(everyone)[i]) - float(learner(np.delete(everyone, i))[i])


def _check(outcome, mask) -> None:
    if len(outcome) != len(mask):
        raise ValueError(f"outcome has {len(outcome)} models and mask {len(mask)}; they must be the same models.")
    if mask.dtype != bool:
        raise ValueError(f"mask is boolean (models, samples), who was trained on what; got {mask.dtype}: Subsets.mask.")
    if not checks.is_known(outcome):
        return
    low, high = float(jnp.min(outcome)), float(jnp.max(outcome))
    if not (low >= 0 and high <= 1):  # nor NaN
        raise ValueError(f"outcomes are correctness or probabilities in [0, 1]; got {low:g} to {high:g}.")
