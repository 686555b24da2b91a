"""Which inputs belong to none of the classes? Detectors near and far, their cost, what two methods really add.

    uv run python -m experiments.ood_detection                         (digits: erm, mixup, aux_soft; 5 seeds)
    uv run python -m experiments.ood_detection --data mnist --data-dir DIR --model cnn2 --widths --samples 6000 \
--epochs 5 --ood-sets gaussian uniform salt_pepper blur constant inverted permuted unseen greycifar fashion_mnist
    uv run python -m experiments.ood_detection --features FILE.npz     (logits and features of your own)
    expected: digits: the auxiliary class >= .97 on every far set at an accuracy within .025, below MSP near; 2 min
              MNIST: norm-scaling .005 above MSP near, half of it by its temperature; the auxiliary class fails on
              smooth images with one seed of five; 5 min of CPU time
    paper:    aux class: "near competitive" at far lower cost; norm-scaling: +.098 AUROC (abstracts alone)

Sets named `unseen` and, for CIFAR, the other CIFAR and tiny_imagenet_32 are near; all others are far. Averages are
never taken over both. No detector is tuned on unknown data, and no setting was chosen by looking at it.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.ood_detection import methods, protocol, report
from subspace_jax.ood import vrm

NOISES = "gaussian", "uniform", "salt_pepper", "blur", "constant", "inverted", "permuted"


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train a network in several ways and let every detector tell its classes from other inputs."""

    training: tuple[str, ...] = ("erm", "mixup", "aux_soft")
    """Ways to train: erm, mixup, intra (within classes), aux_soft, aux_hard (with an auxiliary class)."""
    detectors: tuple[str, ...] = ()
    """Detectors; all but minmax when not given. Those of the auxiliary class are for such networks alone."""
    ood_sets: tuple[str, ...] = (*NOISES, "unseen")
    """Unknown inputs: noises, changed test images, unseen classes, and sets of images in --data-dir."""
    near_classes: tuple[int, ...] = (6, 7, 8, 9)
    """Classes left out of the training of a second network, to which they are `unseen`."""
    positive: Literal["id", "ood"] = "id"
    """Which inputs fpr95 calls positive; fpr95_other is of the other convention."""
    features: str = ""
    """Judge outputs of your own, nothing is trained: an npz file with train_logits, train_label, test_logits and
    NAME_logits of every unknown set, and, for more detectors, NAME_features of all, head_kernel and head_bias. With
    --detectors aux the last logit is the auxiliary class."""
    alpha: float = 1.0
    """Of the Beta distribution of mixing shares."""
    aux_weight: float = 1.0
    """Weight of the noise mixtures beside the known samples."""
    share_max: float = 1.0
    """Largest share of a sample in a noise mixture."""
    neighbours: int = 50
    """Which neighbour knn measures to."""
    ood_samples: int = 1000
    """Samples of every unknown set, at most."""
    noise: float = 0.0
    """Share of wrong labels planted."""
    widths: tuple[int, ...] = (128, 128)
    """Hidden layers of an mlp or lenet5; those of nn.build when not given."""
    network_args: tuple[str, ...] = ("init=he",)
    """Further arguments of the network as NAME=VALUE."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 1e-3
    """Learning rate, the peak of a schedule."""
    weight_decay: float = 0.0
    """L2 penalty."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, epochs=3, training=("erm", "aux_soft"), ood_sets=("gaussian", "inverted", "unseen"),
        detectors=(
            "msp", "maxlogit", "energy", "odin", "mahalanobis", "knn", "vim", "norm", "std", "msp_t", "norm_matched",
            "aux", "aux_max",
        ), ood_samples=100,
    ),
    "cpu": Config(seeds=5),
    "study": Config(**classifier.STUDY, ood_sets=(*NOISES, "unseen", "cifar100", "fashion_mnist", "mnist")),
    "gpu": Config(
        seeds=3, data="cifar10", model="resnet18", widths=(), network_args=(), augment=True, optimizer="sgd", lr=0.1,
        schedule="cosine", weight_decay=5e-4, epochs=30, batch=128, ood_samples=10_000, near_classes=(),
        dtype="bfloat16",
        ood_sets=("cifar100", "tiny_imagenet_32", "mnist", "gaussian", "uniform", "salt_pepper", "blur", "constant"),
    ),
}  # fmt: skip
MNIST = dataclasses.replace(
    PRESETS["cpu"], data="mnist", model="cnn2", widths=(), samples=6000, epochs=5,
    ood_sets=(*NOISES, "unseen", "greycifar", "fashion_mnist"),
)  # fmt: skip
GIVEN = "given"  # the training of outputs of one's own


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    if config.features:
        arrays = {GIVEN: {"all": runner.stage(config, "given", functools.partial(protocol.from_file, config))}}
        found, shown = {config.seed: arrays}, {}
    else:
        config = classifier.adopt(config) if config.checkpoint else config
        found, shown = trained(config)
    near = methods.near_sets(config)
    runs = {seed: report.judge(config, one, near) for seed, one in found.items()}
    each = list(runs.values())
    figures, std = runner.over_seeds(each)
    worst = report.worst_seed(list(runs.values()))
    figures, std = figures | worst, std | dict.fromkeys(worst, 0.0)
    rows = [row for seed, run in runs.items() for row in report.metric_rows(seed, run)]
    return runner.Summary(
        figures,
        std,
        runner.judged(claims, config, figures, each),
        report.sections(config, figures, std, found, shown),
        rows,
    )


def trained(config: Config) -> tuple[report.Found, dict[str, np.ndarray]]:
    """Scores by seed, training and part; some images of every set of the first seed."""
    shared, found, shown = classifier.setup(config), {}, {}
    check_classes(config, shared)
    for seed in runner.seeds(config):
        listed = methods.parts(config, shared, seed)
        if not shown:
            shown = {name: methods.seen(shared, x) for part in listed for name, x in part.sets.items()}
        found[seed] = {
            name: {
                part.name: runner.stage(
                    config, f"seed{seed}_{name}_{part.name}",
                    functools.partial(protocol.one_network, config, part, seed, name),
                )
                for part in listed
            }
            for name in config.training
        }  # fmt: skip
    return found, shown


def check(config: Config) -> None:
    """Refuse names that there are not, and flags that do not go together.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    for flag, names, known in (
        ("training", config.training, methods.TRAININGS),
        ("detectors", config.detectors, methods.DETECTORS),
        ("ood-sets", config.ood_sets, methods.SETS),
    ):
        for name in names:
            if name not in known:
                raise ValueError(f"--{flag}: there is no {name!r}; there are {', '.join(known)}.")
    if not config.training or not config.ood_sets:
        raise ValueError("give at least one of --training and of --ood-sets: there is nothing to compare.")
    if config.features and config.checkpoint:
        raise ValueError("--features judges what a file holds, --checkpoint a saved network: give one of them.")
    if config.features:
        return
    vrm.check_settings(alpha=config.alpha, share_max=config.share_max)
    if config.checkpoint and (config.training != ("erm",) or "unseen" in config.ood_sets):
        raise ValueError(
            "--checkpoint is one network that knows all classes: give --training erm and --ood-sets without unseen."
        )
    asked = set(config.detectors) & set(methods.AUX)
    if asked and not set(config.training) & set(methods.AUXILIARY):
        raise ValueError(f"--detectors {min(asked)} needs an output more: give --training aux_soft or aux_hard.")
    if config.data in {methods.FILES[name][0] for name in config.ood_sets if name in methods.FILES}:
        raise ValueError(f"--ood-sets: {config.data} is what the network knows; leave it out.")


def check_classes(config: Config, shared: classifier.Setup) -> None:
    """Refuse data that the sets cannot be made for.

    Raises:
      ValueError: classes that there are not, or too few left; rows of numbers where images are needed.
    """
    if "image" not in shared.columns and config.ood_sets != ("unseen",):
        raise ValueError(f"{config.data} has rows of numbers (x): of them there is --ood-sets unseen alone.")
    size = int((~np.isin(shared.columns["label"], config.near_classes)).sum())
    if not 1 <= config.neighbours <= size:
        raise ValueError(f"--neighbours numbers the {size} training samples from 1; got {config.neighbours}.")
    if "unseen" not in config.ood_sets:
        return
    wrong = [k for k in config.near_classes if not 0 <= k < shared.classes]
    if wrong or not config.near_classes or shared.classes - len(set(config.near_classes)) < 2:
        raise ValueError(
            f"--near-classes are some of 0..{shared.classes - 1}, and leave 2 at least; got "
            f"{' '.join(map(str, config.near_classes)) or 'none'}."
        )


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipes must show: preset cpu on digits, and the same on MNIST."""
    if runner.follows(config, PRESETS["cpu"], "positive"):
        far = {name: figures[f"auroc/aux_soft/aux/{name}"] for name in methods.far_sets(config)}
        worst = min(far, key=lambda name: far[name])
        return [
            runner.Claim(f"smallest AUROC of the auxiliary class on a far set, {worst}", far[worst], 0.97),
            runner.Claim(
                "accuracy of aux_soft above erm", figures["accuracy/aux_soft"] - figures["accuracy/erm"], -0.025
            ),
        ]
    if runner.follows(config, MNIST, "positive"):
        gain = figures["auroc/erm/norm/unseen"] - figures["auroc/erm/msp/unseen"]
        ratio = figures["class_spread/std"] / figures["class_spread/raw"]
        return [
            runner.Claim("norm-scaling above MSP, unseen classes", gain, 0.005),
            runner.Claim("spread of the classes' 5 % quantiles after std / before, negated", -ratio, -0.6),
        ]
    return []
