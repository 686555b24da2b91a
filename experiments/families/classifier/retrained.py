"""The baselines that train further networks on parts of the data: confident learning and second-split forgetting."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families.classifier import data, network
from experiments.harness import timing
from subspace_jax import nn, training
from subspace_jax.memorization import confident_learning, second_split
from subspace_jax.typing import Variables


def scores(*arguments: Any) -> dict[str, Callable[[], dict[str, Any]]]:
    """By name, the function that computes the score and its time; arguments: config, setup, task, seed."""

    def score(name: str, run: Callable) -> dict[str, Any]:
        values, seconds = timing.timed(lambda: run(*arguments))
        return {f"score/{name}": np.asarray(values), f"seconds/{name}": seconds}

    runs = {"confident_learning": cross_validate, "second_split": split_twice}
    return {name: functools.partial(score, name, run) for name, run in runs.items()}


def cross_validate(config: data.Config, shared: data.Setup, task: data.Task, seed: int) -> Any:
    """Confident learning: three networks, each judged on the third of the samples it did not see."""
    fold = np.asarray(confident_learning.folds(jax.random.key(seed), len(task.x)))
    states, _ = train_on(config, shared, task, seed, [fold != k for k in range(3)], label="folds")
    logits = training.predict(stacked(shared.network.apply), training.variables(states), task.x)
    return confident_learning.confident_learning(jax.nn.softmax(own_model(logits, fold)), jnp.asarray(task.label)).score


def split_twice(config: data.Config, shared: data.Setup, task: data.Task, seed: int) -> Any:
    """Second-split forgetting: train on each half, go on with the other half, see what of the first is lost."""
    half = np.asarray(confident_learning.folds(jax.random.key(seed), len(task.x), count=2))
    first, _ = train_on(config, shared, task, seed, [half == k for k in range(2)], label="first halves")
    apply, label = stacked(shared.network.apply), jnp.asarray(task.label)

    def update(carry, states, epoch):
        logits = training.predict(apply, training.variables(states), task.x)
        return second_split.update(carry, own_model(logits, half), label)

    before = update(second_split.init(len(task.x)), first, 0)
    hooks = {"split": training.Hook(before, update)}
    other = [half != k for k in range(2)]
    start = training.variables(first)
    _, carries = train_on(config, shared, task, seed, other, label="second halves", start=start, hooks=hooks)
    return second_split.finalize(carries["split"])


def check(config: data.Config, size: int, label: str) -> None:
    """Refuse sets that give no batch.

    Raises:
      ValueError: names the flag and the sets.
    """
    if config.batch > size:
        raise ValueError(f"--batch {config.batch} is larger than the {size} samples of the {label}: at most {size}.")


def check_scores(config: data.Config, samples: int) -> None:
    """Refuse, before anything is trained, folds or halves that give no batch."""
    check(config, samples - -(-samples // 3), "folds")
    check(config, samples // 2, "halves")


def train_on(
    config: data.Config,
    shared: data.Setup,
    task: data.Task,
    seed: int,
    masks: list[np.ndarray],
    *,
    label: str,
    **more: Any,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """Networks trained with the run's recipe on the masked samples, cut to the smallest number of them."""
    size = int(min(mask.sum() for mask in masks))
    check(config, size, label)
    table = np.stack([np.flatnonzero(mask)[:size] for mask in masks])
    tx = training.optimizer(shared.recipe, shared.recipe.epochs * (size // shared.recipe.batch))
    key = jax.random.fold_in(jax.random.key(seed), data.TRAIN_KEY)
    return training.train_many(
        key, shared.network, tx, (task.image, task.label), table, epochs=config.epochs, batch=shared.recipe.batch,
        loop="vmap" if config.model == "mlp" else "map",
        prepare=shared.prepare, label=label, **more,
    )  # fmt: skip


def from_scratch(
    config: data.Config, shared: data.Setup, seed: int, samples: tuple[Any, Any], *, steps: int,
    model: nn.Model | None = None, objective: Callable | None = None,
) -> Variables:  # fmt: skip
    """A new network on some samples (raw image, label), by the recipe of the run; it starts where the network did."""
    model, tx = model or shared.network, training.optimizer(shared.recipe, steps)
    key = jax.random.fold_in(jax.random.key(seed), data.TRAIN_KEY)
    blank = jax.eval_shape(shared.prepare, key, samples[0][:1])
    start = training.variables(network.create(key, model, tx, np.zeros(blank.shape, blank.dtype)))
    return training.minimise(
        key, objective or training.mean_loss(model.train_apply), tx, start, [samples], steps=steps, batch=config.batch,
        prepare=shared.prepare, label="from scratch",
    )  # fmt: skip


@functools.lru_cache
def stacked(apply: Callable) -> Callable:
    """Apply several networks to one batch: logits (n, models, classes)."""

    def together(variables, x):  # what jax.vmap gives cannot be compared, and would be compiled at every call
        return jax.vmap(apply, in_axes=(0, None), out_axes=1)(variables, x)

    return together


def own_model(logits: Any, model: np.ndarray) -> Any:
    """Logits (n, classes) of each sample by the model of its number `model`, from (n, models, classes)."""
    return jnp.take_along_axis(logits, jnp.asarray(model)[:, None, None], axis=1)[:, 0]
