"""Does the tree of the classes help with kinds inside a class that were never trained on, and what of it does?

    uv run python -m experiments.subpopulation_shift                                  (digits: 3 splits, 3 seeds)
    uv run python -m experiments.subpopulation_shift --data gaussian_tree --seeds 16  (each seed draws its tree)
    uv run python -m experiments.subpopulation_shift --data NAME --data-dir DIR --tree FILE
    uv run python -m experiments.subpopulation_shift --preset gpu --data-dir DIR      (CIFAR-100; goes on by --resume)
    expected: on unseen kinds joint training on the tree lowers the distance between answer and truth by .03 or more
              and costs no accuracy; heads without conditions bring about half of it on digits, all on the Gaussian tree
    paper:    LIVING-17, ResNet-18: unseen accuracy +.02 to +.035, distance -.17 to -.20 over a flat network

Each class has kinds that no label names: clusters of its images, or hidden fine classes. Half of them are trained on
(seen), the others are not (unseen). flat: one head; flat3: three updates a batch; multitask: a head a level; joint:
heads learn from what coarser ones get right; sequential: one update a level; bcnn: weights from coarse to fine;
soft_labels: near classes share a label; expected_distance: flat, decided by distance. cc: mean distance on the tree
over all answers = error rate x severity.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

from experiments.families import classifier
from experiments.harness import runner
from experiments.subpopulation_shift import methods, protocol, report


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train on some kinds of every class with and without its tree; measure the mistakes on the others."""

    loads: ClassVar[bool] = False

    tree: str = ""
    """Class tree: digits, cifar100 (its superclasses), or a JSON file of nested names; that of the data when not given,
    and own data need one."""
    subpopulations: Literal["kmeans", "fine"] = "kmeans"
    """Kinds inside a class: clusters of its training images, or the labels, with column coarse_label as the class."""
    per_class: int = 4
    """Clusters of each class."""
    split: Literal["0", "1", "2", "all"] = "all"
    """Which kinds are not trained on: the first half, the second, the last one with the first ones, or each in turn;
    gaussian_tree has split 0 alone for all, since every seed draws its kinds."""
    methods: tuple[str, ...] = methods.METHODS
    """Which methods; flat is always among them, since all are compared with it."""
    stages: tuple[str, ...] = ()
    """Stage of the network that each head reads, coarse to fine; the last but one, then the features when not given."""
    beta: float = 1.0
    """How fast the share of a label falls with the distance, for soft_labels."""
    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    network_args: tuple[str, ...] = ("init=he",)
    """Further arguments of the network as NAME=VALUE."""
    widths: tuple[int, ...] = ()
    """Hidden layers of an mlp; three of 128 when not given, of 64 on gaussian_tree."""
    lr: float = 0.0
    """Learning rate; 0: .05, on gaussian_tree .02."""
    epochs: int = 0
    """Passes over the training set; 0: 30, on gaussian_tree 20."""


PRESETS = {
    "smoke": Config(seeds=1, split="0", samples=400, widths=(32, 32), epochs=8, batch=32),
    "cpu": Config(),
    "gpu": Config(
        data="cifar100", subpopulations="fine", model="resnet18", network_args=("init=he_out",), dtype="bfloat16",
        augment=True, lr=0.1, schedule="cosine", epochs=40, batch=128, seeds=2,
        methods=("flat", "flat3", "multitask", "joint", "sequential", "bcnn"),
    ),
}  # fmt: skip
TREE_SEEDS = 16  # of the Gaussian tree: the seed draws the tree, and fewer are a coin flip


def main(config: Config) -> runner.Summary:
    """Run all seeds, splits and methods, and put the report together."""
    config = methods.recipe(config)
    check(config)
    task = protocol.setup(config)
    found: dict[int, report.Found] = {}
    splits = protocol.splits(config, task)
    for seed in runner.seeds(config):
        found[seed] = {}
        for split in splits:
            parts = protocol.parts(config, task, seed, split)
            for name in methods.networks(config.methods):
                compute = functools.partial(protocol.measured, config, task, parts, seed, split, name)
                found[seed][split, name] = runner.stage(config, f"seed{seed}_split{split}_{name}", compute)
    runs = [report.judge(config, task.tree, one) for one in found.values()]
    figures, std = runner.over_seeds(runs)
    rows = [{"seed": seed} | run for seed, run in zip(found, runs, strict=True)]
    first = protocol.parts(config, task, config.seed, splits[0])
    sections = report.sections(config, task.tree, figures, std, found, first)
    return runner.Summary(figures, std, runner.judged(claims, config, figures, runs), sections, rows)


def check(config: Config) -> None:
    """Refuse names and numbers that there are not.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    for name in config.methods:
        if name not in methods.METHODS:
            raise ValueError(f"--methods: there is no {name!r}; there are {', '.join(methods.METHODS)}.")
    if "flat" not in config.methods:
        raise ValueError("--methods: all are compared with flat; add it.")
    if config.per_class < 2:
        raise ValueError(f"--per-class: a shift inside a class takes at least 2 kinds; got {config.per_class}.")
    if not 0 <= config.beta < float("inf"):
        raise ValueError(f"--beta is in [0, inf); got {config.beta}.")
    if config.data == methods.GAUSSIAN and (config.noise or config.duplicates or config.augment or config.samples):
        raise ValueError(
            f"--noise, --duplicates, --augment and --samples are for data from files: leave them out with --data "
            f"{methods.GAUSSIAN}."
        )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipes must show: on digits, and on the Gaussian tree with sixteen seeds or more."""
    fixed = methods.recipe(dataclasses.replace(PRESETS["cpu"], data=config.data))
    if config.data not in ("digits", methods.GAUSSIAN) or not runner.follows(config, fixed):
        return []

    def below(name: str) -> float:
        return figures["cc/unseen/flat"] - figures[f"cc/unseen/{name}"]

    if config.data == methods.GAUSSIAN:
        enough = config.seeds >= TREE_SEEDS
        return [runner.Claim("cc of joint below flat, unseen", below("joint"), 0.025)] if enough else []
    accuracy = {name: figures[f"accuracy/{name}"] for name in ("seen/flat", "unseen/flat", "unseen/joint")}
    return [
        runner.Claim("cc of joint below flat, unseen", below("joint"), 0.03),
        runner.Claim("accuracy of joint above flat, unseen", accuracy["unseen/joint"] - accuracy["unseen/flat"], 0.0),
        runner.Claim("cc of sequential below flat, unseen", below("sequential"), 0.02),
        runner.Claim("accuracy of flat, seen above unseen", accuracy["seen/flat"] - accuracy["unseen/flat"], 0.15),
    ]
