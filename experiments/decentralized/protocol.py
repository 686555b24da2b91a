"""One trial of decentralized: its algorithm, every seed, the mean of all agents kept as a network of its own."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.decentralized import methods
from experiments.families import agents
from experiments.harness import flags
from subspace_jax import checkpoint, data, nn, training, trees
from subspace_jax.decentralized.methods import find
from subspace_jax.decentralized.state import classification

if TYPE_CHECKING:
    from experiments.decentralized.experiment import Config

TUNING_SEED = 10  # first of the seeds on which --tune chooses


class Setup(NamedTuple):
    """What all seeds and trials share."""

    data: agents.Data
    model: nn.Model


def setup(config: Config) -> Setup:
    """Load the data and build the network."""
    if not 0 < config.gamma <= 1:
        raise ValueError(f"--gamma must lie in (0, 1]; got {config.gamma}: with 0 the agents never exchange.")
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    found = agents.load(config)
    model = nn.build(config.model, **network_arguments(config, found.classes) | {"dtype": config.dtype})
    agents.warn_of_statistics(model, found, config.norm)
    return Setup(found, model)


def network_arguments(config: Config, classes: int) -> dict[str, Any]:
    """What nn.build takes, beside the name and the type of the computation."""
    widths = {"widths": list(config.widths)} if config.widths else {}
    return {"classes": classes, "norm": config.norm} | widths | flags.network_arguments(config)


def course(config: Config, shared: Setup, trial: agents.Trial, seeds: range | None = None) -> list[dict[str, Any]]:
    """What every seed of a trial left; the mean network of a method by the flags is saved."""
    weights, comm = agents.graph(config, trial.agents), agents.exchange_of(config, trial.agents)[0]
    method = methods.build(config, trial, classification(shared.model.train_apply), comm, weights)
    passes = 1 + find(trial.method).crosses * float((weights > 0).sum(-1).mean() - 1)

    def finish(seed: int, history: dict[str, Any]) -> dict[str, Any]:
        if trial.name == trial.method:
            save_consensus(config, shared, trial, seed, history)
        return history | {"passes": passes * history["step"]}

    return agents.course(
        config, shared.data, trial, shared.model, method, dtype=config.dtype, seeds=seeds, finish=finish
    )


def difference(config: Config, shared: Setup, listed: list[agents.Trial], runs: dict[str, Any]) -> float:
    """The largest distance of a final parameter from that of the same run by vmap."""
    alone = dataclasses.replace(config, runner="vmap", processes="", workdir=f"{config.workdir}/vmap")
    pairs = [
        (found[key], reference[key])
        for trial in listed
        for found, reference in zip(runs[trial.name], course(alone, shared, trial), strict=True)
        for key in found
        if key.startswith("final/")
    ]
    return float(max(np.abs(a - b).max() for a, b in pairs))


def save_consensus(config: Config, shared: Setup, trial: agents.Trial, seed: int, history: dict[str, Any]) -> None:
    """Write the mean of all agents' networks to <workdir>/models/<method>, which any experiment loads."""
    columns, test = shared.data.columns, shared.data.test
    shapes = jax.eval_shape(shared.model.init, jax.random.key(0), test[0][:1])
    mean = trees.map_with_path(lambda path, _: history[f"final/{path}"].mean(0).astype(np.float32), shapes)
    settings, size = trial.settings, len(columns["label"])
    recipe = {"optimizer": "sgd", "lr": settings["lr"], "schedule": "constant", "weight_decay": config.weight_decay}
    recipe |= {"batch": config.batch, "epochs": config.batch * trial.steps * trial.agents // size}
    saved = {
        "model": {"name": config.model, "kwargs": network_arguments(config, shared.data.classes)},
        "input_shape": list(columns["x"].shape[1:]), "data": config.data, "samples": size,
        "scaling": shared.data.scaling._asdict(), "recipe": recipe | {"augment": config.augment}, "seed": seed,
        "corruption": {"noise": 0.0}, "subset": None, "edits": [],
        "decentralized": {"method": trial.method, "agents": trial.agents, "topology": config.topology,
                          "partition": config.partition} | settings,
    }  # fmt: skip
    step: Any = np.array([trial.steps])  # NumPy alone can be written by several processes
    whole = training.TrainState(step, **mean, opt_state={}, key=step)
    with checkpoint.manager(f"{config.workdir}/models/{trial.method}/seed{seed}") as to:
        if not to.all_steps():  # a resumed run wrote it before
            checkpoint.save(to, trial.steps, whole, config=saved)


def tune(config: Config, shared: Setup, names: tuple[str, ...]) -> tuple[str, ...]:
    """The learning rate and decay of each method with the best own models on held-out training samples."""
    columns, scaling = shared.data.columns, shared.data.scaling
    order = np.asarray(jax.random.permutation(jax.random.key(TUNING_SEED), len(columns["label"])))
    held, rest = np.split(order, [len(order) // 5])
    judge = np.asarray(data.scale(columns["x"][held], scaling)), columns["label"][held]
    inner = shared.data._replace(columns={name: c[np.sort(rest)] for name, c in columns.items()}, test=judge)
    own_accuracy = functools.partial(tried, config, shared._replace(data=inner))
    lines = []
    for name in names:
        choices = itertools.product(methods.RATES, methods.DECAYS)
        found = {(f"{name}.lr={lr}", f"{name}.decay={int(decay)}"): 0.0 for lr, decay in choices}
        found = {extra: own_accuracy(name, extra) for extra in found}
        lines += max(found, key=lambda extra: found[extra])
    print(f"found: --tuned {' '.join(lines)}", file=sys.stderr)
    return tuple(lines)


def tried(config: Config, shared: Setup, name: str, extra: tuple[str, str]) -> float:
    """Accuracy of the agents' own models by one pair of settings."""
    lr, decay = (line.partition("=")[2] for line in extra)
    trial = agents.Trial(
        f"tune_{name}_{lr}_{decay}", name, methods.settings(config, name, extra), config.steps,
        config.partition, config.agents, config.skew, config.dirichlet,
    )  # fmt: skip
    runs = course(config, shared, trial, range(TUNING_SEED, TUNING_SEED + config.seeds))
    return float(np.mean([agents.report.late(trial, run, "accuracy") for run in runs]))
