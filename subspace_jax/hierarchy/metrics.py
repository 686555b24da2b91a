"""How many mistakes, and how severe: distances on the class tree between what was said and what is true."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.hierarchy.tree import Tree, ancestors, distance
from subspace_jax.typing import Array, Float, Int

Classes = Int[Array | np.ndarray, " n"]


class Severity(NamedTuple):
    """Mistakes on a class tree; coefficient = error * severity.

    Attributes:
      error: share of wrong answers.
      severity: mean distance of the wrong answers alone, in [2, 2 L]; 0 where nothing is wrong.
      coefficient: mean distance over all answers, in [0, 2 L].
      levels: share of answers that are right at each level, rising from fine to coarse; the last one is the accuracy.
    """

    error: Float[Array, ""]
    severity: Float[Array, ""]
    coefficient: Float[Array, ""]
    levels: Float[Array, " levels"]


def catastrophic_coefficient(predicted: Classes, y: Classes, tree: Tree) -> Float[Array, ""]:
    """Mean distance on the tree between answer and label over ALL samples, right ones counting 0; lower is better.

    In [0, 2 L]; for one level twice the error rate. It mixes how often and how badly: see `severity`.

    Raises:
      ValueError: answers or labels that are no classes of the tree, or not as many.
    """
    return severity(predicted, y, tree).coefficient


def severity(predicted: Classes, y: Classes, tree: Tree) -> Severity:
    """The coefficient and its two factors.

    Raises:
      ValueError: as `catastrophic_coefficient`; no sample.
    """
    checks.check_labels(predicted, tree.classes, name="answers")
    checks.check_lengths(answers=predicted, labels=y)
    if not len(predicted):
        raise ValueError("the mean distance of no answer is not defined: give at least one sample.")
    right = (ancestors(tree, predicted) == ancestors(tree, y)).mean(axis=1)
    far = jnp.asarray(distance(tree))[jnp.asarray(predicted), jnp.asarray(y)]
    wrong = (far > 0).sum()
    return Severity(1 - right[-1], far.sum() / jnp.maximum(wrong, 1), far.mean(), right)


def head_agreement(answers: Int[Array | np.ndarray, "levels n"], tree: Tree) -> Float[Array, ""]:
    """Share of samples for which the answers of all heads lie on one path, that of the last head.

    1 for one level.

    Raises:
      ValueError: another number of rows than levels; last answers that are no classes of the tree.
    """
    if len(answers) != tree.levels:
        raise ValueError(f"answers are one row a level, {tree.levels}; got {len(answers)}.")
    return (ancestors(tree, answers[-1]) == jnp.asarray(answers)).all(axis=0).mean()
