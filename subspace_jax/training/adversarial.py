"""Adversarial training: the loss of each batch is that of its attacked images. Madry et al., ICLR 2018."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from subspace_jax.core import attacks, checks, losses
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float, Int, Key, Shaped, Variables

HARDENING = attacks.pgd(steps=7, step_size=1 / 3)


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
      ValueError: a negative eps; as `core.attacks.run`, at the first step.
    """
    checks.check_number("eps", eps, 0)
    attack = attack or HARDENING

    def objective(params, batch_stats, batches, constants, key):
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        drawn, own = jax.random.split(key)
        variables = {"params": params, "batch_stats": batch_stats}
        changed = attacked(drawn, model, variables, x, y, eps=eps, attack=attack)
        logits, batch_stats = model.train_apply(variables, changed, own)
        return losses.mean(losses.softmax_cross_entropy(logits, y)), batch_stats

    return objective


def attacked(
    key: Key[Array, ""], model: Model, variables: Variables, x: Shaped[Any, "b *image"], y: Int[Any, " b"], *, eps: Any,
    attack: attacks.Attack | None = None,
) -> Float[Array, "b *image"]:  # fmt: skip
    """Images of a batch that an attack changed, without a gradient; see `adversarial`."""
    key = as_key(key)
    fn = jax.tree_util.Partial(model.apply, jax.lax.stop_gradient(variables))
    changed = attacks.run(jax.random.split(key, len(x)), attack or HARDENING, fn, x, y, eps=eps)
    return jax.lax.stop_gradient(changed)
