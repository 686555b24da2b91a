"""Can a network that learned wrong labels be corrected after training, by one edit from a few trusted samples?

    uv run python -m experiments.label_correction          (digits, 40 % wrong labels, 300 of 1,000 trusted, 3 seeds)
    uv run python -m experiments.label_correction --trusted low_curvature
    uv run python -m experiments.label_correction --checkpoint runs/memorization/1        (trained with --samples)
    expected: test accuracy .66 before, >= .86 after, alpha chosen by noisy labels; under 5 min on 2 cores
    paper:    CIFAR-10, ResNet-18, 25 % symmetric noise, 1,000 trusted samples: .784 -> .870, with SAM .838 -> .877
              (arXiv 2403.08618)

Read it beside test_accuracy/trusted_only, a new network trained on the trusted samples alone (on digits that is
better), and early_stopping, which needs no trusted sample.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.label_correction import protocol, report


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train on labels of which some are wrong, correct the network by Verifix, and by what it is compared with."""

    samples: int | None = 1000
    """Number of training samples to use, the first ones; alpha is chosen on others."""
    noise: float = 0.4
    """Share of labels replaced by wrong ones."""
    widths: tuple[int, ...] = (256, 256, 256)
    """Hidden layers of an mlp or lenet5; those of nn.build when empty."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 1e-3
    """Learning rate, the peak of a schedule."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 134
    """Passes over the training set."""
    trusted: Literal["clean_members", "random_members", "low_curvature", "unseen"] = "clean_members"
    """Trusted samples: training ones with a right label, any, those of lowest curvature, or some never trained on."""
    trusted_count: int = 300
    """Trusted samples, the same number of each class."""
    selection_count: int = 200
    """Number of samples, never trained on and with labels as noisy as the training set's, on which alpha is chosen."""
    alphas: tuple[float, ...] = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6)
    """Strengths alpha of the edit to try."""
    skip: float = 0.0
    """Share of each class, lowest curvature first, that low_curvature leaves out."""


PRESETS = {
    "smoke": Config(
        seeds=1,
        samples=200,
        widths=(16,),
        lr=1e-2,
        epochs=40,
        batch=32,
        trusted_count=50,
        selection_count=100,
        alphas=(1e2, 1e3),
    ),
    "cpu": Config(),
    "study": Config(  # augmentation would keep the network from learning wrong labels: nothing to correct
        **classifier.STUDY | {"augment": False, "epochs": 30, "lr": 0.1, "weight_decay": 5e-4},
        noise=0.25,
        trusted_count=500,
        selection_count=1000,
    ),
    "gpu": Config(
        data="cifar10",
        samples=45_000,
        noise=0.25,
        model="resnet18",
        widths=(),
        dtype="bfloat16",
        augment=True,
        optimizer="sgd",
        lr=0.1,
        schedule="one_cycle",
        weight_decay=5e-4,
        epochs=60,
        batch=256,
        trusted_count=1000,
        selection_count=4000,
        alphas=(1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6),
    ),
}


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint:
        config = classifier.adopt(config)
    shared = classifier.setup(config)
    check(config, classifier.own(config, shared, config.seed))
    found = [protocol.one_seed(config, shared, seed) for seed in runner.seeds(config)]
    each = [report.judge(config, parts) for *_, parts in found]
    figures, std = runner.over_seeds(each)
    rows = [row for seed, _, parts in found for row in report.metric_rows(config, seed, parts)]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(config, figures, found), rows
    )


def check(config: Config, shared: classifier.Setup) -> None:
    """Refuse, before anything is trained, what cannot end well."""
    left, classes = len(shared.unseen["label"]), len(np.unique(shared.columns["label"]))
    if not 1 <= config.selection_count <= left - classes:
        raise ValueError(
            f"--selection-count {config.selection_count} and at least {classes} samples to trust are taken from the "
            f"{left} training samples that are left out: lower it, or train with --samples so that more are left."
        )
    if config.trusted_count < classes:
        raise ValueError(f"--trusted-count is at least {classes}, one sample a class; got {config.trusted_count}.")
    if not config.alphas or not all(0 < alpha < math.inf for alpha in config.alphas):
        raise ValueError(f"--alphas are positive and finite, such as 10 100 1000; got {config.alphas}.")
    if not 0 <= config.skip < 1:
        raise ValueError(f"--skip is a share of each class, in [0, 1); got {config.skip}.")


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset must show on digits; other noise, data or trust: nothing is claimed."""
    asked = config.data, config.model, config.noise, config.noise_kind, config.trusted
    if config.preset == "smoke" or asked != ("digits", "mlp", 0.4, "symmetric", "clean_members"):
        return []
    above = figures["test_accuracy/verifix_clean_members"] - figures["test_accuracy/verifix_random_members"]
    return [
        runner.Claim("test_accuracy/verifix", figures["test_accuracy/verifix"], 0.86),
        runner.Claim("verifix (clean members) above random members", above, 0.0),
    ]
