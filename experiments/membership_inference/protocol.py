"""One seed of membership_inference: many networks on random halves of the data, and every attack on some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.families import classifier
from subspace_jax import training
from subspace_jax.privacy import masks, membership, shadows, statistics, zeroth_order

if TYPE_CHECKING:
    from experiments.membership_inference.experiment import Config


def check_attacks(config: Config) -> None:
    """Refuse attacks that there are not.

    Raises:
      ValueError: names the first of them and all that there are.
    """
    for flag, names in (("attacks", config.attacks), ("score", (config.score,))):
        for name in names:
            if name not in membership.TABLE:
                raise ValueError(f"--{flag}: no attack {name!r}; there are {', '.join(membership.TABLE)}.")


def attacks(config: Config, *, population: bool = True) -> list[str]:
    """The attacks that are tried, without those for which there is no population: samples of no training set."""
    names = dict.fromkeys((*(config.attacks or membership.TABLE), config.score))
    return [name for name in names if population or "population" not in membership.TABLE[name].needs]


def needs_curvature(names: list[str]) -> bool:
    """Whether one of the attacks looks at curvature."""
    return any(membership.TABLE[name].statistic == "curvature" for name in names)


def attacked(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """Scores "score/<attack>" (targets, n), who was a member, accuracies, the targets' curvature."""
    names = attacks(config, population=len(task.test_label) > 0)
    keep = masks.shadow_masks(jax.random.key(seed), config.models, len(task.x))
    said = outputs(config, shared, task, seed, keep, curved=needs_curvature(names))
    n, last = len(task.x), config.models - config.targets
    logits, curvature = said["logits"], said.get("curvature")
    whole = statistics.from_logits(logits[:, :, :n], task.label, curvature=curvature)
    of_targets, of_shadows = apart(whole, last)
    population = (
        apart(statistics.from_logits(logits[:, :, n:], task.test_label), last) if len(task.test_label) else None
    )
    arrays = {
        f"score/{name}": membership.attack(name, of_targets, of_shadows, keep[:last], population=population)
        for name in names
    }
    arrays |= accuracies(logits[:, 0], keep, task) | {"member": keep[last:]}
    if curvature is not None:
        floor = curvature[curvature > 0].min()  # zeros lie below what was measured
        arrays["log_curvature"] = np.log(np.maximum(curvature[last:], floor)).mean(axis=1)
    return arrays


def apart(of: statistics.Statistics, last: int) -> tuple[statistics.Statistics, statistics.Statistics]:
    """Of the targets, and of the shadow models before them."""
    targets, before = (
        jax.tree.map(lambda part, rows=rows: part[rows], of) for rows in (slice(last, None), slice(last))
    )
    return targets, before


def outputs(
    config: Config, shared: classifier.Setup, task: classifier.Task, seed: int, keep: np.ndarray, *, curved: bool
) -> dict[str, np.ndarray]:
    """What every network says of all training and test samples, and the curvature of its loss around the former."""
    key, loop = jax.random.key(seed), "vmap" if config.model == "mlp" else "map"
    network = shadows.stacked(shared.network.apply, loop)

    def curvature(own: Any) -> np.ndarray:
        def of(x: Any) -> np.ndarray:
            return zeroth_order.zeroth_order(
                jax.random.fold_in(key, classifier.SCORE_KEY), network, own, x, task.label, probes=config.probes,
                step=config.step, index=task.index, batch=config.score_batch,
            )  # fmt: skip

        return shadows.ask(of, task.x, config.queries)

    saved = classifier.checkpoint_config(config, shared, seed)
    steps = config.epochs * (int(keep[0].sum()) // config.batch)
    return shadows.train(
        jax.random.fold_in(key, classifier.TRAIN_KEY), shared.network, training.optimizer(shared.recipe, steps),
        (task.image, task.label), keep, f"{config.workdir}/shadows/seed{seed}", epochs=config.epochs,
        batch=config.batch, inputs=np.concatenate([task.x, task.test_x]), queries=config.queries, group=config.group,
        loop=loop, prepare=shared.prepare, measures={"curvature": curvature} if curved else None,
        recipe=saved["recipe"] | saved["model"] | {"probes": config.probes, "step": config.step},
        label=f"seed {seed}, networks",
    )  # fmt: skip


def accuracies(logits: np.ndarray, keep: np.ndarray, task: classifier.Task) -> dict[str, Any]:
    """Of the networks on their own samples, and on the test set."""
    predicted, n = logits.argmax(axis=-1), len(task.x)
    found = {"train_accuracy": (predicted[:, :n] == task.label)[keep].mean()}
    return found | ({"test_accuracy": (predicted[:, n:] == task.test_label).mean()} if len(task.test_label) else {})
