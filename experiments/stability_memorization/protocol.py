"""One seed of stability_memorization: many networks on random halves of the data, and one on all of it."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from subspace_jax import nn, training
from subspace_jax.core import curvature, losses
from subspace_jax.memorization import epoch_average, stability

if TYPE_CHECKING:
    from experiments.stability_memorization.experiment import Config


def many_networks(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """Sums over all groups of networks: counts of outcomes, curvature, accuracy; test outcomes for the influence."""
    key = jax.random.key(seed)
    subsets = stability.subset_tables(key, len(task.x), models=config.models, ratio=config.ratio)
    parts = []
    for first in range(0, config.models, config.group):
        rows = slice(first, first + config.group)
        group = functools.partial(train_group, config, shared, task, seed, subsets, rows)
        parts.append(runner.stage(config, f"seed{seed}_group{first // config.group}", group))
    groups = [stability.Sums(*(jnp.asarray(part[f"sums/{name}"]) for name in stability.Sums._fields)) for part in parts]
    sums = functools.reduce(stability.merge, groups)
    weights = [len(part["test_outcome"]) for part in parts]
    names = "fd_norm", "loss", "train_accuracy"
    mean = {name: np.average([part[name] for part in parts], axis=0, weights=weights) for name in names}
    estimate = stability.estimate(sums)
    test_outcome = np.concatenate([part["test_outcome"] for part in parts])
    return mean | {
        "memorization": np.asarray(estimate.value[0]),
        "stderr": np.asarray(estimate.stderr[0]),
        "cscore": np.asarray(stability.cscore(sums)),
        "test_outcome": test_outcome,
        "mask": subsets.mask,
        "test_accuracy": test_outcome.mean(),
    }


def train_group(
    config: Config,
    shared: classifier.Setup,
    task: classifier.Task,
    seed: int,
    subsets: stability.Subsets,
    rows: slice,
) -> dict[str, Any]:
    """Train the networks of some rows of the table; what remains of them are sums over networks."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY), rows.start)
    variables, averages = train(config, shared, task, key, subsets.index[rows], label=f"seed {seed}, networks")
    right = outcomes(shared.network.apply, variables, task.x, task.label)
    sums = stability.memorization_sums(right, subsets.mask[rows])
    fitted = sums.right_members.sum() / sums.members.sum()
    if fitted < 1.5 / shared.classes:
        found = f"the networks fit {fitted:.0%} of their own samples"
        warnings.warn(f"{found}: labels out of order, lr too high, or epochs too few.", stacklevel=2)
    test_outcome = outcomes(shared.network.apply, variables, task.test_x, task.test_label)
    sums = {f"sums/{name}": value for name, value in sums._asdict().items()}
    return sums | averages | {"train_accuracy": fitted, "test_outcome": test_outcome}


def one_network(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """Curvature and loss of one network trained on all data: what one run tells of the many."""
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    everyone = np.arange(len(task.x))[None]
    _, averages = train(config, shared, task, key, everyone, label=f"seed {seed}, all data")
    return {f"{name}_one": values for name, values in averages.items()}


def train(
    config: Config,
    shared: classifier.Setup,
    task: classifier.Task,
    key: Any,
    table: np.ndarray,
    *,
    label: str,
) -> tuple[Any, dict[str, Any]]:
    """Networks on the rows of the table: (stacked variables, {"fd_norm", "loss"} averaged over networks and epochs)."""
    score = scores_of_all(shared.network, config.probes)

    def update(carry, states, epoch):
        values = training.score_dataset(
            jax.random.fold_in(key, epoch), score, training.variables(states), (task.x, task.label), index=task.index,
            batch=config.score_batch, label="fd_norm",
        )  # fmt: skip
        return {name: epoch_average.update(carry[name], values[name]) for name in carry}

    blank = epoch_average.init(len(task.x))
    hook = training.Hook({"fd_norm": blank, "loss": blank}, update, config.score_every)
    states, carries = training.train_many(
        key, shared.network, training.optimizer(shared.recipe, config.epochs * (table.shape[1] // config.batch)),
        (task.image, task.label), table, epochs=config.epochs, batch=config.batch,
        prepare=shared.prepare, hooks={"scores": hook}, label=label,
    )  # fmt: skip
    return training.variables(states), {k: epoch_average.finalize(v) for k, v in carries["scores"].items()}


@functools.lru_cache  # one function object, and so one compilation
def scores_of_all(network: nn.Model, probes: int):
    """fn(keys, stacked variables, x, y) -> {"fd_norm", "loss"} averaged over the networks."""
    loss = losses.cross_entropy(network.apply)

    def one(variables, keys, x, y):
        fd_norm = curvature.fd_norm(keys, loss, variables, x, y, probes=probes).value
        return {"fd_norm": fd_norm, "loss": loss(variables, x, y)}

    def fn(keys, variables, x, y):
        per_model = jax.vmap(one, in_axes=(0, None, None, None))(variables, keys, x, y)
        return jax.tree.map(lambda values: values.mean(axis=0), per_model)

    return fn


outcomes = jax.jit(stability.outcomes, static_argnums=0)
