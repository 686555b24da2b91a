"""One seed of label_correction: its network, everything done to correct it, and what could be done instead."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.label_correction import methods
from subspace_jax import training
from subspace_jax.core import losses
from subspace_jax.label_noise import early_stopping

if TYPE_CHECKING:
    from experiments.label_correction.experiment import Config


Parts = dict[str, dict[str, np.ndarray]]  # arrays by stage
COUNTS = 20, 50, 100, 300  # of trusted samples, for the curve of the report


observe = jax.jit(early_stopping.update)


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> tuple[int, methods.Case, Parts]:
    """Train or load the network of one seed, correct it, and do everything else that could be done."""
    case = methods.case(config, shared, seed)
    sets = methods.random_sets(case, config.trusted_count)  # refused, if at all, before the training
    original, stopped = vanilla(case)

    def stage(name, compute, *arguments, **options):
        return runner.stage(config, f"seed{seed}_{name}", functools.partial(compute, case, *arguments, **options))

    rows = stage("low_curvature_rows", methods.low_curvature, original)["rows"]
    sets["low_curvature"] = methods.trust(case, case.members, rows)
    given = sets[config.trusted]
    parts = {"before": stage("before", before, original, stopped)}
    for name in (name for name in methods.SETS if name in sets):
        parts[name] = stage(name, methods.verifix, original, sets[name], save=name == config.trusted)
    for name, run in methods.baselines(case, original, given).items():
        also = given if name in methods.CORRECTED else None
        parts[name] = stage(name, methods.baseline, original.model, run, also)
    if seed == config.seed:
        for count in (c for c in COUNTS if len(case.classes) <= c < config.trusted_count):
            fewer = methods.random_sets(case, count)["clean_members"]
            parts[f"count{count}"] = stage(f"count{count}", methods.verifix, original, fewer)
    return seed, case, parts


def vanilla(case: methods.Case) -> tuple[classifier.Trained, early_stopping.EarlyStopping | None]:
    """The network of a seed, and what early stopping would have kept of its training; None where it is loaded."""
    config, shared, task, seed = case[:4]
    x, label = methods.scaled(case, case.selection), case.selection.label
    tx = training.optimizer(shared.recipe, config.epochs * (len(task.x) // config.batch))
    blank = classifier.create(case.key, shared.network, tx, task.x[:1])

    def update(carry, state, epoch):
        variables = training.variables(state)
        logits = training.predict(shared.network.apply, variables, x)
        return observe(carry, variables, losses.softmax_cross_entropy(logits, label).mean())

    hooks = {"early_stopping": training.Hook(early_stopping.init(training.variables(blank)), update)}
    original = classifier.trained(config, shared, task, seed, hooks=hooks)
    return original, original.carries.get("early_stopping")


def before(case: methods.Case, original: classifier.Trained, stopped: Any) -> dict[str, Any]:
    """What the network does without a correction, and what it did at its early stop."""
    apply, task = original.model.apply, case.task
    arrays = {
        "train_accuracy": training.evaluate(apply, original.variables, task.x, task.label),
        "predicted": training.predict(apply, original.variables, task.test_x).argmax(-1),
    }
    if stopped is None:
        return arrays
    accuracy = training.evaluate(apply, stopped.variables, task.test_x, task.test_label)
    return arrays | {"early_stopping": accuracy, "early_stopping_epoch": stopped.best}
