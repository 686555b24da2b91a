"""What the counts choose, what the bits cost and reach: the pictures and tables of mixed_precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.harness import plots, report
from subspace_jax.core.costs import FULL_BITS, Energy

if TYPE_CHECKING:
    from experiments.mixed_precision.experiment import Config
    from experiments.mixed_precision.protocol import Found


def sections(config: Config, figures: dict[str, float], one: Found, energy: dict[str, Energy]) -> list[report.Section]:
    """Accuracy and energy over all seeds; counts, plans and energy by layer of the first."""
    return [reached(config, figures, one), counted(config, figures, one), planned(config, one), layers(config, energy)]


def reached(config: Config, figures: dict[str, float], one: Found) -> report.Section:
    """Accuracy against energy for every network."""
    places = {n: (figures[f"energy_efficiency/{n}"], figures[f"accuracy/{n}"]) for n in one.networks}
    x = "energy efficiency: energy in 32 bits over that of the network"
    drawn = plots.points(config.workdir, "accuracy_energy", places, x=x, y="test accuracy")
    head = ("network", "bits of the first seed", "accuracy", "energy efficiency", "memory compression")
    kinds = "accuracy", "energy_efficiency", "memory_compression"
    cells = [
        (name, written(one.plans[name]), *(f"{figures[f'{kind}/{name}']:.3f}" for kind in kinds))
        for name in one.networks
    ]
    text = (
        "Means over the seeds; all networks of a seed start from the same values and see the same batches. first_, "
        "last_ and random_ give the bits to as many other layers: where they reach as much, counting chose no better."
    )
    return report.Section("What the bits reach", text, (drawn,), (head, *cells))


def counted(config: Config, figures: dict[str, float], one: Found) -> report.Section:
    """The counts of each binary layer, with the jumps marked."""
    names, values = list(one.counts), list(one.counts.values())
    marked = [one.plans[f"hybrid_{max(config.bits)}"][i] > 1 for i in range(1, 1 + len(names))]
    groups = {side: [k if mark == hit else 0 for k, mark in zip(values, marked, strict=True)]
              for side, hit in {"binary": False, "significant": True}.items()}  # fmt: skip
    y = f"components up to {config.tau} of the variance"
    drawn = plots.bars(config.workdir, "counts", groups, labels=names, x="layer", y=y)
    rows = [(n, k, f"{figures[f'dims/{n}']:.1f}", f"{figures[f'significant/{n}']:.2f}") for n, k in one.counts.items()]
    text = f"A layer is significant where the count rises by {config.delta} or more. Bars: first seed."
    head = ("layer", "count, first seed", "count, mean", "share of seeds in which it is significant")
    return report.Section("What is counted", text, (drawn,), (head, *rows))


def planned(config: Config, one: Found) -> report.Section:
    """The bits of every layer of every network, as strips."""
    matrix = np.array([np.log2(plan) for plan in one.plans.values()])
    columns = [f"conv{i}" for i in range(matrix.shape[1])]
    drawn = plots.heatmap(config.workdir, "plans", matrix, rows=list(one.plans), columns=columns, x="layer",
                          y="network", format=".0f")  # fmt: skip
    text = "Base-2 logarithm of the bits: 0 is binary, 5 is 32 bits. The classifier has 32. First seed."
    return report.Section("Bits by layer", text, (drawn,))


def layers(config: Config, energy: dict[str, Energy]) -> report.Section:
    """Where the energy goes: the first and the last layer, in 32 bits, weigh more the fewer bits the others have."""
    shown = [name for name in energy if name != "full"]
    labels = list(energy[shown[0]].layers)
    groups = {name: [energy[name].layers[layer] / 1e3 for layer in labels] for name in shown}
    drawn = plots.bars(config.workdir, "energy", groups, labels=labels, x="layer", y="nanojoule an image (estimate)")
    head = ("network", "nanojoule an image", "share of the layers in 32 bits")
    rows = []
    for name, spent in energy.items():
        wide = sum(spent.layers[layer] for layer in (labels[0], labels[-1]))
        rows.append((name, f"{spent.total / 1e3:.2f}", f"{wide / spent.total:.2f}"))
    text = "The model counts each input and weight once and each multiply-accumulate at its bits (45 nm). First seed."
    return report.Section("Where the energy goes", text, (drawn,), (head, *rows))


def written(plan: tuple[int, ...]) -> str:
    """Bits of each convolution; a dash for 32."""
    return " ".join("-" if bits == FULL_BITS else str(bits) for bits in plan)
