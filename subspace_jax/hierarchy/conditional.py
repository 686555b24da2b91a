"""One head a level, each trained on the samples that all coarser heads get right: knowledge flows from coarse to fine.

With logits z^l of level l = 1 ... L, labels y^l, and a batch of B samples,

    V_1 = 1,  V_l = prod_{j < l} [argmax z^j = y^j],  loss_l = 1/B sum_i V_{l,i} CE(z^l_i, y^l_i)

V is constant for the gradient. The sum is divided by B, not by the number of valid samples, so that a batch without any
has loss 0. `joint` minimises the sum of all levels in one update; `sequential`, the published schedule, makes one
update a level, each after a new forward pass of the whole network. Networks with a head a level are those of
`nn.level_heads`; levels are counted from 1.

Source: Mukherjee, Garg and Roy, Encoding hierarchical information in neural networks helps in subpopulation shift, IEEE
Transactions on Artificial Intelligence 2023.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import checks, losses
from subspace_jax.hierarchy.tree import Tree, ancestors
from subspace_jax.training import TrainState
from subspace_jax.typing import Array, Float, Int

Logits = Sequence[Any]  # of each level (b, nodes), coarse to fine
Labels = Int[Array | np.ndarray, " b"]


def validity(logits: Logits, y: Labels, tree: Tree) -> Float[Array, "levels b"]:
    """V: 1 where all coarser heads are right, else 0; without gradient.

    The first row is 1, and no row exceeds the one before it. The head of a level of a single node is always
    right, a row with a NaN always wrong.

    Raises:
      ValueError: heads that do not fit the tree, labels that are not classes of it.
    """
    valid = [jnp.ones(np.shape(y), jnp.float32)]
    for z, node in zip(_checked(logits, y, tree)[:-1], ancestors(tree, y)[:-1], strict=True):
        right = (z.argmax(axis=-1) == node) & ~jnp.isnan(z).any(axis=-1)
        valid.append(valid[-1] * right)
    return jax.lax.stop_gradient(jnp.stack(valid))


def level_losses(logits: Logits, y: Labels, tree: Tree, *, masked: bool = True) -> Float[Array, " levels"]:
    """loss_l of every level; masked=False: V = 1, the plain mean cross-entropy of each head.

    Raises:
      ValueError: as `validity`; no sample.
    """
    pairs = zip(_checked(logits, y, tree), ancestors(tree, y), strict=True)
    each = jnp.stack([losses.softmax_cross_entropy(z, node) for z, node in pairs])
    if masked:
        each = jnp.where(validity(logits, y, tree) > 0, each, 0.0)
    checks.check_filled("the batch", each)
    return each.mean(axis=1)


@lru_cache(maxsize=256)  # the same function, and so one compilation, for all runs of a network
def objective(train_apply: Callable, tree: Tree, *, level: int | None = None, masked: bool = True) -> Callable:
    """What `training.minimise` takes: the sum of the levels' losses, or the loss of one level.

    With constants (levels,) they are the weights of the sum.

    Args:
      train_apply: of a network with a head a level.
      tree: of the classes.
      level: in [1, levels]; all of them when None, the schedule `joint`.
      masked: False for the same heads without conditions (multi-task learning).

    Raises:
      ValueError: a level that the tree has not.
    """
    if level is not None and not 1 <= level <= tree.levels:
        raise ValueError(f"level is in [1, {tree.levels}], coarse to fine; got {level}.")

    def loss(params, batch_stats, batches, constants, key):
        ((x, y),) = batches
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        found = level_losses(logits, y, tree, masked=masked)
        if level is not None:
            return found[level - 1], batch_stats
        return (found if constants is None else constants * found).sum(), batch_stats

    return loss


def sequential(train_apply: Callable, tree: Tree, *, masked: bool = True) -> tuple[Callable, ...]:
    """The objectives of the published schedule, one a level, for `in_turn`."""
    return tuple(objective(train_apply, tree, level=level, masked=masked) for level in range(1, tree.levels + 1))


@lru_cache(maxsize=256)
def in_turn(
    objectives: tuple[Callable, ...],
    tx: optax.GradientTransformation,
    *,
    weights: Callable | None = None,
    prepare: Callable | None = None,
) -> Callable:
    """A step for `training.repeat` whose carry is a TrainState: on each batch one update an objective, in their order.

    Every update has a forward pass of its own, which also moves the running statistics. One optimiser state serves
    all, so that parameters without a gradient still feel momentum and weight decay; a learning-rate schedule counts
    updates, len(objectives) a batch.

    Args:
      objectives: as `minimise` takes them, at least one.
      tx: any optax chain.
      weights: batches so far -> the constants of the objectives, such as weights of the levels; those of `repeat`
        when None.
      prepare: (key, x) -> x on the device, once a batch.

    Raises:
      ValueError: no objective.
    """
    if not objectives:
        raise ValueError("a step takes at least one objective, such as those of `sequential`; got none.")

    def step(state: TrainState, batches, constants, key):
        ((x, y),) = batches
        prepared, *keys = jax.random.split(key, 1 + len(objectives))
        x = prepare(prepared, x) if prepare else x
        given = weights(state.step) if weights else constants
        params, batch_stats, opt_state = state.params, state.batch_stats, state.opt_state
        for loss, own in zip(objectives, keys, strict=True):
            grads, batch_stats = jax.grad(loss, has_aux=True)(params, batch_stats, ((x, y),), given, own)
            updates, opt_state = tx.update(losses.uphill(grads), opt_state, params)
            params = optax.apply_updates(params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state, state.key)

    return step


def _checked(logits: Logits, y: Labels, tree: Tree) -> Logits:
    for level, z in enumerate(logits, 1):
        if np.ndim(z) != 2 or np.ndim(y) != 1 or len(z) != len(y):
            raise ValueError(
                f"logits of level {level} are (b, nodes), one row per label; got shape {np.shape(z)} for "
                f"{np.shape(y)} labels."
            )
    heads = tuple(int(np.shape(z)[-1]) for z in logits)
    if heads != tree.sizes:
        raise ValueError(
            f"the tree has {tree.sizes} nodes at its levels and the heads {heads} outputs: build the network with "
            "level_heads(trunk, sizes=tree.sizes)."
        )
    return logits
