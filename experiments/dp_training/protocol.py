"""One seed of dp_training: each network trained, saved and attacked, and audited in a run of its own."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from experiments.dp_training import methods
from experiments.dp_training.methods import Case
from experiments.families import classifier
from experiments.harness import runner
from subspace_jax import training
from subspace_jax.core import losses, metrics
from subspace_jax.privacy import audit as auditing
from subspace_jax.privacy import dp_sgd
from subspace_jax.typing import LossFn

if TYPE_CHECKING:
    from experiments.dp_training.experiment import Config

AUDIT_KEY = 10  # beside those of the classifier family
auroc = jax.jit(metrics.auroc)


def one_network(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, case: Case
) -> dict[str, Any]:
    """Accuracy, membership by the loss, what was spent, and the metrics of every step."""
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    model, saved = shared.network, classifier.checkpoint_config(config, shared, seed)
    saved["recipe"] |= {"lr": case.lr}
    fitted = dp_sgd.fit(
        key, loss_of(model.apply), optimizer(config, shared, case), fresh(model)(key, task.x[:1]),
        (task.x, task.label), batch=config.batch, **shared_arguments(config, case), every=config.save_every,
        directory=f"{config.workdir}/checkpoints/{case.name}/seed{seed}", config=saved,
        label=f"seed {seed}, {case.name}",
    )  # fmt: skip
    member, other = (
        per_sample(training.predict(model.apply, fitted.variables, x), y)
        for x, y in ((task.x, task.label), (task.test_x, task.test_label))
    )
    is_member = np.arange(len(member) + len(other)) < len(member)
    return {f"history/{name}": values for name, values in fitted.history.items()} | {
        "accuracy": training.evaluate(model.apply, fitted.variables, task.test_x, task.test_label),
        "membership_auroc": auroc(-np.concatenate([member, other]), is_member),
        "epsilon_spent": fitted.report.epsilon,
    }


def audit(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, case: Case) -> dict[str, Any]:
    """What canaries prove in one more run of the same mechanism: a lower bound of its epsilon, and their scores."""
    key = jax.random.fold_in(jax.random.key(seed), AUDIT_KEY)
    variables = fresh(shared.network)(key, task.x[:1])
    planted = auditing.plant(
        jax.random.fold_in(key, 0), loss_of(shared.network.apply), optimizer(config, shared, case), variables,
        (task.x, task.label), canaries=config.canaries, clip=case.clip,
    )  # fmt: skip
    q = config.batch / len(task.x)
    fitted = dp_sgd.fit(
        jax.random.fold_in(key, 1), planted.loss, planted.tx, planted.variables, planted.data,
        batch=q * planted.samples, **shared_arguments(config, case), every=config.steps,
        label=f"seed {seed}, audit of {case.name}",
    )  # fmt: skip
    inside, outside = auditing.scores(planted, fitted.variables)
    bound = auditing.epsilon_one_run(inside, outside, significance=config.significance, delta=config.delta)
    return {"epsilon_audited": bound, "canaries_in": inside, "canaries_out": outside}


def control(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, cases: list[Case]
) -> dict[str, Any]:
    """The audit of a mechanism that adds a tenth of the noise that its stated epsilon needs; {} without audits."""
    if not config.canaries:
        return {}
    weak = cases[0]._replace(name=methods.CONTROL, sigma=cases[0].sigma / methods.LESS)
    whole = dataclasses.replace(config, max_epsilon=None)  # it overspends, that is the point
    return runner.stage(
        config, f"seed{seed}_{weak.name}_audit", functools.partial(audit, whole, shared, task, seed, weak)
    )


def shared_arguments(config: Config, case: Case) -> dict[str, Any]:
    """What the run and its audit have in common: the mechanism."""
    return {
        "sigma": case.sigma,
        "clip": case.clip,
        "steps": config.steps,
        "delta": config.delta,
        "accountant": config.accountant,
        "max_epsilon": config.max_epsilon if case.private else None,
        "microbatch": config.microbatch,
    }


def optimizer(config: Config, shared: classifier.Setup, case: Case) -> optax.GradientTransformation:
    """What follows the noise."""
    return training.optimizer(dataclasses.replace(shared.recipe, lr=case.lr), config.steps)


@functools.lru_cache  # one function object, and so one compilation
def loss_of(apply: Any) -> LossFn:
    """Cross-entropy of each sample."""
    return losses.cross_entropy(apply)


@functools.lru_cache
def fresh(model: Any) -> Any:
    """The initial values of a network, compiled."""
    return jax.jit(model.init)


def per_sample(logits: Any, label: np.ndarray) -> np.ndarray:
    """The loss of each sample."""
    return np.asarray(losses.softmax_cross_entropy(logits, label))
