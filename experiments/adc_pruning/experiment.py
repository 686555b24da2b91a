"""How many bits of its converters can pruning save in a crossbar, and how many are saved without any pruning?

    uv run python -m experiments.adc_pruning                              (digits, three convolutions, 3 seeds)
    uv run python -m experiments.adc_pruning --methods lbl snap gated group_lasso s_dub --rows 8
    uv run python -m experiments.adc_pruning --checkpoint DIR --percentiles --include-dense
    expected: 2.5 times fewer bits at strength .005, 3 times at .02, without the gate as few as without a penalty;
              accuracy within .02 everywhere; 4 min on 2 busy cores
    paper:    CIFAR-10, VGG-11, 32 rows: 7.13 times less at .9027, ordinary pruning 3.44 (arXiv 2403.13082, its logs)

dense: the trained network. lbl: the smallest weights of each layer are zero. snap: tiles cut to whole bits, without
training for it; no_regularizer: after as many further epochs without a penalty; gated_<strength>: with the variance of
the columns' density in each tile as a penalty that acts on denser columns alone; ungated: on all. group_lasso and s_dub
(tiles emptied first) where asked. All are trained on with their zeros kept. improvement: bits of all converters over
those that are left; improvement_weighted: each tile as often as its layer has positions. accuracy_adc: by converters of
just these bits, accuracy_adc_exact: of one more. clip_<bits>: the dense network through converters of so few bits: what
they save needs no pruning.
"""

import dataclasses
from typing import Literal

from experiments.adc_pruning import methods, protocol, report
from experiments.families import classifier
from experiments.harness import runner


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train a classifier, train it on for its crossbars, prune it, count the bits of its converters."""

    methods: tuple[str, ...] = ("lbl", "snap", "no_regularizer", "ungated", "gated")
    """What is compared: lbl, snap, no_regularizer, ungated, gated, group_lasso, s_dub."""
    variances: tuple[float, ...] = (0.001, 0.005, 0.02)
    """Strengths of the gated penalty, each a network of its own."""
    variance: float = 0.005
    """Strength of the penalty without its gate, and in s_dub."""
    lasso: float = 5e-4
    """Strength of the group lasso, in group_lasso and s_dub."""
    rows: int = 16
    """Inputs of a crossbar, and as many outputs: a power of two."""
    percentiles: tuple[float, ...] = (30.0, 85.0, 90.0)
    """Share (%) of each layer's weights that count as zeros, in the order of the layers; without values: by a scan."""
    max_drop: float = 0.01
    """Accuracy that one layer may lose in the scan."""
    clip_bits: tuple[int, ...] = (4, 3, 2, 1)
    """Bits of the converters that the dense network is run through."""
    snap: Literal["fix", "tol"] = "fix"
    """What counts as zero: fix: the percentiles; tol: magnitudes up to --tolerance."""
    tolerance: float = 1e-3
    """Largest magnitude of a zero, with --snap tol."""
    adc_model: Literal["linear", "exponential", "sar", "puma", "neurosim"] = "linear"
    """Energy of a conversion against its bits."""
    include_dense: bool = False
    """Dense layers too, the classifier among them, lie in crossbars."""
    prune_epochs: int = 20
    """Passes over the training set with a penalty."""
    prune_lr: float = 0.05
    """Their learning rate; momentum .9, the schedule is --schedule."""
    prune_decay: float = 5e-4
    """Their L2 penalty, which makes weights small."""
    finetune_epochs: int = 8
    """Passes after pruning, convolutions alone, SGD without momentum."""
    finetune_lr: float = 0.01
    """Their learning rate."""
    finetune_drops: tuple[int, ...] = (3, 5)
    """Passes after which it falls by ten."""
    calibration: int = 1000
    """Training images, the first ones, for the ranges of the converted network, and for the scan."""
    adc_images: int | None = None
    """Test images through converters, the first ones; all when not given."""
    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    model: str = "cnn"
    """Network: any of nn.build with convolutions."""
    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each convolution."""
    network_args: tuple[str, ...] = ("pools=[1,3]", 'init="uniform"')
    """Further arguments of the network as NAME=VALUE; see nn.build."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Schedule of the learning rate over the steps."""
    weight_decay: float = 5e-4
    """L2 penalty of the classifier."""
    epochs: int = 20
    """Passes over the training set."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=192, widths=(4, 8), network_args=("pools=[1]", 'init="uniform"'), rows=4, epochs=8, batch=16,
        prune_epochs=3, finetune_epochs=1, finetune_drops=(), percentiles=(40.0, 80.0), calibration=64, adc_images=60,
        methods=("lbl", "snap", "ungated", "gated"), variances=(0.001, 0.02), clip_bits=(2, 1),
    ),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", model="vgg", widths=(64, 128, 256, 256, 512, 512, 512, 512), augment=True, batch=128,
        network_args=('norm="none"', "pools=[1,2,4,6,8]", "dense=[512,512]", 'init="uniform"'), rows=32,
        percentiles=(2.37, 70.0, 75.0, 75.0, 90.0, 98.67, 99.84, 99.86), schedule="step", epochs=60, prune_epochs=60,
        prune_lr=0.01, prune_decay=1e-3, finetune_epochs=30, finetune_drops=(15, 25), variances=(0.001,),
        variance=0.001, methods=("lbl", "snap", "gated", "s_dub"), adc_images=1000, seeds=1,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint:
        config = classifier.adopt(config)
    methods.check(config)
    shared = classifier.setup(config)
    bench = methods.bench(config, shared)
    found = [protocol.one_seed(config, shared, bench, seed) for seed in runner.seeds(config)]
    each = [figures_of(one) for one in found]
    figures, std = runner.over_seeds(each)
    rows = [
        {"seed": seed, "network": name} | {kind: float(arrays[kind]) for kind in protocol.KINDS if kind in arrays}
        for seed, one in zip(runner.seeds(config), found, strict=True)
        for name, arrays in one.items()
    ]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(config, figures, found), rows
    )


def figures_of(one: dict[str, protocol.Arrays]) -> dict[str, float]:
    """The plain numbers of one seed: <kind>/<network>."""
    return {
        f"{kind}/{name}": float(arrays[kind])
        for kind in protocol.KINDS
        for name, arrays in one.items()
        if kind in arrays
    }


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    saved = {name.removeprefix("improvement/"): value for name, value in figures.items() if "improvement/" in name}
    steps = {"gated_0.02": ("gated_0.005", 0.3), "gated_0.005": ("gated_0.001", 0.2),
             "gated_0.001": ("no_regularizer", 0.15), "no_regularizer": ("lbl", 0.2)}  # fmt: skip
    names = [name for name in saved if not name.startswith("clip_") and name != "dense"]
    worst = min(figures[f"accuracy/{name}"] for name in names) - figures["accuracy/dense"]
    exact = figures["accuracy_adc_exact/gated_0.005"] - figures["accuracy/gated_0.005"]
    return [
        *(runner.Claim(f"improvement/{more} above {less}", saved[more] - saved[less], least)
          for more, (less, least) in steps.items()),
        runner.Claim("improvement/no_regularizer above ungated", saved["no_regularizer"] - saved["ungated"], -0.1),
        runner.Claim("lowest accuracy above accuracy/dense", worst, -0.02),
        runner.Claim("penalty/dense over penalty/gated_0.005",
                     figures["penalty/dense"] / figures["penalty/gated_0.005"], 100.0),
        runner.Claim("accuracy_adc_exact/gated_0.005 above accuracy", exact, -0.02),
    ]  # fmt: skip
