"""What pruning saves beside what a clipped converter saves, bins layer by layer, tiles of zeros, the penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.adc_pruning.protocol import KINDS
from experiments.harness import plots, report
from subspace_jax.core import costs
from subspace_jax.hardware import conversion

if TYPE_CHECKING:
    from experiments.adc_pruning.experiment import Config
    from experiments.adc_pruning.protocol import Arrays

ACROSS = 16  # tiles of a picture

Found = list[dict[str, "Arrays"]]  # of each seed, by network


def sections(config: Config, figures: dict[str, float], found: Found) -> list[report.Section]:
    """What is saved first, then where it comes from."""
    shown = [saved(config, figures, found), weighted(config, figures, found), bins(config, found[0])]
    shown.append(zeros(config, found[0]))
    if any("history" in arrays for arrays in found[0].values()):
        shown.append(penalties(config, found))
    return [*shown, models(config, found)]


def pruned(found: Found) -> list[str]:
    """Names of the pruned networks."""
    return [name for name in found[0] if name != "dense" and not name.startswith("clip_")]


def saved(config: Config, figures: dict[str, float], found: Found) -> report.Section:
    """Accuracy against improvement: pruned networks, and the dense one through clipped converters."""
    clips = [name for name in found[0] if name.startswith("clip_")]
    groups = {"dense, fewer bits": sorted(clips, key=lambda name: figures[f"improvement/{name}"])} if clips else {}
    groups |= {name.replace("_", " "): [name] for name in [*([] if clips else ["dense"]), *pruned(found)]}
    lines: dict[str, tuple[Any, Any]] = {
        legend: ([figures[f"improvement/{name}"] for name in names], [figures[f"accuracy/{name}"] for name in names])
        for legend, names in groups.items()
    }
    drawn = plots.curves(config.workdir, "saved", lines, x="improvement: bits of all converters over those left",
                         y="test accuracy")  # fmt: skip
    head = ("network", *(kind.replace("_", " ") for kind in KINDS))
    rows = [
        (name, *(f"{figures[key]:.4f}" if (key := f"{kind}/{name}") in figures else "" for kind in KINDS))
        for name in found[0]
    ]
    text = (
        f"Crossbars of {config.rows} rows; means over the seeds. The line is the network as it was trained, through "
        "converters with fewer bits for every tile: it clips and costs no training, so that only what lies beyond it "
        "is due to pruning. accuracy adc: each tile's converter has the bits that the improvement counts, and clips "
        "full columns; exact: one bit more, and no sum is clipped. 4-bit inputs and weights, other layers digital."
    )
    return report.Section("What pruning saves", text, (drawn,), (head, *rows))


def weighted(config: Config, figures: dict[str, float], found: Found) -> report.Section:
    """Each tile once, and as often as it converts."""
    names = pruned(found)
    groups = {
        legend: [figures[f"{kind}/{name}"] for name in names]
        for legend, kind in {"each tile once": "improvement", "by positions": "improvement_weighted"}.items()
    }
    drawn = plots.bars(config.workdir, "weighted", groups, labels=names, x="network", y="improvement")
    text = "The first layers have few tiles and many positions: where they keep their bits, the second figure is lower."
    return report.Section("By conversions, not by tiles", text, (drawn,))


def bins(config: Config, one: dict[str, Arrays]) -> report.Section:
    """How many bits the tiles of each layer need, before and after."""
    names = [name for name in one if name in ("snap", "lbl", "no_regularizer")][-1:] + last_gated(one)
    top, drawn = config.rows.bit_length(), []
    for name in names:
        groups = {}
        for path, own in bins_of(one[name]).items():
            counts = np.bincount(own.ravel(), minlength=top + 1)
            groups[path.removesuffix("/kernel")] = counts / counts.sum()
        labels = [max(top - 1 - k, 0) if k < top else "empty" for k in range(top + 1)]
        drawn.append(
            plots.bars(config.workdir, f"bins_{name}", groups, labels=labels, x=f"bits, {name}", y="share of tiles")
        )
    text = (
        f"First seed. A tile without a zero needs {top - 1} bits by the model; half the weights of every column gone "
        f"save one. Before any pruning all tiles need {top - 1}."
    )
    return report.Section("Bits of the tiles", text, tuple(drawn))


def zeros(config: Config, one: dict[str, Arrays]) -> report.Section:
    """What is left of the last kernel."""
    drawn = []
    for name in [*(name for name in ("lbl",) if name in one), *last_gated(one)]:
        left = one[name]["zeros"][:, : ACROSS * config.rows]
        figure, ax = plots.axes(9, 0.8 + 9 * min(len(left) / left.shape[1], 0.6))
        ax.imshow(left, cmap="Blues", vmin=0, vmax=1.4, aspect="auto", interpolation="nearest")
        for axis, size in zip((ax.axhline, ax.axvline), left.shape, strict=True):
            for at in range(config.rows, size, config.rows):
                axis(at - 0.5, color=plots.COLORS[1], lw=0.6)
        ax.set(xlabel="inputs, channel by channel", ylabel="outputs", title=name)
        drawn.append(plots.save(figure, config.workdir, f"zeros_{name}"))
    text = (
        f"Last layer in crossbars, first seed, up to {ACROSS} tiles across: weights that are left are blue, tiles have "
        "red borders. A column is a row of the picture within a tile: the fullest one decides."
    )
    return report.Section("One layer's tiles", text, tuple(drawn))


def penalties(config: Config, found: Found) -> report.Section:
    """The variance of the columns' density over the epochs."""
    lines = {}
    for name in pruned(found):
        if "history" in found[0][name]:
            values = np.mean([one[name]["history"] for one in found], axis=0)
            lines[name] = np.arange(len(values)), np.maximum(values, 1e-6)
    drawn = plots.curves(
        config.workdir, "penalty", lines, x="epoch with a penalty", y="variance, all tiles", log_y=True
    )
    text = (
        "Without the gate the variance falls as far as with it, but because sparse columns become denser: columns of "
        "one density save nothing if they are all dense."
    )
    return report.Section("The penalty", text, (drawn,))


def models(config: Config, found: Found) -> report.Section:
    """The improvement by every model of a converter."""
    rows = []
    for name in pruned(found):
        each = [[conversion.improvement(bins_of(one[name]), config.rows, model=model) for one in found]
                for model in costs.CONVERSIONS]  # fmt: skip
        rows.append((name, *(f"{np.mean(values):.2f}" for values in each)))
    sources = "; ".join(f"{name}: {own.source}" for name, own in costs.CONVERSIONS.items())
    text = f"Each tile once. {sources}."
    return report.Section("By other models of a converter", text, (), (("network", *costs.CONVERSIONS), *rows))


def last_gated(one: dict[str, Arrays]) -> list[str]:
    """The network with the strongest gated penalty, where there is one."""
    return [name for name in one if name.startswith("gated_")][-1:]


def bins_of(arrays: Arrays) -> dict[str, np.ndarray]:
    """{path: bin of each tile}."""
    return {key.removeprefix("bins/"): own for key, own in arrays.items() if key.startswith("bins/")}
