"""Can one tell who was in the training set? Shadow models, every attack, as released and as it should be.

    uv run python -m experiments.membership_inference          (digits, 10 % wrong labels, 64 networks, 3 seeds)
    uv run python -m experiments.membership_inference --set-sizes 100 400 1200       (AUROC by size of training set)
    expected: AUROC of LiRA with a fixed variance >= .69, of curvature >= .64, of the released LiRA .05 lower; 1 min
    paper:    CIFAR-10, ResNet-18: curvature .690, LiRA as released .618 (NeurIPS 2024, arXiv 2407.02747)

Half of the samples are in the training set of each network. All but the last --targets networks are the attacker's
shadow models; the targets are attacked. With --checkpoint the network saved there is: its training set against its test
set, with shadow models by its own recipe. The run leaves risk.csv and risk.npz: of every member of every target its
score and the false positive rate at which it is exposed.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import numpy as np

from experiments.families import classifier
from experiments.families.classifier import retrained
from experiments.harness import launch, runner
from experiments.membership_inference import methods, protocol, report
from subspace_jax.core import curvature


@dataclasses.dataclass(frozen=True)
class Config(launch.Config, classifier.Config):
    """Train many networks on random halves of the data, attack some of them with what the others know."""

    models: int = 64
    """Networks trained, in pairs on complementary halves."""
    targets: int = 4
    """The last so many of them, whole pairs, are attacked; the others are the shadow models."""
    attacks: tuple[str, ...] = ()
    """Attacks to try, see privacy.membership; all when not given."""
    spread: Literal["std", "var_as_std"] = "std"
    """Deviation of lira_online, curvature_nll, curvature_lr; var_as_std: the variance, as in the released scripts."""
    set_sizes: tuple[int, ...] = ()
    """Also attack --targets further networks, each trained on so many random samples; with the same shadow models."""
    score: str = "lira_fixed_variance"
    """The attack whose scores make the risk table."""
    queries: int = 1
    """1: every image as it is; 2: also mirrored left to right."""
    curvature: Literal["cross", "fd_norm", "hv_norm", "ggn_exact"] = "cross"
    """What the attacks on curvature look at: cross asks for losses alone, the others take derivatives."""
    probes: int = 10
    """Pairs of random directions for the curvature of a sample, each four questions to a network."""
    step: float = 1e-2
    """Length of a step in each pixel, in units of the scaled inputs."""
    group: int = 64
    """Networks trained at a time; a finished group is saved."""
    score_batch: int = 512
    """Samples per call where curvature is measured."""
    logits: str = ""
    """Attack saved outputs, nothing is trained: an npz file with logits (models, n, classes) or (models, queries, n,
    classes) of shadow models, keep (models, n), target as logits, label (n,), and member (targets, n); where they were
    measured curvature and target_curvature, and index (n,)."""
    members: str = ""
    """Who was trained on, for --logits and --checkpoint: a file of their indices, .npy or text; of a checkpoint all
    training samples when not given."""


PRESETS = {
    "smoke": Config(seeds=1, samples=300, models=8, targets=2, epochs=4, batch=32, probes=2),
    "cpu": Config(epochs=40, batch=32),
    "study": Config(**classifier.STUDY, noise=0.0, set_sizes=(2500, 5000, 7500)),
    "gpu": Config(
        seeds=1, data="cifar10", noise=0.0, model="resnet20", augment=True, models=32, targets=4, lr=0.1,
        schedule="cosine", weight_decay=5e-4, epochs=30, batch=256, queries=2, probes=5, group=8, score_batch=4096,
    ),
}  # fmt: skip

FREE = "group", "score", "score_batch", "set_sizes", *vars(launch.Config())  # no part of the recipe


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint and not config.logits:
        config = classifier.adopt(config)
    check(config)
    if config.logits:
        case, task = methods.from_file(config)
        protocol.check_score(config, population=False, curvature=case.targets.curvature is not None)
        found = [(config.seed, task, protocol.scored(config, case))]
    else:
        found = list(trained(config))
    each = [report.judge(arrays) for *_, arrays in found]
    figures, std = runner.over_seeds(each)
    report.write_table(config, found)
    rows = [row for seed, _, arrays in found for row in report.metric_rows(seed, arrays)]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(config, figures, found), rows
    )


def trained(config: Config) -> Iterator[tuple[int, classifier.Task, dict[str, np.ndarray]]]:
    """(seed, candidates, scores) of every seed."""
    shared = classifier.setup(config, test=bool(config.checkpoint))
    size = len(shared.columns["label"]) + (len(shared.test["label"]) if config.checkpoint else 0)
    retrained.check(config, size // 2, "halves")
    methods.check_sizes(config, size)
    protocol.check_score(config, population=len(shared.test["label"]) > 0 and not config.checkpoint)
    for seed in runner.seeds(config):
        own = classifier.own(config, shared, seed, whole=True)
        task = classifier.task(config, own, seed)
        task = methods.candidates(own, task) if config.checkpoint else task
        one_seed = functools.partial(protocol.attacked, config, own, task, seed)
        yield seed, task, runner.stage(config, f"seed{seed}", one_seed)


def check(config: Config) -> None:
    """Refuse flags that do not go together, numbers of networks and names of attacks that there are not.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    protocol.check_attacks(config)
    if config.set_sizes and (config.logits or config.checkpoint):
        raise ValueError(
            "--set-sizes trains targets on sets of these sizes; it has no use with --logits or --checkpoint."
        )
    if config.logits and config.checkpoint:
        raise ValueError("--logits attacks what a file holds, --checkpoint a saved network: give one of them.")
    if config.members and not config.logits and not config.checkpoint:
        raise ValueError("--members tells of --checkpoint or --logits who was trained on; give one of these.")
    if config.logits:
        return
    least = 4 if config.checkpoint else 6
    if config.models % 2 or config.models < least:
        raise ValueError(f"--models come in pairs, an even number from {least} on; got {config.models}.")
    if not config.checkpoint and (config.targets % 2 or not 2 <= config.targets <= config.models - 4):
        raise ValueError(
            f"--targets are whole pairs, an even number in [2, {config.models - 4}], so that 4 shadow models are left; "
            f"got {config.targets}."
        )
    if config.group < 1:
        raise ValueError(f"--group is the number of networks trained at a time, at least 1; got {config.group}.")
    curvature.check_settings(probes=config.probes, step=config.step)
    if config.dtype != "float32" and protocol.needs_curvature(protocol.attacks(config)):
        raise ValueError(f"--dtype {config.dtype} rounds a step of {config.step} away: curvature takes float32.")


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; two of them say who is right about curvature and LiRA."""
    if not runner.follows(config, PRESETS["cpu"], *FREE):
        return []
    lira, released = figures["auroc/lira_fixed_variance"], figures["auroc/lira_as_released"]
    curved = figures["auroc/curvature_nll"]
    flatter = figures["log_curvature/others"] - figures["log_curvature/members"]
    return [
        runner.Claim("auroc/lira_fixed_variance", lira, 0.69),
        runner.Claim("auroc/curvature_nll", curved, 0.64),
        runner.Claim("curvature_nll above yeom", curved - figures["auroc/yeom"], 0.02),
        runner.Claim("LiRA as released below the corrected", lira - released, 0.05),
        runner.Claim("members are flatter: log curvature of the others above theirs", flatter, 0.0),
        runner.Claim("curvature beats LiRA as released", curved - released, 0.0),
        runner.Claim("curvature beats the corrected LiRA", curved - lira, 0.0),
    ]
