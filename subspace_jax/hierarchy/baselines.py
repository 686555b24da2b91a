"""What conditional training is compared with: weights from coarse to fine, soft labels, cautious decisions."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, losses
from subspace_jax.hierarchy.tree import Tree, distance
from subspace_jax.typing import Array, Float, Int

BRANCH_WEIGHTS = (0.98, 0.01, 0.01), (0.1, 0.8, 0.1), (0.1, 0.2, 0.7), (0.0, 0.0, 1.0)
BRANCH_STARTS = 0.0, 0.1, 0.2, 0.3  # shares of the run from which each row counts


@lru_cache(maxsize=64)
def branch_weights(steps: int) -> Callable:
    """Weights of three heads by step, for `conditional.in_turn`: the coarse one leads, at last the fine one is alone.

    (.98, .01, .01), then (.1, .8, .1) from 10 % of the steps, (.1, .2, .7) from 20 %, (0, 0, 1) from 30 %. With
    `conditional.objective(..., masked=False)` this is a branch CNN (Zhu and Bain, B-CNN, 2017).

    Args:
      steps: of the whole run, at least 1.

    Raises:
      ValueError: steps below 1.
    """
    if not steps >= 1:
        raise ValueError(f"a run has at least 1 step; got {steps}.")
    starts = np.ceil(np.array(BRANCH_STARTS) * steps).astype(np.int32)
    table = np.array(BRANCH_WEIGHTS, np.float32)

    def weights(step):
        return jnp.asarray(table)[jnp.sum(step >= jnp.asarray(starts)) - 1]

    return weights


def soft_labels(tree: Tree, *, beta: float) -> Float[np.ndarray, "classes classes"]:
    """Row y is softmax(-beta d(., y)): near classes get a share of the label; float32.

    beta = 0 gives every class the same share, beta -> inf one-hot labels (Bertinetto et al., Making better mistakes,
    CVPR 2020, with distances scaled to 1: their beta is 2 L times this one).

    Raises:
      ValueError: beta negative or not finite.
    """
    if not 0 <= beta < float("inf"):
        raise ValueError(f"beta is how fast the share of a class falls with its distance, in [0, inf); got {beta}.")
    share = np.exp(-beta * distance(tree).astype(float))
    return (share / share.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=64)
def soft_objective(train_apply: Callable, tree: Tree, *, beta: float) -> Callable:
    """Cross-entropy of the last head with `soft_labels`, for `training.minimise` and `conditional.in_turn`.

    Args:
      train_apply: of a network with one or more heads.
      tree: of the classes.
      beta: of `soft_labels`.

    Raises:
      ValueError: as `soft_labels`.
    """
    table = soft_labels(tree, beta=beta)

    def loss(params, batch_stats, batches, constants, key):
        ((x, y),) = batches
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        return losses.mean(losses.soft_cross_entropy(logits[-1], losses.class_rows(table, y))), batch_stats

    return loss


def least_expected_distance(probabilities: Float[Array | np.ndarray, "n classes"], tree: Tree) -> Int[Array, " n"]:
    """argmin_c sum_c' p_c' d(c, c'): the class that is nearest on the tree in expectation, the first one of a tie.

    It costs accuracy where a near class is likelier than a far one, and nothing is trained. For one level it is the
    likeliest class.

    Raises:
      ValueError: rows that are no probabilities, or not one a class of the tree.
    """
    checks.check_probabilities("probabilities", probabilities)
    if np.shape(probabilities)[1] != tree.classes:
        raise ValueError(f"the tree has {tree.classes} classes; got probabilities of {np.shape(probabilities)[1]}.")
    table = jnp.asarray(distance(tree), jnp.float32)
    return jnp.matmul(jnp.asarray(probabilities), table, precision=jax.lax.Precision.HIGHEST).argmin(axis=1)
