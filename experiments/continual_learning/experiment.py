"""Can one network learn task after task and lose nothing? Gradient projection and its baselines over one protocol.

    uv run python -m experiments.continual_learning                      (digits, 5 permutations of the pixels, 3 seeds)
    uv run python -m experiments.continual_learning --method gpm --benchmark split --tasks 5
    uv run python -m experiments.continual_learning --data mnist --data-dir DIR --tasks 10 --lr .01 --energy .95 .99 .99
    expected: accuracy of GPM >= .80 with backward transfer >= -.12, plain training <= .6; 2 min on 2 cores
    paper:    permuted MNIST, 10 tasks: GPM 93.9 / -.03, EWC 90.2 / -.04, multitask 96.7 (arXiv 2103.09762)

The run leaves matrix.csv and matrix.npz: accuracy on each task after each task, by method and seed.
"""

import dataclasses
import functools
import time
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments.continual_learning import methods
from experiments.families import task_sequence
from experiments.harness import runner
from subspace_jax import data, nn
from subspace_jax.continual import protocol, tasks
from subspace_jax.continual.baselines import multitask

METHODS = (
    "finetune", "multitask", "gpm", "gpm_reference", "sgp", "trgp", "space", "ewc", "a_gem", "er", "hat", "owm", "ogd",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """Train one network on a sequence of tasks by each method; after each task test on all of them."""

    method: Literal[
        "finetune", "multitask", "gpm", "gpm_reference", "sgp", "trgp", "space", "ewc", "a_gem", "er", "hat", "owm",
        "ogd", "all",
    ] = "all"  # fmt: skip
    """One method, or all beside each other."""
    benchmark: Literal["permuted", "rotated", "split", "superclass"] = "permuted"
    """Pixels in another order; images turned further; other classes with a head of their own in every task, split by
    chance, or by the superclasses in the data's column coarse_label."""
    tasks: int = 5
    """Tasks in the sequence."""
    samples: int | None = None
    """Use the first so many training samples; all when not given."""
    model: str = "mlp"
    """Network: mlp, lenet5, ..., see nn.build; without biases, which would shift what earlier tasks see."""
    widths: tuple[int, ...] = (100, 100)
    """Hidden layers of an mlp."""
    lr: float = 0.02
    """Learning rate of plain SGD."""
    batch: int = 10
    """Samples per step."""
    steps: int = 800
    """Training steps a task."""
    epochs: int = 0
    """Train each task for at most so many epochs instead, with 5 % held out: rate / 2 after 6 without a lower loss."""
    energy: tuple[float, ...] = (0.97,)
    """Share of a task's layer inputs that is protected (epsilon): one for all layers, or one a layer."""
    energy_growth: float = 0.0
    """Added to it with every further task."""
    basis_samples: int = 300
    """Samples of a task on which its layer inputs are measured."""
    scale: float = 10.0
    """SGP's a: the larger, the nearer to GPM."""
    ewc_strength: float = 30.0
    """EWC's lambda; on digits the best of .3 ... 30 on a fifth of the training samples, 100 diverges at this lr."""
    owm_lr: float = 2.0
    """OWM's learning rate: its authors'; on digits the best of .02 ... 2 on a fifth of the training samples."""
    ogd_samples: int = 20
    """Gradients that OGD stores of each task; each is as large as the network."""
    hat_sparsity: float = 0.75
    """HAT's c."""
    space_variance: float = 0.95
    """SPACE's v: share of the variance of its outputs for which a layer keeps filters."""
    space_lr: float = 0.05
    """SPACE's learning rate, with momentum .9."""
    space_steps: int = 400
    """SPACE trains a task for so many steps, and as many again after it was cut."""
    space_batch: int = 32
    """SPACE's samples per step."""
    buffer: int = 0
    """Samples that replay keeps; 0: as many floats as full bases of all layers."""
    joint_passes: int = 20
    """Multitask trains so many passes over all tasks together."""


PRESETS = {
    "smoke": Config(seeds=1, tasks=2, steps=60, samples=300, joint_passes=1, widths=(32,)),
    "cpu": Config(),
    "gpu": Config(
        data="cifar100",
        benchmark="split",
        tasks=10,
        model="alexnet",
        widths=(),
        lr=0.01,
        batch=64,
        epochs=50,
        energy_growth=0.003,
        basis_samples=125,
        joint_passes=50,
        ewc_strength=5000.0,
        owm_lr=0.01,
        ogd_samples=1,
        space_lr=0.01,
        space_steps=3900,
        space_batch=64,
    ),
}


class Setup(NamedTuple):
    """What all seeds and methods share."""

    whole: tasks.Task
    classes: int  # of the network, or of each of its heads
    groups: tuple[tuple[int, ...], ...]  # classes of each superclass
    model: nn.Model
    learners: dict[str, protocol.Learner]
    told: bool


def main(config: Config) -> runner.Summary:
    """Run all seeds and methods and put the report together."""
    shared = setup(config)
    names = METHODS if config.method == "all" else (config.method,)
    runs = {
        seed: {name: one_run(config, shared, name, seed) for name in names}
        for seed in range(config.seed, config.seed + config.seeds)
    }
    told = {name: float(shared.told or name in methods.TOLD) for name in names}
    figures, std = runner.over_seeds([task_sequence.report.figures(found, told) for found in runs.values()])
    task_sequence.report.write_matrices(config, runs)
    rows = [
        {"seed": seed, "method": name, "after": t, "task": i, "accuracy": float(accuracy)}
        for seed, found in runs.items()
        for name, arrays in found.items()
        for (t, i), accuracy in np.ndenumerate(arrays["matrix"])
    ]
    first = runs[config.seed]
    return runner.Summary(
        figures, std, claims(config, figures), task_sequence.report.sections(config, figures, std, first), rows
    )


def setup(config: Config) -> Setup:
    """Load the data, build the network and find its layers."""
    train, test = (data.load(config.data, split, config.data_dir or None) for split in ("train", "test"))
    train = {name: column[: config.samples] for name, column in train.items()}
    scaling = data.scaling(config.data, train["image"])
    x, test_x = (np.asarray(data.scale(part["image"], scaling)) for part in (train, test))
    whole = tasks.Task(x, train["label"], test_x, test["label"])
    classes, told = int(max(whole.y.max(), whole.test_y.max())) + 1, config.benchmark in ("split", "superclass")
    if config.tasks < 1 or (told and classes % config.tasks):
        raise ValueError(f"--tasks is at least 1, and with heads a divisor of {classes} classes; got {config.tasks}.")
    groups = superclasses(config, train) if config.benchmark == "superclass" else ()
    classes = classes // config.tasks if told else classes
    model, made = methods.methods(config, x, classes=classes, told=told)
    return Setup(whole, classes, groups, model, made, told)


def superclasses(config: Config, train: dict[str, np.ndarray]) -> tuple[tuple[int, ...], ...]:
    """The classes of each superclass; one task a superclass."""
    if "coarse_label" not in train:
        raise ValueError(f"--benchmark superclass reads a column coarse_label, which {config.data} lacks.")
    pairs = sorted(set(zip(train["coarse_label"].tolist(), train["label"].tolist(), strict=True)))
    count = len({coarse for coarse, _ in pairs})
    if config.tasks != count:
        raise ValueError(f"{config.data} has {count} superclasses, one a task; got --tasks {config.tasks}.")
    return tuple(tuple(fine for coarse, fine in pairs if coarse == c) for c in range(count))


def sequence(config: Config, shared: Setup, seed: int) -> list[tasks.Task]:
    """The tasks of one seed: its permutations, or its order of classes."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    if config.benchmark == "permuted":
        return tasks.permuted(key, shared.whole, tasks=config.tasks)
    if config.benchmark == "rotated":
        return tasks.rotated(shared.whole, tasks=config.tasks)
    if config.benchmark == "superclass":
        order = np.asarray(jax.random.permutation(key, config.tasks))
        return tasks.split(shared.whole, groups=[shared.groups[i] for i in order])
    order = np.asarray(jax.random.permutation(key, config.tasks * shared.classes))
    return tasks.split(shared.whole, groups=order.reshape(config.tasks, -1).tolist())


def one_run(config: Config, shared: Setup, name: str, seed: int) -> dict[str, np.ndarray]:
    """R, what is held after each task, and the seconds of one method and seed."""
    return runner.stage(config, f"seed{seed}_{name}", functools.partial(learn, config, shared, name, seed))


def learn(config: Config, shared: Setup, name: str, seed: int) -> dict[str, Any]:
    """Learn the sequence by one method."""
    own, key = sequence(config, shared, seed), jax.random.fold_in(jax.random.key(seed), 1)
    started = time.perf_counter()
    if name == "multitask":
        samples = sum(len(task.x) for task in own)
        steps = max(1, config.joint_passes * samples // config.batch)
        _, accuracy = multitask.multitask(
            key, shared.model, optax.sgd(config.lr), own, classes=shared.classes, steps=steps, batch=config.batch
        )
        return {"matrix": accuracy[None], "held/floats": np.zeros(1), "seconds": time.perf_counter() - started}
    length = protocol.Plateau(config.epochs) if config.epochs else config.steps
    batch = config.batch
    if name == "space":
        length, batch = config.space_steps, config.space_batch
    found = protocol.run(
        key, shared.learners[name], own, classes=shared.classes, batch=batch, length=length,
        directory=f"{config.workdir}/checkpoints/{name}/seed{seed}", config={"method": name, "seed": seed},
        label=f"{name}, seed {seed}, task",
    )  # fmt: skip
    held = {f"held/{key}": values for key, values in found.held.items()}
    return {"matrix": found.matrix, "seconds": time.perf_counter() - started} | held


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the digits must show; nothing is claimed of others."""
    fixed = dataclasses.replace(PRESETS["cpu"], workdir=config.workdir, resume=config.resume, seed=config.seed)
    if config != fixed:
        return []
    acc = {name: figures[f"acc/{name}"] for name in METHODS}
    blind = [value for name, value in acc.items() if name not in ("multitask", *methods.TOLD)]
    return [
        runner.Claim("finetune acc at most .6", -acc["finetune"], -0.6),
        runner.Claim("acc/gpm", acc["gpm"], 0.8),
        runner.Claim("bwt/gpm", figures["bwt/gpm"], -0.12),
        runner.Claim("gpm above its reference rule", acc["gpm"] - acc["gpm_reference"], 0.0),
        runner.Claim("sgp at least gpm - .01", acc["sgp"] - acc["gpm"], -0.01),
        runner.Claim("bwt/space exactly 0", -abs(figures["bwt/space"]), 0.0),
        runner.Claim("multitask above every method without the task", acc["multitask"] - max(blind), 0.0),
    ]
