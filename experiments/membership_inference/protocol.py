"""One seed of membership_inference: who is in which training set, and every attack on the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.families import classifier
from experiments.membership_inference import methods
from subspace_jax.privacy import masks, membership

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


def attacks(config: Config) -> list[str]:
    """The attacks that are asked for."""
    return list(dict.fromkeys((*(config.attacks or membership.TABLE), config.score)))


def needs_curvature(names: list[str]) -> bool:
    """Whether one of the attacks looks at curvature."""
    return any(membership.TABLE[name].statistic == "curvature" for name in names)


def check_score(config: Config, *, population: bool, curvature: bool = True) -> None:
    """Refuse an attack for the table of risks that has nothing to look at.

    Raises:
      ValueError: names what it lacks.
    """
    _, statistic, needs, _ = membership.TABLE[config.score]
    lacks = ["samples that no network was trained on"] if "population" in needs and not population else []
    lacks += ["curvature"] if statistic == "curvature" and not curvature else []
    if lacks:
        raise ValueError(f"--score {config.score} needs {lacks[0]}, and there is none here: choose another attack.")


def attacked(config: Config, shared: classifier.Setup, task: classifier.Task, seed: int) -> dict[str, Any]:
    """The scores on networks trained here, or on the network at --checkpoint; for each of --set-sizes further ones."""
    names = attacks(config)
    curved = needs_curvature(names)
    keep = masks.shadow_masks(jax.random.key(seed), config.models, len(task.x))
    source = methods.saved if config.checkpoint else methods.trained
    case = source(config, shared, task, seed, keep, curved=curved)
    arrays = scored(config, case)
    for size in config.set_sizes:
        found = scored(config, methods.of_size(config, shared, task, seed, case, size, curved=curved))
        arrays |= {f"size{size}/{name}": values for name, values in found.items()}
    return arrays


def scored(config: Config, case: methods.Case) -> dict[str, Any]:
    """Scores "score/<attack>" (targets, n), who was a member, accuracies, the targets' curvature.

    Attacks for which there is no population, or no curvature, are left out.
    """
    arrays = dict(case.figures) | {"member": case.member}
    for name in attacks(config):
        _, statistic, needs, spread = membership.TABLE[name]
        measured = getattr(case.targets, statistic) is not None and getattr(case.shadows, statistic) is not None
        if measured and ("population" not in needs or case.population):
            arrays[f"score/{name}"] = membership.attack(
                name, case.targets, case.shadows, case.keep, population=case.population,
                **({"spread": config.spread} if spread else {}),
            )  # fmt: skip
    curved, seen = case.targets.curvature, case.shadows.curvature
    if curved is not None and seen is not None:
        floor = seen[seen > 0].min()  # zeros lie below what was measured
        arrays["log_curvature"] = np.log(np.maximum(curved, floor)).mean(axis=1)
    return arrays
