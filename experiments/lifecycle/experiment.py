"""What does a network remember, who can tell, can it be corrected, forget, and go on learning? One life, one report.

    uv run python -m experiments.lifecycle                     (digits, 15 % wrong labels, 3 seeds; 2 min on 2 cores)
    uv run python -m experiments.lifecycle --forget 5 --new-classes 0 1
    uv run python -m experiments.lifecycle --preset study --data-dir DIR         (10,000 images of CIFAR-10, LeNet-5)
    uv run python -m experiments.lifecycle --preset study --data fashion_mnist --data-dir DIR
    uv run python -m experiments.lifecycle --start unlearned --checkpoint runs/lifecycle/1/checkpoints/seed0/corrected
    expected: wrong labels found with AUROC >= .95, accuracy +.02 by the correction, the forgotten class at <= .05,
              .85 on new classes while the old ones lose <= .08

An MLP learns the old classes from labels of which some are wrong (trained); input-loss curvature finds what it had to
memorize (scored); shadow models tell who was in its training set (attacked); the samples of lowest curvature undo what
the wrong labels wrote (corrected); a class is projected out (unlearned); new classes are learned without touching what
the old ones use (learned), or what the forgotten one used either (learned_sealed). The attack is repeated after each.

Preset study: a network trained with augmentation hardly repeats wrong labels, so that nothing is left to correct; on
CIFAR-10 the protected steps do not teach it the new classes (RESULTS.md, one seed).

Every step is a checkpoint, checkpoints/seed<seed>/<step>, which every other experiment takes by --checkpoint. The
samples of the old classes that are no members serve twice: as non-members for the attack, and as the selection set,
always with their given labels, on which the strengths of the edits are chosen.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.lifecycle import methods, protocol, report
from experiments.lifecycle.figures import judge, metric_rows

if TYPE_CHECKING:
    Step = str
else:
    Step = Literal[protocol.STEPS]


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train a network on noisy labels, then score, attack, correct, unlearn and extend it, a checkpoint a step."""

    noise: float = 0.15
    """Share of the labels of old classes that are replaced by wrong ones, members and others alike."""
    pool: tuple[int, ...] = ()
    """Classes whose labels are corrupted, each into another one of them; the old classes when not given."""
    forget: tuple[int, ...] = (3,)
    """Old classes to forget."""
    new_classes: tuple[int, ...] = (8, 9)
    """Classes that the network has outputs for, but no samples of before the last step."""
    members: int | None = None
    """Samples of the old classes to train on, drawn by the seed; two thirds when not given."""
    score_every: int = 2
    """Epochs between scorings."""
    probes: int = 10
    """Random directions per sample for its curvature."""
    step: float = 1e-3
    """Finite-difference step, in units of the scaled inputs."""
    shadows: int = 16
    """Shadow models of the attack, in complementary pairs."""
    trusted_per_class: int = 38
    """Members of lowest curvature per given class that the correction trusts, and that unlearning keeps."""
    alphas: tuple[float, ...] = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6)
    """Strengths of the correction to try."""
    energy: float = 0.95
    """Share of the energy of the old classes' layer inputs that the new ones may not touch."""
    new_lr: float = 0.02
    """Learning rate of plain SGD on the new classes."""
    new_batch: int = 10
    """Samples of the new classes per step."""
    new_steps: int = 800
    """Steps on the new classes."""
    start: Step = "trained"
    """First step to take; those before it are what the network at --checkpoint went through."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, widths=(24,), epochs=10, batch=32, shadows=4, probes=2, trusted_per_class=5,
        alphas=(1e2, 1e4), new_steps=40, lr=0.1,
    ),
    "cpu": Config(),
    "study": Config(  # chosen by the test accuracy of `trained`, on seed 10
        data="cifar10", samples=10_000, model="lenet5", network_args=("filters=16,32", "norm=group"), augment=True,
        schedule="cosine", epochs=40, score_every=4, shadows=8, trusted_per_class=200, new_batch=64,
    ),
    "gpu": Config(
        seeds=1, data="cifar10", model="resnet20", network_args=("norm=group",), augment=True, lr=0.1,
        schedule="one_cycle", batch=256, weight_decay=5e-4, epochs=40, score_every=8, shadows=8, trusted_per_class=400,
        new_batch=64,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint:
        config = classifier.adopt(config)
    shared = classifier.setup(config)
    check(config, shared)
    if not config.checkpoint:
        config = dataclasses.replace(config, pool=config.pool or tuple(methods.old_classes(config, shared).tolist()))
    found = [protocol.one_seed(config, shared, seed) for seed in runner.seeds(config)]
    each = [judge(case, parts) for case, parts in found]
    figures, std = runner.over_seeds(each)
    rows = [row for case, parts in found for row in metric_rows(case, parts)]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(figures, std, found), rows
    )


def check(config: Config, shared: classifier.Setup) -> None:
    """Refuse, before anything is trained, what no step could use.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    new, gone, old = set(config.new_classes), set(config.forget), set(methods.old_classes(config, shared).tolist())
    if not new or not new < set(range(shared.classes)):
        raise ValueError(f"--new-classes are some of the classes 0 to {shared.classes - 1}; got {config.new_classes}.")
    if not gone or not gone <= old or len(old - gone) < 2:
        raise ValueError(f"--forget leaves 2 or more of the old classes {sorted(old)}; got {config.forget}.")
    if not config.checkpoint and config.start != "trained":
        raise ValueError(f"--start {config.start} needs --checkpoint, the network that went through the steps before.")
    size = int(np.isin(shared.columns["label"], list(old)).sum())
    least, most = max(config.batch, len(old)), size - len(old)
    if not least <= (config.members or 2 * size // 3) <= most or config.batch > size // 2:
        raise ValueError(
            f"--members lies in [{least}, {most}], at least a --batch of the {size} samples of old classes, of whose "
            f"halves the shadow models take batches too; got {config.members or 2 * size // 3}."
        )
    if config.shadows < 4 or config.shadows % 2:
        raise ValueError(f"--shadows come in pairs, an even number from 4 on; got {config.shadows}.")
    check_numbers(config)


def check_numbers(config: Config) -> None:
    """Refuse numbers out of their bounds.

    Raises:
      ValueError: names the flag, its value and its bounds.
    """
    for name in ("trusted_per_class", "new_batch", "new_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is at least 1; got {getattr(config, name)}.")
    if not config.alphas or not all(0 < alpha < math.inf for alpha in config.alphas):
        raise ValueError(f"--alphas are positive and finite, such as 10 100 1000; got {config.alphas}.")
    if not 0 < config.energy <= 1:
        raise ValueError(f"--energy is a share, in (0, 1]; got {config.energy}.")
    if not 1 <= config.score_every <= config.epochs:
        raise ValueError(f"--score-every is in [1, {config.epochs}], the epochs; got {config.score_every}.")


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset must show on digits; nothing is claimed of others."""
    if not runner.follows(config, PRESETS["cpu"], "pool") or set(config.pool) != set(range(8)):
        return []
    accuracy = {name.removeprefix("accuracy/"): value for name, value in figures.items()}
    exposed = {step: figures[f"membership_auroc/{step}"] for step in ("trained", "corrected")}
    gained = accuracy["corrected/all_old"] - accuracy["trained/all_old"]
    return [
        runner.Claim("memorized_found_auroc", figures["memorized_found_auroc"], 0.95),
        runner.Claim("accuracy on old classes, corrected - trained", gained, 0.02),
        runner.Claim("trusted_clean", figures["trusted_clean"], 0.97),
        runner.Claim("forget_accuracy, negated", 0.0 - figures["forget_accuracy"], -0.05),
        runner.Claim("accuracy on what stays after unlearning", accuracy["unlearned/old"], 0.90),
        runner.Claim("accuracy on it, learned - unlearned", figures["bwt"], -0.08),
        runner.Claim("accuracy on the new classes, among all ten", accuracy["learned/new"], 0.85),
        runner.Claim("noise_reproduced/trained", figures["noise_reproduced/trained"], 0.75),
        runner.Claim("noise_reproduced/corrected, negated", -figures["noise_reproduced/corrected"], -0.30),
        runner.Claim("membership_auroc/trained", exposed["trained"], 0.66),
        runner.Claim("membership_auroc, trained - corrected", exposed["trained"] - exposed["corrected"], 0.05),
    ]
