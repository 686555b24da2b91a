"""UNSIR: train on error-maximising noise under the labels to forget, then repair. Tarun et al. 2023, arXiv 2111.08947.

The only method here that never sees the samples to forget, only their number, shape and labels.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import training
from subspace_jax.core import losses
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Float, Key, Variables
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned, descend

NOISE = Recipe(optimizer="adam", lr=0.1, weight_decay=0.0, epochs=40)  # the paper's 5 rounds of 8 steps
PENALTY = 0.1  # on the squared norm of a noise image
IMPAIR_LR = 2e-4  # of Adam


def unsir(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Learn noise with a high loss, train on it under the labels to forget and on D_r, repair on D_r alone.

    Impair and repair both take recipe.epochs passes, the first with Adam.
    """
    key = as_key(key)
    noise_key, impair_key, repair_key = jax.random.split(key, 3)
    noise = learn_noise(noise_key, model, variables, forget)
    objective = training.mean_loss(model.train_apply)
    sets = [retain, (noise.variables["params"], forget[1])]
    slow = dataclasses.replace(recipe, optimizer="adam", lr=IMPAIR_LR)
    impaired = descend(impair_key, objective, variables, sets, recipe=slow, label="unsir: impair")
    repaired = descend(repair_key, objective, impaired.variables, [retain], recipe=recipe, label="unsir: repair")
    return repaired.after(impaired).after(noise)


def learn_noise(key: Key[Array, ""], model: Model, variables: Variables, forget: Samples) -> Unlearned:
    """Noise of the forget set's shape, from N(0, 1), by 40 steps up CE - .1 ||noise||^2; returned as `params`."""
    key = as_key(key)
    start_key, key = jax.random.split(key)
    start = {"params": jax.random.normal(start_key, forget[0].shape), "batch_stats": {}}
    rows = np.arange(len(forget[1])), forget[1]
    recipe = dataclasses.replace(NOISE, batch=len(forget[1]))
    return descend(
        key, _noise_loss(model.apply), start, [rows], recipe=recipe, constants=variables, label="unsir: noise"
    )


@lru_cache(maxsize=64)
def _noise_loss(apply: Callable) -> Callable:
    def objective(noise: Float[Array, "n ..."], batch_stats, batches, variables, key):
        ((rows, y),) = batches
        loss = losses.softmax_cross_entropy(apply(variables, noise[rows]), y).mean()
        return PENALTY * jnp.square(noise[rows]).sum() / len(rows) - loss, batch_stats

    return objective
