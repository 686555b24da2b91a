"""Can one network learn task after task and lose nothing? Gradient projection and its baselines over one protocol.

    uv run python -m experiments.continual_learning                      (digits, 5 permutations of the pixels, 3 seeds)
    uv run python -m experiments.continual_learning --method gpm --benchmark split --tasks 5
    uv run python -m experiments.continual_learning --checkpoint runs/memorization/1     (goes on from this network)
    uv run python -m experiments.continual_learning --data mnist --data-dir DIR --tasks 10 --epochs 5 --lr .01
        --energy .95 .99 .99 --method finetune multitask gpm sgp ewc er owm
    uv run python -m experiments.continual_learning --preset study --data-dir DIR     (CIFAR-100, ten tasks, AlexNet)
    expected: accuracy of GPM >= .80 with backward transfer >= -.12, plain training <= .6; 2 min on 2 cores
    paper:    permuted MNIST, 10 tasks: GPM 93.9 / -.03, EWC 90.2 / -.04, multitask 96.7 (arXiv 2103.09762)

The run leaves matrix.csv and matrix.npz: accuracy on each task after each task, by method and seed.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from experiments.continual_learning import methods, protocol, report
from experiments.families import task_sequence
from experiments.harness import runner

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[(*methods.NAMES, "all")]


@dataclasses.dataclass(frozen=True)
class Config(task_sequence.Config):
    """Train one network on a sequence of tasks by each method; after each task test on all of them."""

    method: tuple[Method, ...] = ("all",)
    """Methods to run; all: each of them."""
    benchmark: Literal["permuted", "rotated", "split", "superclass"] = "permuted"
    """permuted: another order of the pixels; rotated: images turned further; split: other classes, at random, with one
    head per task; superclass: the same, by the data's column coarse_label."""
    model: str = "mlp"
    """Network: mlp, lenet5, ..., see nn.build; without biases, which would shift what earlier tasks see."""
    lr: float = 0.02
    """Learning rate of plain SGD."""
    batch: int = 10
    """Samples per step."""
    steps: int = 800
    """Training steps per task."""
    epochs: int = 0
    """Most epochs per task, instead of --steps; lr is halved after 6 without a lower loss on 5 % held out; 0: off."""
    energy: tuple[float, ...] = (0.97,)
    """Share of the energy of a task's layer inputs to protect (epsilon): one for all layers, or one per layer."""
    energy_growth: float = 0.0
    """Added to --energy with every further task."""
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
    """HAT's c: weight of the penalty on units that a task newly uses."""
    space_variance: float = 0.95
    """SPACE's v: share of the variance of a layer's outputs that the kept filters must explain."""
    space_lr: float = 0.05
    """SPACE's learning rate, with momentum .9."""
    space_steps: int = 400
    """SPACE's training steps per task, and the same number again after pruning."""
    space_batch: int = 32
    """SPACE's samples per step."""
    buffer: int = 0
    """Samples that er and a_gem keep; 0: as many as take the memory of full bases of all layers."""
    joint_passes: int = 20
    """Passes of multitask over the samples of all tasks together."""


PRESETS = {
    "smoke": Config(seeds=1, tasks=2, steps=20, samples=300, joint_passes=1, widths=(16,), space_steps=20),
    "cpu": Config(),
    "study": Config(
        data="cifar100",
        samples=10_000,
        benchmark="split",
        tasks=10,
        model="alexnet",
        widths=(1024, 1024),
        network_args=("filters=32,64,128",),
        method=("finetune", "multitask", "gpm", "sgp", "trgp", "ewc", "er"),
        lr=0.01,
        batch=64,
        epochs=20,
        energy_growth=0.003,
        basis_samples=125,
        joint_passes=20,
        ewc_strength=5000.0,
    ),
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


def main(config: Config) -> runner.Summary:
    """Run all seeds and methods and put the report together."""
    if config.checkpoint:
        config = protocol.adopt(config)
    names = methods.NAMES if "all" in config.method else tuple(dict.fromkeys(config.method))
    if config.checkpoint:  # those left out have a head a task
        names = tuple(name for name in names if name not in methods.TOLD)
        shared = {s: protocol.setup(config, names, protocol.saved_network(config, s)) for s in runner.seeds(config)}
    else:
        shared = dict.fromkeys(runner.seeds(config), protocol.setup(config, names))
    runs = {seed: {name: protocol.one_run(config, own, name, seed) for name in names} for seed, own in shared.items()}
    told = {name: float(shared[config.seed].told or name in methods.TOLD) for name in names}
    each = [task_sequence.report.figures(found, told) for found in runs.values()]
    figures, std = runner.over_seeds(each)
    task_sequence.report.write_matrices(config, runs)
    rows = [
        {"seed": seed, "method": name, "after": t, "task": i, "accuracy": float(accuracy)}
        for seed, found in runs.items()
        for name, arrays in found.items()
        for (t, i), accuracy in np.ndenumerate(arrays["matrix"])
    ]
    first = runs[config.seed]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(config, figures, std, first), rows
    )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the digits must show; nothing is claimed of others."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    acc = {name: figures[f"acc/{name}"] for name in methods.NAMES}
    blind = [value for name, value in acc.items() if name not in ("multitask", *methods.TOLD)]
    return [
        runner.Claim("finetune acc at most .6", -acc["finetune"], -0.6),
        runner.Claim("acc/gpm", acc["gpm"], 0.8),
        runner.Claim("bwt/gpm", figures["bwt/gpm"], -0.12),
        runner.Claim("gpm at least its released rule - .005", acc["gpm"] - acc["gpm_released"], -0.005),
        runner.Claim("sgp at least gpm - .01", acc["sgp"] - acc["gpm"], -0.01),
        runner.Claim("bwt/space exactly 0", -abs(figures["bwt/space"]), 0.0),
        runner.Claim("multitask above every method without the task", acc["multitask"] - max(blind), 0.0),
    ]
