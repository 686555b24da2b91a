"""NegGrad and NegGrad+: gradient ascent on the forget set, in NegGrad+ with descent on the retain set.

The loss to ascend is unbounded, and ascent would destroy the network. Here the ascent term fades with the share of the
batch that is still classified correctly, and is zero when none is. NegGrad: Golatkar et al. 2020, arXiv 1911.04933;
NegGrad+: Kurmanji et al. 2023, arXiv 2302.09880.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax.core import losses
from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Float, Int, Key, Variables
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned, descend


def neggrad(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Ascend CE(D_f) times the share of the batch that is still classified correctly; `retain` is not used."""
    return descend(key, _ascent(model.train_apply), variables, [forget], recipe=recipe, label="neggrad")


def neggrad_plus(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Descend CE(D_r) - s CE(D_f), s the share of the forget batch that is still classified correctly."""
    return descend(key, _ascent(model.train_apply), variables, [retain, forget], recipe=recipe, label="neggrad_plus")


@lru_cache(maxsize=64)
def _ascent(train_apply: Callable) -> Callable:
    """Descend the loss of all sets but the last, ascend that of the last; one pass, for joint batch statistics."""

    def objective(params, batch_stats, batches, constants, key):
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        loss = losses.softmax_cross_entropy(logits, y)
        stay = len(y) - len(batches[-1][1])
        down = loss[:stay].mean() if stay else 0.0
        return down - still_right(logits[stay:], y[stay:]) * loss[stay:].mean(), batch_stats

    return objective


def still_right(logits: Float[Array, "b classes"], y: Int[Array, " b"]) -> Float[Array, ""]:
    """Accuracy on the batch, as a constant to gradients."""
    return jax.lax.stop_gradient((logits.argmax(-1) == y).mean())
