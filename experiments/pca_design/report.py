"""What each layer needs, what the smaller networks cost and reach: the pictures and tables of pca_design."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import plots, report
from subspace_jax.core import capture
from subspace_jax.core.subspace import significant_dims

if TYPE_CHECKING:
    from experiments.pca_design.experiment import Config
    from experiments.pca_design.protocol import Found

CEILING = 8  # nines of variance that are drawn
FAMILIES = {
    "tau": "design",
    "depth": "design, layers dropped",
    "uniform": "uniform widths",
    "random": "permuted widths",
}


def called(path: str) -> str:
    """A layer without the name of its leaf."""
    return path.removesuffix("/kernel")


def sections(config: Config, figures: dict[str, float], table: capture.Layers, one: Found) -> list[report.Section]:
    """Costs and accuracies over all seeds; counts, spectra and drawings of the first."""
    return [reached(config, figures, one), counts(config, one), spectra(config, one), drawing(config, table, one)]


def reached(config: Config, figures: dict[str, float], one: Found) -> report.Section:
    """Accuracy against multiply-accumulates and against parameters."""
    drawn = []
    for kind, x in {"macs": "multiply-accumulates left", "parameters": "parameters left"}.items():
        lines: dict[str, tuple[Any, Any]] = {}
        for family, legend in FAMILIES.items():
            names = sorted((name for name in one.networks if name.startswith(f"{family}_")),
                           key=lambda name: figures[f"{kind}_ratio/{name}"])  # fmt: skip
            if names:
                lines[legend] = tuple(np.transpose([(figures[f"{kind}_ratio/{n}"], figures[f"accuracy/{n}"])
                                                    for n in names]))  # fmt: skip
        lines["full"] = ([1.0], [figures["accuracy/full"]])
        drawn.append(plots.curves(config.workdir, f"accuracy_{kind}", lines, x=x, y="test accuracy"))
    head = ("network", "accuracy", "parameters left", "operations left", "widths of the first seed")
    kinds = "accuracy", "parameters_ratio", "macs_ratio"
    rows = [
        (name, *(f"{figures[f'{kind}/{name}']:.4f}" for kind in kinds), listed(arrays["widths"].tolist()))
        for name, arrays in one.networks.items()
    ]
    text = (
        "Means over the seeds. tau_: every layer as wide as its count; depth_: without the layers after which the "
        "count falls; uniform_: one factor on all widths, as many operations. All were trained once, from fresh values."
    )
    return report.Section("What the smaller networks reach", text, tuple(drawn), (head, *rows))


def counts(config: Config, one: Found) -> report.Section:
    """The count of each layer beside its width and the count before training."""
    layers = {"full width": [layer.width for layer in one.measured]}
    for tau in config.taus:
        layers[f"tau {tau}"] = dims(config, one.measured, tau)
        if one.untrained:
            layers[f"tau {tau}, untrained"] = dims(config, one.untrained, tau)
    names = [called(layer.path) for layer in one.measured]
    drawn = plots.bars(config.workdir, "counts", layers, labels=names, x="layer", y="significant dimensions")
    design = next(iter(one.designs.values()))
    lines = [
        (names[i], layer.width, layer.rows, f"{design.report[i].participation:.1f}", *(own[i] for own in counted))
        for i, layer in enumerate(one.measured)
        for counted in [list(layers.values())[1:]]
    ]
    head = ("layer", "filters", "rows", "participation ratio", *list(layers)[1:])
    text = (
        "First seed. Where the untrained network has the same count, it tells what data and kernels allow, not what "
        "was learned. A participation ratio near 1 means that one direction dominates, and every tau is loose."
    )
    return report.Section("What each layer needs", text, (drawn,), (head, *lines))


def dims(config: Config, layers: Sequence[Any], tau: float) -> list[int]:
    return [int(significant_dims(layer.eigenvalues, tau=tau, rule=config.rule)) for layer in layers]


def spectra(config: Config, one: Found) -> report.Section:
    """Kept variance against the number of components, and where each tau cuts."""
    lines = {}
    for layer in one.measured:
        share = np.cumsum(layer.eigenvalues) / layer.eigenvalues.sum()
        lines[called(layer.path)] = 1 + np.arange(len(share)), -np.log10(np.maximum(1 - share, 10.0**-CEILING))
    ends = np.array([1, max(layer.width for layer in one.measured)])
    lines |= {f"tau {tau}": (ends, np.full(2, -math.log10(1 - tau))) for tau in config.taus}
    x, y = "principal components", "kept variance: 1, 2, 3 for .9, .99, .999"
    drawn = plots.curves(config.workdir, "spectra", lines, x=x, y=y, log_x=True)
    text = "A layer reaches the line of a tau at the number of filters that its design has. First seed."
    return report.Section("Spectra of the responses", text, (drawn,))


def drawing(config: Config, table: capture.Layers, one: Found) -> report.Section:
    """The full network and its designs, to scale."""
    sides = [math.sqrt(layer.rows) for layer in table.values()][:-1]
    shown = {"full": [layer.width for layer in one.measured]}
    shown |= {name: [line.width for line in design.report] for name, design in one.designs.items()}
    rows = {name: list(zip(sides, widths, strict=True)) for name, widths in shown.items()}
    drawn = plots.blocks(config.workdir, "networks", rows)
    text = "Height: side of the map; breadth: filters. A layer that is gone leaves its place empty. First seed."
    return report.Section("Old and new networks", text, (drawn,))


def listed(widths: list[int]) -> str:
    return ", ".join(map(str, widths))
