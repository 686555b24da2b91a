"""What did the network memorize? Every training sample scored by input-loss curvature while one network trains.

    uv run python -m experiments.memorization                       (digits, 10 % wrong labels, 3 seeds)
    uv run python -m experiments.memorization --data mnist --data-dir DIR
    uv run python -m experiments.memorization --data mine --data-dir DIR --noise 0 --duplicates 0     (suspects only)
    expected: mislabel AUROC of fd_norm >= .97, >= .03 above its last-epoch version; under 2 min on 2 cores
    paper:    CIFAR-10, ResNet-18, 10 % symmetric noise: fd_norm .982, epoch-mean loss .987 (arXiv 2307.05831 and
              its authors' follow-up, ICML 2025)

To find wrong labels use the loss averaged over epochs or confident learning; input-loss curvature (fd_norm) shows what
was memorized. The run leaves scores.csv and scores.npz in its folder: index, given, true and predicted label, every
score, the rank by --score.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from experiments.families import classifier
from experiments.families.classifier import retrained
from experiments.harness import launch, runner
from experiments.memorization import protocol, report
from subspace_jax import data
from subspace_jax.core import checks
from subspace_jax.memorization import scores


@dataclasses.dataclass(frozen=True)
class Config(launch.Config, classifier.BroughtConfig):
    """Train on labels of which some are wrong, score all samples every few epochs, find the wrong ones."""

    duplicates: int = 25
    """Number of planted pairs: the same image under two labels."""
    score: scores.Name = "loss"
    """The score that ranks the table: loss finds wrong labels best, fd_norm shows what is memorized."""
    scores: tuple[str, ...] = ()
    """Scores to compute beside loss, margin, forgetting, ...; when not given fd_norm, hv_norm, input_grad and, up to 20
    classes, ggn_exact, whose time grows with the classes."""
    refits: bool = True
    """Also train further networks: for confident learning on three folds, for second-split forgetting on two halves."""
    score_every: int = 0
    """Epochs between scorings, over which a score is averaged; 0: every 2nd on digits, a tenth of the run elsewhere."""
    probes: int = 10
    """Random directions per sample."""
    step: float = 1e-3
    """Finite-difference step, in units of the scaled inputs."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of the products in the scores; default: faster on GPU and TPU, as good there on real networks."""
    score_batch: int = 512
    """Samples per scoring call."""
    sweep: bool = True
    """Measure the sensitivity to step and probes (first seed only)."""
    save_every: int = 10
    """Epochs between checkpoints."""
    keep_every: int | None = None
    """Epochs between checkpoints that are kept for good, to score them later with --checkpoint."""


PRESETS = {
    "smoke": Config(seeds=1, samples=300, widths=(16,), epochs=6, duplicates=5, sweep=False, save_every=3),
    "cpu": Config(),
    "study": Config(**classifier.STUDY, duplicates=100, scores=("fd_norm", "input_grad"), refits=False),
    "gpu": Config(
        data="cifar10",
        model="resnet18",
        dtype="bfloat16",
        augment=True,
        lr=0.1,
        schedule="one_cycle",
        batch=256,
        weight_decay=5e-4,
        epochs=60,
        duplicates=250,
        score_every=5,
        precision="default",
        score_batch=1000,
    ),
}
THRESHOLDS = {  # mislabel AUROC, duplicates AUROC at 10 % symmetric noise
    ("digits", "mlp"): (0.97, None),
    ("cifar10", "resnet18"): (0.97, 0.90),
}


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    config = classifier.given(config)
    if config.score_every == 0:
        config = dataclasses.replace(config, score_every=2 if config.data == "digits" else max(1, config.epochs // 10))
    if not 1 <= config.score_every <= config.epochs:
        raise ValueError(f"--score-every is in [1, {config.epochs}], the epochs; got {config.score_every}.")
    shared = classifier.setup(config, test=False)
    checks.check_several(shared.columns["label"], "a search for suspects")
    checks.check_varied("samples", data.inputs(shared.columns))
    protocol.check_names(config)
    if config.refits and not config.checkpoint:
        retrained.check_scores(config, len(shared.columns["label"]))
    runs, found = [], []
    for seed in runner.seeds(config):
        task = classifier.task(config, classifier.own(config, shared, seed), seed)
        if seed == config.seed and not config.resume:
            protocol.announce(config, shared, task)
        one_seed = functools.partial(protocol.score_run, config, shared, task, seed)
        found.append((seed, task, runner.stage(config, f"seed{seed}", one_seed)))
        runs.append(report.judge(config, task, found[-1][2]))
    figures, std = runner.over_seeds(runs)
    report.write_table(config, found)
    rows = [row for seed, _, arrays in found for row in report.metric_rows(seed, arrays)]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, runs), report.sections(config, figures, found), rows
    )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the preset must show; other noise, other data: nothing is claimed."""
    known = THRESHOLDS.get((config.data, config.model))
    if (
        known is None
        or config.preset == "smoke"
        or not {"auroc/fd_norm_last", "auroc/ggn_exact"} <= figures.keys()
        or (config.noise, config.noise_kind) != (0.1, "symmetric")
    ):
        return []
    fd, last = figures["auroc/fd_norm"], figures.get("auroc/fd_norm_last", np.nan)
    listed = [
        runner.Claim("auroc/fd_norm", fd, known[0]),
        runner.Claim("fd_norm above its last-epoch version", fd - last, 0.03),
        runner.Claim("fd_norm above ggn_exact", fd - figures["auroc/ggn_exact"], 0.0),
        runner.Claim("epoch-mean loss at least fd_norm", figures["auroc/loss"] - fd, 0.0),
    ]
    if known[1] and config.duplicates:
        listed.append(runner.Claim("duplicates_auroc/fd_norm", figures["duplicates_auroc/fd_norm"], known[1]))
    return listed
