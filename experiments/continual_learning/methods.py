"""Every method of continual_learning by its name, on a network with one head or with one head per task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.families import task_sequence
from experiments.harness import flags
from subspace_jax import nn
from subspace_jax.continual import projected, projection, protocol, space, trgp
from subspace_jax.continual.baselines import a_gem, er, ewc, hat, ogd, owm
from subspace_jax.core import capture

if TYPE_CHECKING:
    from experiments.continual_learning.experiment import Config


class Frame(NamedTuple):
    """What a method is built from; one object for all seeds, and so one compilation."""

    config: Config
    x: np.ndarray  # training inputs
    classes: int
    model: nn.Model
    table: capture.Layers
    tx: optax.GradientTransformation
    bases: dict[str, Any]  # energy, samples and heads of the projections
    capacity: int  # samples of a replay buffer
    told: bool  # whether the network has one head per task


METHODS: dict[str, Callable[[Frame], protocol.Learner]] = {
    "finetune": lambda f: protocol.learner(f.model, f.tx, told=f.told),
    "gpm": lambda f: projected.gpm_learner(f.model, f.tx, f.table, told=f.told, **f.bases),
    "gpm_released": lambda f: projected.gpm_learner(f.model, f.tx, f.table, rule="released", told=f.told, **f.bases),
    "sgp": lambda f: projected.sgp_learner(f.model, f.tx, f.table, a=f.config.scale, told=f.told, **f.bases),
    "trgp": lambda f: trgp.trgp_learner(f.model, f.tx, f.table, tasks=f.config.tasks, **f.bases),
    "space": lambda f: space_on(f),
    "ewc": lambda f: ewc.ewc_learner(
        f.model, f.tx, strength=f.config.ewc_strength, samples=f.config.basis_samples, told=f.told
    ),
    "a_gem": lambda f: a_gem.a_gem_learner(f.model, f.tx, capacity=f.capacity, told=f.told),
    "er": lambda f: er.er_learner(f.model, f.tx, capacity=f.capacity, told=f.told),
    "hat": lambda f: hat.hat_learner(
        f.model, f.tx, f.table, tasks=f.config.tasks, period=steps_an_epoch(f), sparsity=f.config.hat_sparsity
    ),
    "owm": lambda f: owm.owm_learner(f.model, sgd(f.config.owm_lr), f.table, heads=f.bases["heads"], told=f.told),
    "ogd": lambda f: ogd.ogd_learner(f.model, f.tx, tasks=f.config.tasks, samples=f.config.ogd_samples, told=f.told),
}
TOLD = "trgp", "hat", "space"  # one head per task whatever the benchmark
NAMES = ("finetune", "multitask", *(name for name in METHODS if name != "finetune"))  # multitask: all tasks at once


def sgd(lr: float) -> optax.GradientTransformation:
    """Plain SGD whose rate a plateau may lower."""
    return optax.inject_hyperparams(optax.sgd)(learning_rate=lr)


def frame(config: Config, found: task_sequence.Source, *, told: bool, start: nn.Model | None = None) -> Frame:
    """The network, with one head or with one a task, and what the methods take of the flags."""
    x, classes = found.whole.x, found.classes
    if start:
        return framed(config, x, classes, start, told=False)
    own = {"use_bias": False, "init": "he"} | sizes(config)
    trunk = nn.build(config.model, classes=0 if told else classes, **own)
    model = nn.multi_head(trunk, tasks=config.tasks, classes=classes) if told else trunk
    return framed(config, x, classes, model, told=told)


def framed(config: Config, x: np.ndarray, classes: int, model: nn.Model, *, told: bool) -> Frame:
    """The same of a given network."""
    table, heads = layers(model, x), ("heads",) if told else ()
    full = sum(layer.d_in**2 for path, layer in table.items() if not path.startswith("heads"))
    bases = {"energy": energies(config, table, heads), "samples": config.basis_samples, "heads": heads}
    capacity = config.buffer or max(1, full // (x[0].size + 2))
    return Frame(config, x, classes, model, table, sgd(config.lr), bases, capacity, told)


def sizes(config: Config) -> dict[str, Any]:
    """What nn.build takes by the flags."""
    return ({"widths": list(config.widths)} if config.widths else {}) | flags.network_arguments(config)


def energies(config: Config, table: capture.Layers, heads: tuple[str, ...]) -> Callable[[int], dict[str, float]]:
    """Task t -> the share of its layer inputs that each layer protects."""
    if len(config.energy) not in (1, len(table)) or not all(0 <= share <= 1 for share in config.energy):
        raise ValueError(f"--energy is a share in [0, 1], or one for each of {', '.join(table)}; got {config.energy}.")
    first = dict(zip(table, config.energy * (len(table) if len(config.energy) == 1 else 1), strict=True))

    def energy(t: int) -> dict[str, float]:
        grown = {path: min(1.0, share + config.energy_growth * t) for path, share in first.items()}
        return {path: share for path, share in grown.items() if not projection.under(path, heads)}

    return energy


def layers(model: nn.Model, x: np.ndarray) -> capture.Layers:
    """The table of a network, from shapes alone."""
    return capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x[:1]), x[:1])


def steps_an_epoch(f: Frame) -> int:
    """Training steps of one epoch of a task, over which HAT's masks become binary."""
    samples = len(f.x) // (f.config.tasks if f.config.benchmark in task_sequence.HEADS else 1)
    return max(1, samples // f.config.batch)


def space_on(f: Frame) -> protocol.Learner:
    """SPACE, whose filters own their biases, on a network of its own with a head a task."""
    config = f.config
    trunk = nn.build(config.model, classes=0, **{"init": "he"} | sizes(config))
    model = nn.multi_head(trunk, tasks=config.tasks, classes=f.classes)
    return space.space_learner(
        model, optax.sgd(config.space_lr, momentum=0.9), layers(model, f.x), tasks=config.tasks,
        v=config.space_variance, steps=config.space_steps, batch=config.space_batch,
    )  # fmt: skip
