"""Does a network forget a class by a closed-form edit of its weights, and keep the others?

    uv run python -m experiments.class_unlearning                         (digits, class 3, 3 seeds)
    uv run python -m experiments.class_unlearning --forget 1 5            (at once, and one after the other)
    uv run python -m experiments.class_unlearning --checkpoint runs/memorization/1
    uv run python -m experiments.class_unlearning --weights ViT-B_16.npz --model vit_b16 --data mine --data-dir DIR \
        --image-size 224 --forget 0 --samples-per-class 10                (a ViT that others trained, your images)
    expected: forget accuracy <= .03, retain accuracy >= .92 with 20 samples a class; under 5 min on 2 cores
    paper:    ViT-B/16, ImageNet: retain accuracy -1.5 points, forget accuracy < 1 % (arXiv 2312.00761)

The edited network lies in the run's folder under edited/: a checkpoint as any other, for --checkpoint.
"""

import dataclasses
from typing import Any, Literal

from experiments.class_unlearning import protocol, report
from experiments.families import classifier
from experiments.harness import runner


@dataclasses.dataclass(frozen=True)
class Config(classifier.BroughtConfig):
    """Forget classes of a trained classifier by a closed-form edit, beside eleven ways to forget by training."""

    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    widths: tuple[int, ...] = (128, 128)
    """Hidden layers of an mlp or lenet5."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 1e-3
    """Learning rate, the peak of a schedule."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 90
    """Passes over the training set."""
    forget: tuple[int, ...] = (3,)
    """Classes to forget."""
    samples_per_class: int = 20
    """Training samples per kept class, in all as many of those to forget; retraining takes every kept sample."""
    layers: Literal["all", "last"] = "all"
    """Layers to edit: all, or the last one, which reads the features."""
    baselines: tuple[str, ...] = ()
    """Ways to forget by training to compare with; all eleven when not given, none for a network from --weights."""
    tune_epochs: int = 10
    """Passes of the baselines over these samples."""
    last_layers: int = 1
    """k of cf_k and eu_k, which train the last k layers only."""
    shadows: int = 8
    """Pairs of further networks for the likelihood-ratio attack (U-LiRA); 0: none, nor for an edited or given one."""


PRESETS = {
    "smoke": Config(
        seeds=1,
        samples=300,
        widths=(16, 16),
        epochs=15,
        samples_per_class=8,
        tune_epochs=1,
        shadows=3,
    ),
    "cpu": Config(),
    "study": Config(**classifier.STUDY, forget=(0, 3, 8), samples_per_class=100),
    "gpu": Config(
        data="cifar10",
        model="resnet18",
        widths=(),
        dtype="bfloat16",
        augment=True,
        optimizer="sgd",
        lr=0.1,
        schedule="one_cycle",
        batch=256,
        weight_decay=5e-4,
        epochs=30,
        forget=(0,),
        samples_per_class=100,
        shadows=0,
    ),
}


def main(config: Config) -> runner.Summary:
    """Run all methods on all seeds and put the report together."""
    config = classifier.given(config)
    shared = classifier.setup(config)
    compiled: set[Any] = set()
    found = {seed: protocol.one_seed(config, shared, seed, compiled) for seed in runner.seeds(config)}
    each = [report.figures(arrays) for arrays in found.values()]
    figures, std = runner.over_seeds(each)
    rows = [row for seed, arrays in found.items() for row in report.metric_rows(seed, arrays)]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(config, figures, found), rows
    )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the preset must show; other data, networks or classes: nothing is claimed."""
    known = config.data == "digits" and config.model == "mlp" and config.noise == 0 and config.forget == (3,)
    if not known or config.samples_per_class != 20 or config.preset == "smoke":
        return []
    score = figures["score/projection"]
    return [
        runner.Claim("forget_accuracy/projection, negated", -figures["forget_accuracy/projection"], -0.03),
        runner.Claim("retain_accuracy/projection", figures["retain_accuracy/projection"], 0.92),
        runner.Claim("score of projection above original", score - figures["score/original"], 0.0),
        runner.Claim("score of projection above no_shared", score - figures["score/no_shared"], 0.0),
    ]
