"""Minimise any objective over one or several sets of samples: the loop behind all fine-tuning."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import checks, losses
from subspace_jax.core.keys import as_key
from subspace_jax.data import epoch_order
from subspace_jax.training.fit import stays_on_device
from subspace_jax.training.progress import track
from subspace_jax.typing import Array, Key, PyTree, Variables

Samples = tuple[Any, ...]  # x (n, ...), y (n,) and what else a step reads: NumPy or device arrays
SPAN = 200  # steps per call where one program loops over steps; the progress bar moves after each call


def minimise(
    key: Key[Array, ""],
    objective: Callable,
    tx: optax.GradientTransformation,
    variables: Variables,
    sets: Sequence[Samples],
    *,
    steps: int,
    batch: int,
    constants: PyTree = None,
    prepare: Callable | None = None,
    label: str = "fine-tuning",
) -> Variables:
    """Variables after `steps` steps of `tx` down the gradient of an objective over batches of several sets.

    Each step takes a batch of every set; each set has its own order, reshuffled every pass (`epoch_order`). To ascend a
    loss, negate it in the objective. One program runs many steps; for convolutions on a CPU, or data too large for the
    device, each step is one.

    Args:
      key: for sample order, augmentation, and randomness in the network and the objective.
      objective: (params, batch_stats, batches, constants, key) -> (loss, new batch_stats), with batches a tuple of
        (x, y), one per set. Each new function object is compiled again: define it outside of loops.
      tx: any optax chain; its state is initialised here, and its update also gets the parameters.
      variables: {"params": any pytree, "batch_stats": ...} to start from.
      sets: (x, y) of each set, x and y equally long.
      steps: at least 1.
      batch: samples of each set per step; all of a smaller set.
      constants: pytree of arrays passed to the objective, not trained: a teacher's variables, a mask.
      prepare: (key, x) -> x on the device before the objective, such as augmentation.
      label: name beside the progress bar.

    Raises:
      ValueError: steps or batch below 1; no set or an empty one; inputs that are not finite or not as many as labels.
    """
    carry = variables["params"], variables["batch_stats"], tx.init(variables["params"])
    step = _descent(objective, tx, prepare)
    params, batch_stats, _ = repeat(
        key, step, carry, sets, steps=steps, batch=batch, constants=constants, params=carry[0], label=label
    )
    return {"params": params, "batch_stats": batch_stats}


def repeat(
    key: Key[Array, ""],
    step: Callable,
    carry: PyTree,
    sets: Sequence[Samples],
    *,
    steps: int,
    batch: int,
    params: PyTree,
    constants: PyTree = None,
    label: str = "training",
) -> PyTree:
    """The carry after `steps` steps over batches of several sets: the loop under `minimise`, for any kind of step.

    Args:
      key: for the sample order; step i gets fold_in(key, i).
      step: (carry, batches, constants, key) -> carry, compiled once per function object; batches as in `minimise`.
      carry: any pytree of arrays.
      sets: as in `minimise`, like steps, batch, constants and label.
      steps: see sets.
      batch: see sets.
      params: the trained parameters; only their shapes matter, to detect convolutions (see `minimise`).
      constants: see sets.
      label: see sets.

    Raises:
      ValueError: as `minimise`.
    """
    key = as_key(key)
    sizes = [len(arrays[0]) for arrays in sets]
    if steps < 1 or batch < 1 or not sizes or not all(sizes):
        raise ValueError(f"there are steps and samples to take; got {steps} steps of {batch} from sets of {sizes}.")
    for x, y, *_ in sets:
        checks.check_lengths(x=x, y=y)
        checks.check_finite("x", x)
    rows = [_order(jax.random.fold_in(key, k), n, min(batch, n), steps) for k, n in enumerate(sizes)]
    one, several = _programs(step)
    if all(stays_on_device(params, arrays[0]) for arrays in sets):
        sets = jax.device_put(tuple(sets))
        for start in track(range(0, steps, SPAN), label=label, total=-(-steps // SPAN), samples=SPAN * batch):
            carry = several(carry, start, min(start + SPAN, steps), rows, sets, constants, key)
        return carry
    order = [np.asarray(r) for r in rows]
    for i in track(range(steps), label=label, total=steps, samples=batch):
        batches = tuple(tuple(part[r[i]] for part in arrays) for r, arrays in zip(order, sets, strict=True))
        carry = one(carry, i, batches, constants, key)
    return carry


@lru_cache(maxsize=64)  # one function object a network
def mean_loss(train_apply: Callable) -> Callable:
    """The objective of plain training: mean cross-entropy over the batches of all sets together, in train mode.

    Args:
      train_apply: (variables, x, key) -> (logits, new batch_stats), as `nn.Model` has it.
    """

    def objective(params, batch_stats, batches, constants, key):
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        return losses.mean(losses.softmax_cross_entropy(logits, y)), batch_stats

    return objective


@lru_cache(maxsize=256)
def _descent(objective: Callable, tx: optax.GradientTransformation, prepare: Callable | None) -> Callable:
    """One step down the gradient of the objective."""

    def step(carry, batches, constants, key):
        params, batch_stats, opt_state = carry
        if prepare:
            batches = tuple((prepare(jax.random.fold_in(key, k), x), y) for k, (x, y) in enumerate(batches))
        grads, batch_stats = jax.grad(objective, has_aux=True)(params, batch_stats, batches, constants, key)
        updates, opt_state = tx.update(losses.uphill(grads), opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    return step


@lru_cache(maxsize=256)
def _programs(step: Callable) -> tuple[Callable, Callable]:
    """One step on given batches, and a span of steps on whole sets."""

    def one(carry, i, batches, constants, key):
        return step(carry, batches, constants, jax.random.fold_in(key, i))

    def several(carry, start, stop, rows, sets, constants, key):
        def body(i, carry):
            batches = tuple(tuple(part[r[i]] for part in arrays) for r, arrays in zip(rows, sets, strict=True))
            return one(carry, i, batches, constants, key)

        return jax.lax.fori_loop(start, stop, body, carry)

    return jax.jit(one), jax.jit(several)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _order(key: Key[Array, ""], n: int, batch: int, steps: int) -> Array:
    """The rows of each step, (steps, batch): a new permutation for every pass."""
    passes = -(-steps // (n // batch))
    orders = jax.vmap(lambda epoch: epoch_order(key, epoch, n, batch))(jnp.arange(passes))
    return orders.reshape(-1, batch)[:steps]
