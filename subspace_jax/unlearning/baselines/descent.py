"""Baselines that minimise the cross-entropy: retraining, fine-tuning on the retain set, random labels to forget."""

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
    """The reference: a fresh network, trained on the samples to keep by the recipe of the original.

    Args:
      key: for the initialisation and the sample order.
      model: the network.
      variables: not used; present because every method takes it.
      retain: all training samples to keep, not the few that the others get.
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
    """Continue training on the retain set alone, relying on catastrophic forgetting of the rest."""
    objective = training.mean_loss(model.train_apply)
    return descend(key, objective, variables, [retain], recipe=recipe, label="finetune")


def random_labels(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Continue training on joint batches of the retain set and of the forget set with random labels, drawn once."""
    key = as_key(key)
    label_key, key = jax.random.split(key)
    objective = training.mean_loss(model.train_apply)
    sets = [retain, (forget[0], uniform(label_key, model, variables, forget[0]))]
    return descend(key, objective, variables, sets, recipe=recipe, label="random_labels")


def uniform(key: Key[Array, ""], model: Model, variables: Variables, x: Any) -> Array:
    """Labels (n,), uniformly random over all classes, the true one included."""
    key = as_key(key)
    classes = jax.eval_shape(model.apply, variables, x[:1]).shape[-1]
    return jax.random.randint(key, (len(x),), 0, classes)
