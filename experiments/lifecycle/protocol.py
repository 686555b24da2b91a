"""One seed of the lifecycle: every step a checkpoint, from which the next one starts, and what each network says."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.lifecycle import methods
from subspace_jax import checkpoint, training
from subspace_jax.typing import Variables

if TYPE_CHECKING:
    from experiments.lifecycle.experiment import Config

STEPS = "trained", "scored", "attacked", "corrected", "unlearned", "learned", "learned_sealed"
FROM = {"corrected": "trained", "unlearned": "corrected", "learned": "unlearned", "learned_sealed": "unlearned"}
NETWORKS = "trained", *FROM  # the steps that leave another network than they found
Parts = dict[str, dict[str, np.ndarray]]  # arrays by step or baseline


def given(start: str) -> str:
    """The step whose result --checkpoint stands for."""
    return FROM.get(start, "trained")


def folder(case: methods.Case, step: str) -> str:
    """Where the network of a step is saved."""
    return f"{case.config.workdir}/checkpoints/seed{case.seed}/{step}"


def load(case: methods.Case, step: str) -> classifier.Trained:
    """The network that a step left."""
    return classifier.Trained(*checkpoint.load_model(folder(case, step), seed=case.seed), {})


def save(
    case: methods.Case, step: str, net: classifier.Trained, variables: Variables, rows: np.ndarray, *,
    carries: Any = None, **edit: Any,
) -> None:  # fmt: skip
    """The network after a step, with the samples that the step read and what it changed."""
    saved = net.config | {"indices": net.config.get("indices", {}) | {step: methods.numbers(case, rows)}}
    if edit:
        saved["edits"] = [*saved["edits"], edit | {"data": case.config.data, "seed": case.seed}]
    if edit.get("method") == "gpm" and saved["subset"] is not None:
        saved["subset"] = sorted({*saved["subset"], *methods.numbers(case, rows)})
    classifier.save_network(folder(case, step), case.seed, variables, saved, carries)


def one_seed(config: Config, shared: classifier.Setup, seed: int) -> tuple[methods.Case, Parts]:
    """All steps from --start on, each computed once, then what stands beside them."""
    case, parts = methods.case(config, shared, seed), {}
    first, todo = given(config.start), STEPS[STEPS.index(config.start) :]

    def take(name: str, compute: Callable, *arguments: Any) -> None:
        work = functools.partial(clocked, compute, case, *arguments)
        parts[name] = runner.stage(config, f"seed{seed}_{name}", work)

    attack = functools.cache(lambda: methods.attack(case)) if attacked(case, todo) else None
    trusted = None if "scored" in todo else named(case)
    take(first, begin, first, trusted is None)
    latest = first
    if trusted is None:
        take("scored", score, latest, parts[first])
        trusted, latest = parts["scored"]["trusted"], "scored"
    if attack:
        take("attacked", expose, latest, parts[first], attack)
        latest = "attacked"
    if "corrected" in todo:
        take("corrected", correct, latest, trusted, attack)
        take("trusted_only", beside, "corrected", trusted)
    if "unlearned" in todo:
        take("unlearned", unlearn, trusted, attack)
        take("retrained", beside, "unlearned", case.split(case.members)[0])
        take("untrained", blank)
    for name in ("learned", "learned_sealed"):
        if name in todo:
            take(name, learn, name, attack)
    take("finetuned", learn, "finetuned", None)
    return case, parts


def attacked(case: methods.Case, todo: tuple[str, ...]) -> bool:
    """Whether there is an attack: it takes samples of which it is known that the network never saw them."""
    if "attacked" in todo and not case.known:
        print(
            f"{case.config.checkpoint} does not say which samples it was trained on: no attack, no membership figures.",
            file=sys.stderr,
        )
    return "attacked" in todo and case.known


def clocked(compute: Callable, *arguments: Any) -> dict[str, Any]:
    """What a step gives, and its seconds, compilation included."""
    started = time.perf_counter()
    found = compute(*arguments)
    return {"seconds": time.perf_counter() - started} | found


def named(case: methods.Case) -> np.ndarray | None:
    """The trusted members that the checkpoint names; None where it names none."""
    config = case.config
    _, _, saved = checkpoint.load_model(config.checkpoint, seed=case.seed, epoch=config.epoch)
    place = {number: position for position, number in enumerate(case.task.index.tolist())}
    indices = saved.get("indices", {}).get("scored")
    return None if indices is None else np.array([place[number] for number in indices])


def measured(
    case: methods.Case, net: classifier.Trained, variables: Variables, attack: Callable | None = None
) -> dict[str, Any]:
    """The logits of all training and test samples, and how much each of the pool looks like a member."""
    parts = {"train": case.task.x, "test": case.task.test_x}
    said = {name: np.asarray(training.predict(net.model.apply, variables, x)) for name, x in parts.items()}
    return said | ({"membership": attack()(said["train"])} if attack else {})


# ---- steps -----------------------------------------------------------------------------------------------------------
def begin(case: methods.Case, step: str, scoring: bool) -> dict[str, Any]:
    """Train the network, or take the one at --checkpoint as what a step left."""
    started = time.perf_counter()
    if scoring:
        net, found = methods.train(case)
    else:
        net, found = classifier.trained(case.config, case.own, case.task, case.seed), {"seconds_scored": 0.0}
    if case.config.checkpoint:
        save(case, step, net, net.variables, case.members)
    spent = time.perf_counter() - started - found["seconds_scored"]
    return measured(case, net, net.variables) | found | {"seconds": spent}


def score(case: methods.Case, before: str, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Choose whom to trust by the scores that were taken while the network was trained."""
    net, trusted = load(case, before), methods.trust(case, scores["score"])
    kept = {name: scores[name] for name in ("score", "score_last", "score_loss")}
    save(case, "scored", net, net.variables, trusted, carries=kept)
    return kept | {"trusted": trusted, "seconds": float(scores["seconds_scored"])}


def expose(case: methods.Case, before: str, said: dict[str, np.ndarray], attack: Callable) -> dict[str, Any]:
    """Attack the network that later steps will edit."""
    net, found = load(case, before), {"membership": attack()(said["train"])}
    save(case, "attacked", net, net.variables, case.pool, carries=found)
    return found


def correct(case: methods.Case, before: str, trusted: np.ndarray, attack: Callable | None) -> dict[str, Any]:
    """Suppress what the wrong labels wrote."""
    net = load(case, before)
    variables, found = methods.correct(case, net.model, net.variables, trusted)
    edit = {"method": "verifix", "alpha": found["alpha"] or None, "trusted": methods.numbers(case, trusted)}
    save(case, "corrected", net, variables, trusted, **edit)
    return found | measured(case, net, variables, attack)


def unlearn(case: methods.Case, trusted: np.ndarray, attack: Callable | None) -> dict[str, Any]:
    """Forget classes."""
    net = load(case, "corrected")
    variables, found = methods.unlearn(case, net.model, net.variables, trusted)
    edit = {name: found[name] for name in ("alpha_r", "alpha_f")} | {"forget": list(case.config.forget)}
    read = np.union1d(case.split(trusted)[0], case.split(case.members)[1])
    save(case, "unlearned", net, variables, read, method="unlearn_classes", **edit)
    return found | measured(case, net, variables, attack) | {"probe": methods.probe(case, net.model, variables)}


def learn(case: methods.Case, name: str, attack: Callable | None) -> dict[str, Any]:
    """Learn the new classes: freely (finetuned), or without touching what is to be kept."""
    net = load(case, "unlearned")
    spaces = methods.bases(case, net.model, net.variables)[name]
    variables, found = methods.learn(case, net.model, net.variables, spaces)
    if name in STEPS:
        ranks = {key.removeprefix("rank/"): value for key, value in found.items() if key.startswith("rank/")}
        edit = {"energy": case.config.energy, "ranks": ranks, "sealed": name == "learned_sealed"}
        save(case, name, net, variables, case.new, method="gpm", **edit)
    return found | measured(case, net, variables, attack)


# ---- beside them -----------------------------------------------------------------------------------------------------
def beside(case: methods.Case, step: str, rows: np.ndarray) -> dict[str, Any]:
    """A network trained from scratch on what a step read or kept."""
    net = load(case, step)
    variables = methods.from_scratch(case, rows)
    found = measured(case, net, variables)
    return found | ({"probe": methods.probe(case, net.model, variables)} if step == "unlearned" else {})


def blank(case: methods.Case) -> dict[str, Any]:
    """The probe of a network that never learned anything."""
    return {"probe": methods.probe(case, load(case, "unlearned").model, methods.untrained(case))}
