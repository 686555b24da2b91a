"""One seed of privacy_links: curvature of private networks, memorization with and without privacy, a planted table."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families import classifier
from experiments.privacy_links import methods
from subspace_jax import training, trees
from subspace_jax.memorization import scores, stability
from subspace_jax.privacy import dp_sgd, links, masks

if TYPE_CHECKING:
    from experiments.privacy_links.experiment import Config

PRIVATE_KEY, MASK_KEY, PLANT_KEY = 20, 21, 22  # beside those of the classifier family
ABOVE = 0.2  # of the bound, where a table is planted


def curvatures(
    config: Config, shared: classifier.Setup, private: methods.Private, task: classifier.Task, seed: int,
    name: methods.Name,
) -> dict[str, Any]:  # fmt: skip
    """Link 2: one network an epsilon on the true labels; mean curvature and trace over training samples, accuracy."""
    key = jax.random.fold_in(jax.random.key(seed), PRIVATE_KEY)
    apply, tx = private.network.apply, methods.optimizer(name, rate(config, name))
    found: dict[str, list[float]] = {kind: [] for kind in ("curvature", "trace", "accuracy")}
    for epsilon, sigma in private.whole.items():
        fitted = dp_sgd.fit(
            key, methods.loss_of(apply), tx, methods.fresh(private.network)(key, task.x[:1]), (task.x, task.true),
            sigma=sigma, batch=config.private_batch, **shared_arguments(config),
            label=f"seed {seed}, {name}, {methods.called(epsilon)}",
        )  # fmt: skip
        first = slice(config.trace_samples)
        change = score(config, "fd_norm", apply, fitted.variables, task.x, task.true, task.index, seed)
        trace = score(
            config, "exact", apply, fitted.variables, task.x[first], task.true[first], task.index[first], seed
        )
        found["curvature"].append(change.mean() / config.step)
        found["trace"].append(trace.mean())
        found["accuracy"].append(float(training.evaluate(apply, fitted.variables, task.test_x, task.test_label)))
    return {f"{kind}/{name}": np.array(values, np.float64) for kind, values in found.items()}


def ordinary(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """Link 1: many networks on random halves by the run's recipe; memorization, and mean curvature over networks."""
    key = jax.random.key(seed)
    subsets = stability.subset_tables(key, len(task.x), models=config.models, ratio=0.5)
    steps = config.epochs * (subsets.index.shape[1] // config.batch)
    states, _ = training.train_many(
        jax.random.fold_in(key, classifier.TRAIN_KEY), shared.network, training.optimizer(shared.recipe, steps),
        (task.image, task.label), subsets.index, epochs=config.epochs, batch=config.batch, chunk=config.group,
        loop="vmap" if config.model == "mlp" else "map", prepare=shared.prepare, label=f"seed {seed}, networks",
    )  # fmt: skip
    variables, apply = training.variables(states), shared.network.apply
    right, chance = map(np.asarray, answers(apply, variables, task.x, task.label))
    found = {f"correct/{kind}": values for kind, values in estimate(right, subsets.mask).items()}
    found |= {f"memorization/non_private/{kind}": values for kind, values in estimate(chance, subsets.mask).items()}
    mean = training.score_dataset(
        jax.random.fold_in(key, classifier.SCORE_KEY), mean_scores(apply, config.probes, config.step), variables,
        (task.x, task.label), index=task.index, batch=config.score_batch, label="curvature",
    )  # fmt: skip
    test, _ = answers(apply, variables, task.test_x, task.test_label)
    return found | mean | {"train_accuracy": right[subsets.mask].mean(), "test_accuracy": np.mean(test)}


def memorized(
    config: Config, shared: classifier.Setup, private: methods.Private, task: classifier.Task, seed: int,
    name: methods.Name, epsilon: float,
) -> dict[str, Any]:  # fmt: skip
    """Link 3: private networks on independent halves; memorization by the probability of the label."""
    key = jax.random.fold_in(jax.random.key(seed), PRIVATE_KEY)
    keep, apply = halves(config, task, seed), private.network.apply
    rows = methods.rows_of(keep)
    batch = config.private_batch / (len(task.x) // 2) * rows  # the chance that the noise was looked for
    tx = methods.optimizer(name, rate(config, name), batch / config.private_batch)
    fitted = []
    for number, row in enumerate(keep):
        own = jax.random.fold_in(key, number)
        fitted.append(dp_sgd.fit(
            own, methods.counted_loss(apply), tx, methods.fresh(private.network)(own, task.x[:1]),
            methods.padded(task.x, task.label, row, rows), sigma=private.half[epsilon], batch=batch,
            **shared_arguments(config),
            label=f"seed {seed}, {name}, {methods.called(epsilon)}, network {number + 1} of {len(keep)}",
        ).variables)  # fmt: skip
    _, chance = answers(apply, trees.stack(fitted), task.x, task.label)
    case = f"{name}/{methods.called(epsilon)}"
    return {f"memorization/{case}/{kind}": values for kind, values in estimate(np.asarray(chance), keep).items()}


def planted(config: Config, task: classifier.Task, seed: int) -> dict[str, Any]:
    """A table of right answers whose memorization lies .2 above the bound of the smallest epsilon; {} if above 1."""
    rng = np.random.default_rng([seed, PLANT_KEY])
    bound = links.memorization_bound(min(config.memorization_epsilons), delta=config.delta, kind=config.bound)
    keep, mem = halves(config, task, seed), float(bound) + ABOVE
    if mem > 1:
        return {}
    right = rng.random(keep.shape) < np.where(keep, 0.5 + mem / 2, 0.5 - mem / 2)
    return {f"planted/{kind}": values for kind, values in estimate(right.astype(np.float32), keep).items()}


def halves(config: Config, task: classifier.Task, seed: int) -> np.ndarray:
    """Who is trained on what, the same for all epsilons."""
    return masks.independent_masks(jax.random.fold_in(jax.random.key(seed), MASK_KEY), config.models, len(task.x))


def estimate(outcome: np.ndarray, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Memorization of every sample with its standard error."""
    value = stability.memorization(outcome, keep).value
    return {"value": np.asarray(value, np.float64), "stderr": links.sampling_error(outcome, keep)}


def rate(config: Config, name: methods.Name) -> float:
    """The learning rate of an optimiser."""
    return config.rmsprop_lr if name == "rmsprop" else config.sgd_lr


def shared_arguments(config: Config) -> dict[str, Any]:
    """What all private trainings have in common."""
    names = "clip", "steps", "delta", "accountant", "microbatch"
    return {name: getattr(config, name) for name in names} | {"every": config.steps}


def score(
    config: Config, name: str, apply: Any, variables: Any, x: Any, y: np.ndarray, index: np.ndarray, seed: int
) -> np.ndarray:
    """One curvature of every sample."""
    key = jax.random.fold_in(jax.random.key(seed), classifier.SCORE_KEY)
    found = scores.score(
        key, apply, variables, x, y, name=name, probes=config.probes, step=config.step, index=index,
        batch=config.score_batch,
    )  # fmt: skip
    return np.asarray(found, np.float64)


@functools.lru_cache  # one function object, and so one compilation
def mean_scores(apply: Any, probes: int, step: float) -> Any:
    """fn(keys, stacked variables, x, y) -> the mean over networks of a curvature by steps and of the exact trace."""
    kinds = {name: scores.scorer(name, apply, probes=probes, step=step) for name in ("fd_norm", "ggn_exact")}

    def fn(keys, several, x, y):
        each = jax.vmap(lambda own: {name: one(keys, own, x, y) for name, one in kinds.items()})(several)
        return jax.tree.map(lambda values: jnp.mean(values, axis=0), each)

    return fn


@functools.partial(jax.jit, static_argnums=0)
def answers(apply: Any, variables: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Right or wrong (models, n), and the probability of the label, of every network on every sample."""
    right = stability.outcomes(apply, variables, x, y)
    return right, stability.outcomes(apply, variables, x, y, signal="prob")
