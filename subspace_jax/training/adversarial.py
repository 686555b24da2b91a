"""Adversarial training: the loss of each batch is that of its attacked images. Madry et al., ICLR 2018."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax.core import attacks, losses
from subspace_jax.nn import Model


@lru_cache(maxsize=64)  # one function object for the same settings, and so one compilation
def adversarial(model: Model, *, eps: float, attack: attacks.Attack | None = None) -> Callable:
    """The objective of `train_epoch` and `minimise`: mean cross-entropy of images that an attack changed.

    The attack sees the network in inference mode, with the parameters of the step; the gradient does not pass through
    it. Statistics of BatchNorm are those of the attacked images.

    Args:
      model: a network of images in [0, 1], normalisation inside.
      eps: largest change.
      attack: 7 steps of PGD, eps / 3 each, when None.

    Raises:
      ValueError: as `core.attacks.run`, at the first step.
    """
    attack = attack or attacks.pgd(steps=7, step_size=1 / 3)

    def objective(params, batch_stats, batches, constants, key):
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        drawn, own = jax.random.split(key)
        held = jax.lax.stop_gradient({"params": params, "batch_stats": batch_stats})
        attacked = jax.tree_util.Partial(model.apply, held)
        changed = attacks.run(jax.random.split(drawn, len(x)), attack, attacked, x, y, eps=eps)
        variables = {"params": params, "batch_stats": batch_stats}
        logits, batch_stats = model.train_apply(variables, jax.lax.stop_gradient(changed), own)
        return losses.softmax_cross_entropy(logits, y).mean(), batch_stats

    return objective
