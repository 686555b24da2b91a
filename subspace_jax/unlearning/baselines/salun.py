"""SalUn: random labels, training only the weights most salient to the forget set. Fan et al. 2024, arXiv 2310.12508."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax import training
from subspace_jax.core import shares
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Key, Params, Variables
from subspace_jax.unlearning.baselines.descent import uniform
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned, descend
from subspace_jax.unlearning.baselines.importance import gradient_sum

SHARE = 0.1  # of all weights


def salun(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """`random_labels` that trains only the 10 % of all weights with the largest |sum grad CE(D_f)|.

    The others are unchanged, whatever the optimiser.
    """
    key = as_key(key)
    label_key, key = jax.random.split(key)
    mask = saliency(gradient_sum(model, variables, forget))
    sets = [retain, (forget[0], uniform(label_key, model, variables, forget[0]))]
    constants = mask, variables["params"]
    found = descend(
        key, _masked_loss(model.train_apply), variables, sets, recipe=recipe, constants=constants, label="salun"
    )
    params = _chosen(mask, found.variables["params"], variables["params"])
    seen = len(forget[0])  # once more, for the mask
    return Unlearned(found.variables | {"params": params}, found.forward + seen, found.backward + seen)


@jax.jit
def saliency(gradient: Params) -> Params:
    """True for the 10 % of weights, over all leaves together, with the largest absolute gradient, where not zero."""
    sizes = jax.tree.map(jnp.abs, gradient)
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(sizes)])
    cut = jnp.sort(flat)[-max(1, shares.at_most(flat.size, SHARE))]
    return jax.tree.map(lambda leaf: (leaf >= cut) & (leaf > 0), sizes)


@lru_cache(maxsize=64)
def _masked_loss(train_apply: Callable) -> Callable:
    mean_loss = training.mean_loss(train_apply)

    def objective(params, batch_stats, batches, constants, key):
        mask, original = constants
        return mean_loss(_chosen(mask, params, original), batch_stats, batches, None, key)

    return objective


def _chosen(mask: Params, new: Params, old: Params) -> Params:
    return jax.tree.map(jnp.where, mask, new, old)
