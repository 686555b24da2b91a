"""How many filters and layers does a network need? Counted in one pass, trained once, beside uniform scaling.

    uv run python -m experiments.pca_design                                    (digits, six convolutions, 3 seeds)
    uv run python -m experiments.pca_design --checkpoint runs/memorization/1   (a trained network)
    uv run python -m experiments.memorization --checkpoint runs/pca_design/1/designs/tau_0.95
    expected: at tau .95 a quarter of the parameters or less, at .99 65 % or less, accuracy within .02; 2 min on 2 cores
    paper:    CIFAR-10/100, ImageNet: up to 3.8 times fewer operations, 9 times fewer parameters, < 1 % accuracy lost
              (arXiv 1812.06224, abstract)

Each layer gets as many filters as principal components of its response hold the share tau of the variance; `depth` also
drops the layers after which the counts fall. uniform_<t>: one factor on all widths, as many multiply-accumulates;
dims_untrained: the same count before any training. At this size both are as good as the design and its counts.
"""

import dataclasses
from typing import Any, Literal

from experiments.families import classifier
from experiments.harness import runner
from experiments.pca_design import methods, protocol, report
from subspace_jax import data, nn
from subspace_jax.core.subspace import significant_dims


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train a network, count what each layer needs, train the smaller networks from fresh values."""

    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    model: str = "cnn"
    """Network: mlp, cnn, vgg, vgg11 or vgg16, see nn.build; its widths are --widths."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Schedule of the learning rate over the steps."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 12
    """Passes over the training set, for each network."""
    taus: tuple[float, ...] = (0.999, 0.99, 0.95)
    """Shares of the variance to keep, each in (0, 1) and a design of its own."""
    rule: Literal["reach", "below"] = "reach"
    """Count the components that reach tau, or those whose share stays below it, one fewer."""
    depth: bool = True
    """Also train designs without the layers after which the counts fall."""
    slack: float = 0.05
    """Fall of the count that is not one yet."""
    min_width: int = 4
    """Fewest filters of a layer."""
    multiple_of: int = 1
    """Round widths up to a multiple of this; 8 or 16 suits accelerators."""
    controls: tuple[str, ...] = ("uniform", "untrained")
    """What stands beside the designs: uniform, random_widths, untrained."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, widths=(6, 8), network_args=("pools=[1]",), epochs=3, taus=(0.9,), min_width=2
    ),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", model="vgg", augment=True, dtype="bfloat16", lr=0.1, schedule="one_cycle", batch=256,
        weight_decay=5e-4, epochs=50, controls=("uniform", "random_widths", "untrained"), seeds=1,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    config = classifier.adopt(config) if config.checkpoint else config
    full = methods.chain(config.model, {})  # refuses other networks before data is read
    shared = classifier.setup(config)
    full = methods.chain(config.model, classifier.network_arguments(config, shared.classes))
    table = protocol.layers(nn.build(full.name, **full.arguments), data.inputs(shared.columns))
    found = [protocol.one_seed(config, shared, full, seed) for seed in runner.seeds(config)]
    each = [figures_of(config, one) for one in found]
    figures, std = runner.over_seeds(each)
    rows = [
        {"seed": one.seed, "network": name, "widths": arrays["widths"].tolist()} | plain(arrays)
        for one in found
        for name, arrays in one.networks.items()
    ]
    return runner.Summary(
        figures,
        std,
        runner.judged(claims, config, figures, each),
        report.sections(config, figures, table, found[0]),
        rows,
    )


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    if not config.taus or not all(0 < tau < 1 for tau in config.taus):
        raise ValueError(f"--taus are one or more shares of the variance in (0, 1); got {config.taus}.")
    if not 0 <= config.slack < 1 or min(config.min_width, config.multiple_of) < 1:
        raise ValueError(
            f"--slack is in [0, 1), --min-width and --multiple-of are at least 1; got {config.slack}, "
            f"{config.min_width} and {config.multiple_of}."
        )
    if unknown := [name for name in config.controls if name not in methods.CONTROLS]:
        raise ValueError(f"--controls are {', '.join(methods.CONTROLS)}; got {unknown[0]!r}.")


def figures_of(config: Config, one: protocol.Found) -> dict[str, float]:
    """The plain numbers of one seed."""
    found = {}
    for name, arrays in one.networks.items():
        own, full = plain(arrays), plain(one.networks["full"])
        found[f"accuracy/{name}"] = own["accuracy"]
        for kind in ("parameters", "macs"):
            found[f"{kind}_ratio/{name}"] = own[kind] / full[kind]
    for kind, spectra in {"dims": one.measured, "dims_untrained": one.untrained}.items():
        for layer in spectra:
            for tau in config.taus:
                dims = significant_dims(layer.eigenvalues, tau=tau, rule=config.rule)
                found[f"{kind}/{report.called(layer.path)}/tau_{tau}"] = float(dims)
    design = next(iter(one.designs.values()))
    found |= {f"participation/{report.called(line.path)}": line.participation for line in design.report}
    if config.depth:
        found["depth_kept"] = float(sum(one.designs[f"depth_{config.taus[0]}"].keep))
    return found


def plain(arrays: protocol.Arrays) -> dict[str, Any]:
    """The single numbers among the arrays of a network."""
    return {name: value.item() for name, value in arrays.items() if value.ndim == 0}


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    size = {tau: figures[f"parameters_ratio/tau_{tau}"] for tau in config.taus}
    change = figures["accuracy/tau_0.95"] - figures["accuracy/full"]
    return [
        runner.Claim("minus parameters_ratio/tau_0.95", -size[0.95], -0.25),
        runner.Claim("minus parameters_ratio/tau_0.99", -size[0.99], -0.65),
        runner.Claim("accuracy/tau_0.95 above accuracy/full", change, -0.02),
        runner.Claim("parameters fall with tau", min(size[0.999] - size[0.99], size[0.99] - size[0.95]), 0.0),
    ]
