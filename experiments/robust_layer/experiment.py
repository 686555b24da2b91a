"""Does a layer that looks up its neighbours make a network robust, and more than plain controls do?

    uv run python -m experiments.robust_layer                     (digits: 9 networks, 3 seeds)
    uv run python -m experiments.robust_layer --checkpoint DIR    (one's own network beside them)
    uv run python -m experiments.robust_layer --preset study --data-dir DIR       (MNIST: a convolutional encoder)
    expected: the layer >= .15 above the dense one under all attacks, .02 and more below what PGD alone says; a
              spectral norm gives as much, nearest neighbours on pixels more, adversarial training >= .1 more
    paper:    more robust to PGD than a fully connected layer on MNIST and CIFAR-10 (abstract)

An encoder, an embedding and a linear head. dense: the embedding is a matrix product; dense_decay: weight decay 1;
spectral: both layers before the head have norm 1 at most; table: the embedding is looked up among training samples, not
trained further; npl: trained further through the layer; npl_neighbor: with a loss that keeps neighbours together;
soft_knn, pixel_knn: a vote of the nearest samples, by features and by pixels; adversarial, npl_adversarial: dense and
npl, trained on attacked images.
"""

import dataclasses
import functools
from typing import Literal

from experiments.families import classifier
from experiments.families.classifier import withstood
from experiments.harness import runner
from experiments.robust_layer import methods, protocol, report


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train networks that differ in one layer, and attack each of them in all ways."""

    networks: tuple[str, ...] = methods.NETWORKS[:-1]
    """Which networks; dense is always among them, since examples are made on it. Further: npl_adversarial."""
    eps: float = 0.1
    """Largest change of a pixel in [0, 1]."""
    strengths: tuple[float, ...] = (0.05, 0.075)
    """Strengths of the curves of the first seed, beside eps."""
    table_size: int = 500
    """Entries of the table, as many of each class."""
    neighbors: int = 10
    """Entries that decide an input."""
    width: int = 16
    """Outputs of the layer."""
    weighting: Literal["adaptive", "constant", "umap"] = "adaptive"
    """How distances become weights."""
    refresh: Literal["epoch", "average"] = "epoch"
    """How the table follows the encoder: from its images before each epoch, or by a moving average each step."""
    neighbor_weight: float = 0.0
    """Weight of the neighbour loss of npl; npl_neighbor has .1."""
    finetune_epochs: int = 10
    """Epochs through the layer, after --epochs with a dense one; the other networks train for both."""
    steps: int = 20
    """Steps of PGD, eps / 8 each."""
    restarts: int = 10
    """Starts of PGD with twice the steps, half of them on cross-entropy, half on the margin."""
    adaptive: int = 0
    """Steps of APGD on cross-entropy and on DLR; none when 0."""
    queries: int = 2000
    """Queries of Square."""
    images: int | None = None
    """Test images attacked, the first ones; all when not given."""
    noise: float = 0.0
    """Share of wrong labels planted."""
    widths: tuple[int, ...] = (256,)
    """Hidden layers of the encoder."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 1e-3
    """Learning rate; half of it through the layer."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 30
    """Passes over the training set before the layer is put in."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, widths=(32,), epochs=6, finetune_epochs=2, batch=32, table_size=60, width=8, steps=3,
        restarts=2, queries=20, images=60, strengths=(0.05,), networks=("dense", "npl"),
    ),
    "cpu": Config(),
    "study": Config(
        data="mnist", samples=8000, images=300, strengths=(0.05,), model="cnn2", widths=(16, 32), epochs=5,
        finetune_epochs=2, queries=1000, network_args=("strides=[2]", "pools=[]", "dense=[]", "init=lecun"),
        networks=("dense", "spectral", "table", "npl", "soft_knn", "pixel_knn", "adversarial"),
    ),
    "gpu": Config(
        data="cifar10", model="resnet18", widths=(), network_args=("width=32",), eps=8 / 255,
        strengths=(4 / 255,), table_size=2000, width=32, epochs=30, batch=128, augment=True, images=2000,
        queries=5000, adaptive=100, dtype="bfloat16",
        networks=("dense", "table", "npl", "soft_knn", "adversarial", "npl_adversarial"),
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    shared = classifier.with_images(config)
    if config.table_size > len(shared.columns["label"]):
        raise ValueError(f"--table-size is at most the {len(shared.columns['label'])} training samples; lower it.")
    found = {}
    for seed in runner.seeds(config):
        train = functools.partial(protocol.trained, config, shared, seed)
        arrays = runner.stage(config, f"seed{seed}_networks", train)
        found[seed], power = {}, None
        for name in protocol.listed(config):
            audited = functools.partial(protocol.audited, config, shared, arrays, seed, name, power)
            found[seed][name] = runner.stage(config, f"seed{seed}_{name}", audited)
            power = float(found[seed][protocol.REFERENCE]["power"])
    return withstood.summary(config, found, lambda _, one: report.judge(one), report.sections, claims)


def check(config: Config) -> None:
    """Refuse names and sizes that there are not.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    for name in config.networks:
        if name not in methods.NETWORKS:
            raise ValueError(f"--networks: there is no {name!r}; there are {', '.join(methods.NETWORKS)}.")
    if "dense" not in config.networks:
        raise ValueError("--networks: dense is the reference of all others; add it.")
    if not 1 <= config.neighbors <= config.table_size:
        raise ValueError(f"--neighbors are 1 to --table-size {config.table_size}; got {config.neighbors}.")
    if config.neighbor_weight and not config.neighbors < config.batch:
        raise ValueError(f"the neighbour loss needs --batch above --neighbors {config.neighbors}; got {config.batch}.")
    if min(config.steps, config.queries, config.finetune_epochs, config.width) < 1 or config.restarts < 2:
        raise ValueError("--steps, --queries, --finetune-epochs, --width are at least 1, --restarts at least 2.")
    if config.adaptive < 0:
        raise ValueError(f"--adaptive are steps of APGD, 0 for none; got {config.adaptive}.")
    classifier.along(config.strengths, config.eps)


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipe must show on digits."""
    if not runner.follows(config, PRESETS["cpu"], "checkpoint", "epoch"):
        return []
    worst = {name: figures[f"robust/{name}/min"] for name in ("dense", "npl", "adversarial")}
    return [
        runner.Claim("npl above dense, under all attacks", worst["npl"] - worst["dense"], 0.15),
        runner.Claim("clean accuracy of npl above dense", figures["accuracy/npl"] - figures["accuracy/dense"], -0.03),
        runner.Claim("PGD alone above all attacks, npl", figures["robust/npl/pgd"] - worst["npl"], 0.02),
        runner.Claim("adversarial training above npl", worst["adversarial"] - worst["npl"], 0.1),
    ]
