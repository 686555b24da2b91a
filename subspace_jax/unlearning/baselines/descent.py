"""Baselines that only descend the cross-entropy: from scratch, on what stays, or with random labels on what goes."""

from collections.abc import Callable
from typing import Any

import jax

from subspace_jax import training
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Key, Variables
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned, descend, fresh


def retrain(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *, recipe: Recipe,
    prepare: Callable | None = None,
) -> Unlearned:  # fmt: skip
    """The reference: a fresh network, trained on what stays by the recipe of the original.

    Args:
      key: of the initialisation and the orders.
      model: the network.
      variables: not used; here as in every method.
      retain: all training samples that stay, not the few that the others get.
      forget: not used.
      recipe: how the original was trained.
      prepare: (key, x) -> inputs, where `retain` holds raw pixels that are augmented.
    """
    key = as_key(key)
    init_key, key = jax.random.split(key)
    start = fresh(init_key, model.init, retain[0])
    objective = training.mean_loss(model.train_apply)
    return descend(key, objective, start, [retain], recipe=recipe, prepare=prepare, label="retrain")


def finetune(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Train on with the retain set alone and hope that the rest fades ("catastrophic forgetting")."""
    objective = training.mean_loss(model.train_apply)
    return descend(key, objective, variables, [retain], recipe=recipe, label="finetune")


def random_labels(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Train on with the retain set and, batch by batch, the forget set under labels drawn once from all classes."""
    key = as_key(key)
    label_key, key = jax.random.split(key)
    objective = training.mean_loss(model.train_apply)
    sets = [retain, (forget[0], uniform(label_key, model, variables, forget[0]))]
    return descend(key, objective, variables, sets, recipe=recipe, label="random_labels")


def uniform(key: Key[Array, ""], model: Model, variables: Variables, x: Any) -> Array:
    """Labels (n,), each of all classes with equal chance, the true one among them."""
    key = as_key(key)
    classes = jax.eval_shape(model.apply, variables, x[:1]).shape[-1]
    return jax.random.randint(key, (len(x),), 0, classes)
