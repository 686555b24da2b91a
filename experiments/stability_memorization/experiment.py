"""How much would each sample be forgotten if it had not been trained on? Many networks, each on half of the data.

    uv run python -m experiments.stability_memorization         (digits, 10 % wrong labels, 64 networks, 3 seeds)
    expected: memorization of wrong labels >= .7, of clean ones <= .15, Pearson with curvature >= .85
    paper:    share of training samples with memorization >= .3: CIFAR-100 23 %, MNIST .45 % (arXiv 2008.03703; from
              memory of it); curvature against these scores on CIFAR-100: cosine .69, Pearson .49 (ICML 2025 follow-up)

The run leaves stability.csv and stability.npz: memorization with its standard error, C-score and curvature per sample.
"""

import dataclasses
import functools
from typing import ClassVar

from experiments.families import classifier
from experiments.harness import launch, runner
from experiments.stability_memorization import protocol, report


@dataclasses.dataclass(frozen=True)
class Config(launch.Config, classifier.Config):
    """Train many networks on random subsets; compare, per sample, those trained on it with those that were not."""

    loads: ClassVar[bool] = False
    models: int = 64
    """Networks trained."""
    ratio: float = 0.5
    """Share of the samples each is trained on; .7 is nearer to the full data, .5 has the least variance."""
    group: int = 64
    """Networks trained at a time; a finished group is saved."""
    score_every: int = 4
    """Epochs between curvature scorings of all networks."""
    probes: int = 10
    """Random directions per sample."""
    score_batch: int = 512
    """Samples per scoring call."""


PRESETS = {
    "smoke": Config(seeds=1, samples=300, widths=(16,), models=4, group=2, epochs=4, batch=32, probes=2),
    "cpu": Config(epochs=40, batch=32),
    "study": Config(  # the best of three by the test accuracy of one network, seeds 10 to 12
        data="fashion_mnist", samples=3000, model="lenet5", network_args=("filters=16,32", "norm=batch"), epochs=40,
        batch=32, score_every=10,
    ),
    "gpu": Config(
        data="cifar10", samples=10_000, model="lenet5", noise=0.1, models=240, group=48, epochs=40, batch=128, lr=0.05,
        schedule="one_cycle", score_every=10,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.models < 2 or config.group < 1:
        raise ValueError(f"--models must be at least 2 and --group at least 1; got {config.models} and {config.group}.")
    shared = classifier.setup(config)
    found = []
    for seed in runner.seeds(config):
        task = classifier.task(config, shared, seed)
        one_seed = functools.partial(protocol.one_network, config, shared, task, seed)
        arrays = protocol.many_networks(config, shared, task, seed)
        arrays |= runner.stage(config, f"seed{seed}_one", one_seed)
        found.append((seed, task, arrays))
    each = [report.judge(config, task, arrays) for _, task, arrays in found]
    figures, std = runner.over_seeds(each)
    report.write_table(config, found)
    rows = [{"seed": s, "train_accuracy": float(a["train_accuracy"])} for s, _, a in found]
    sections = report.sections(config, shared, figures, *found[0][1:])
    return runner.Summary(figures, std, runner.judged(claims, config, figures, each), sections, rows)


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show."""
    if config.preset != "cpu" or config.data != "digits" or config.noise != 0.1:
        return []
    return [
        runner.Claim("memorization/noisy", figures["memorization/noisy"], 0.7),
        runner.Claim("minus memorization/clean", -figures["memorization/clean"], -0.15),
        runner.Claim("auroc/memorization", figures["auroc/memorization"], 0.95),
        runner.Claim("pearson/fd_norm", figures["pearson/fd_norm"], 0.85),
        runner.Claim("spearman/loss", figures["spearman/loss"], 0.7),
    ]
