"""One method and one seed of continual_learning: the sequence learned, R and what is held after each task."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.continual_learning import methods
from experiments.families import task_sequence
from experiments.harness import flags, runner
from subspace_jax import checkpoint, nn
from subspace_jax.continual import protocol
from subspace_jax.continual.baselines import multitask

if TYPE_CHECKING:
    from experiments.continual_learning.experiment import Config


class Setup(NamedTuple):
    """What all seeds share."""

    source: task_sequence.Source
    model: nn.Model
    learners: dict[str, protocol.Learner]  # one object for all seeds, and so one compilation
    told: bool


def adopt(config: Config) -> Config:
    """The data and seeds of the network at --checkpoint.

    Raises:
      ValueError: a benchmark or method that takes a network of its own, with a head for each task; other data.
    """
    if config.benchmark in task_sequence.HEADS or set(config.method) <= set(methods.TOLD):
        which = f"--benchmark {config.benchmark} with --method {' '.join(config.method)}"
        raise ValueError(f"{which} gives each task a head, which the network at --checkpoint lacks: train a new one.")
    seeds = checkpoint.seeds(config.checkpoint)
    _, _, saved = checkpoint.load_model(config.checkpoint, seed=seeds[0], epoch=config.epoch)
    same = {"data": saved["data"], "samples": saved.get("samples")}
    flags.refuse_others(config, same)
    return dataclasses.replace(config, **same, seed=seeds[0], seeds=len(seeds))


def saved_network(config: Config, seed: int) -> nn.Model:
    """The network at --checkpoint as one that starts from its saved weights."""
    model, variables, _ = checkpoint.load_model(config.checkpoint, seed=seed, epoch=config.epoch)
    return model._replace(init=lambda key, x: variables)


def setup(config: Config, names: tuple[str, ...], start: nn.Model | None = None) -> Setup:
    """Load the data and build the network, a new one or the one to start from, and the methods."""
    found, told = task_sequence.source(config), config.benchmark in task_sequence.HEADS
    plain = methods.frame(config, found, told=told, start=start)
    heads = plain if start else methods.frame(config, found, told=True)
    own = [name for name in names if name != "multitask"]
    learners = {name: methods.METHODS[name](heads if name in methods.TOLD else plain) for name in own}
    return Setup(found, plain.model, learners, told)


def one_run(config: Config, shared: Setup, name: str, seed: int) -> dict[str, np.ndarray]:
    """R, what is held after each task, and the seconds of one method and seed."""
    return runner.stage(config, f"seed{seed}_{name}", functools.partial(learn, config, shared, name, seed))


def learn(config: Config, shared: Setup, name: str, seed: int) -> dict[str, Any]:
    """Learn the sequence by one method."""
    own, classes = task_sequence.sequence(config, shared.source, seed), shared.source.classes
    key = jax.random.fold_in(jax.random.key(seed), 1)
    started = time.perf_counter()
    if name == "multitask":
        steps = max(1, config.joint_passes * sum(len(task.x) for task in own) // config.batch)
        _, accuracy = multitask.multitask(
            key, shared.model, optax.sgd(config.lr), own, classes=classes, steps=steps, batch=config.batch
        )
        return {"matrix": accuracy[None], "held/floats": np.zeros(1), "seconds": time.perf_counter() - started}
    length, batch = protocol.Plateau(config.epochs) if config.epochs else config.steps, config.batch
    if name == "space":
        length, batch = config.space_steps, config.space_batch
    found = protocol.run(
        key, shared.learners[name], own, classes=classes, batch=batch, length=length,
        directory=f"{config.workdir}/checkpoints/{name}/seed{seed}", config={"method": name, "seed": seed},
        label=f"{name}, seed {seed}, task",
    )  # fmt: skip
    held = {f"held/{key}": values for key, values in found.held.items()}
    return {"matrix": found.matrix, "seconds": time.perf_counter() - started} | held
