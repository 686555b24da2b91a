"""Accuracy chip by chip, against deviation and converter bits, delay and energy layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.harness import plots, report
from experiments.in_memory.protocol import RATIOS, STRESS
from subspace_jax.hardware.products import UNIT, product_table
from subspace_jax.hardware.waveform import bitline_waveform

if TYPE_CHECKING:
    from experiments.in_memory.experiment import Config
    from experiments.in_memory.protocol import Arrays

LINES = {"float": "-", "quantized": "--"}
SHOWN = 11, 12  # weight and input of the waveforms: three lines fall, one stays


def sections(config: Config, figures: dict[str, float], found: list[Arrays]) -> list[report.Section]:
    """Chips first, then what decides, then what it costs."""
    shown = [chips(config, figures, found), swept(config, figures, found)]
    if config.level == "circuit":
        shown += [circuit(config, figures, found), table(config), waveform(config)]
    return [*shown, costs(config, figures, found[0])]


def chips(config: Config, figures: dict[str, float], found: list[Arrays]) -> report.Section:
    """How much one chip differs from the next."""
    figure, ax = plots.axes()
    groups = {name: np.concatenate([one[f"chips/{name}"] for one in found]) for name in ("app", "app_sigma_3")}
    legends = f"deviation {config.sigma:g}", f"deviation {STRESS:g}"
    ax.hist(list(groups.values()), bins=30, label=legends, color=plots.COLORS[:2], histtype="stepfilled", alpha=0.6)
    for name, style in LINES.items():
        ax.axvline(figures[f"accuracy/{name}"], ls=style, color="black", lw=1, label=f"{name}, mean over seeds")
    ax.set(xlabel="test accuracy of a chip", ylabel="chips, all seeds")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    drawn = plots.save(figure, config.workdir, "chips")
    head = ("", "accuracy", "deviation over chips", "worst chip")
    plain = [(name, f"{figures[f'accuracy/{name}']:.4f}", "", "") for name in LINES]
    rows = [(name, f"{figures[f'accuracy/{name}']:.4f}", f"{figures[f'chip_std/{name}']:.4f}",
             f"{figures[f'chip_min/{name}']:.4f}") for name in groups]  # fmt: skip
    text = (
        f"{config.chips} chips a seed: {config.bits}-bit magnitudes, {config.rows} products a conversion, "
        f"{config.adc_bits}-bit converters. All chips of a seed hold the same network."
    )
    return report.Section("How accurate is a chip?", text, (drawn,), (head, *plain, *rows))


def swept(config: Config, figures: dict[str, float], found: list[Arrays]) -> report.Section:
    """Accuracy against the deviation of a conversion, and against the bits of a converter."""
    sigmas = along(found, "sigma/") | {config.sigma: figures["accuracy/app"], STRESS: figures["accuracy/app_sigma_3"]}
    bits = along(found, "bits/") | {float(config.adc_bits): figures["accuracy/app"]}
    labels = {"deviation": "deviation of a conversion, in steps", "bits": f"bits of a converter, at {config.sigma:g}"}
    drawn = []
    for (name, x), places in zip(labels.items(), (sigmas, bits), strict=True):
        at = sorted(places)
        lines = {"chips, mean": (at, [places[key] for key in at])}
        lines |= {plain: ([at[0], at[-1]], [figures[f"accuracy/{plain}"]] * 2) for plain in LINES}
        drawn.append(plots.curves(config.workdir, f"accuracy_{name}", lines, x=x, y="test accuracy"))
    text = "Ranges are those of the calibration images; the deviation counts in steps, which more bits make finer."
    return report.Section("What decides?", text, tuple(drawn))


def circuit(config: Config, figures: dict[str, float], found: list[Arrays]) -> report.Section:
    """What the range of a converter decides, beside the sums that it has to tell apart."""
    own = {name: along(found, f"swept/circuit_{name}/") for name in ("calibrated", "full_range")}
    lines = {}
    for name, places in own.items():
        places[float(config.adc_bits)] = figures[f"accuracy/circuit_{name}"]
        lines[name.replace("_", " ")] = sorted(places), [places[key] for key in sorted(places)]
    ends = [min(own["calibrated"]), max(own["calibrated"])]
    lines["no converter"] = ends, [figures["accuracy/circuit_no_adc"]] * 2
    drawn = plots.curves(config.workdir, "circuit_bits", lines, x="bits of a converter", y="test accuracy")
    names, sums = layers(found[0]), 1000 * found[0]["sums"]
    full = 1000 * config.rows * product_table(config.table, config.bits)[-1, -1]
    heights = {"99.9 % of sums are below": sums[:, 1], "one step of the full range": [full / (2**config.adc_bits - 1)] *
               len(names), "end of the full range": [full] * len(names)}  # fmt: skip
    ranges = plots.bars(config.workdir, "ranges", heights, labels=names, x="layer", y="sum of a group (mV), first seed")
    text = (
        "The full range spans the largest products that a group can hold, which no group of a trained network does: "
        "most sums are below a few of its steps. A range from training images tells them apart."
    )
    rows = [(key.removeprefix("accuracy/"), f"{value:.4f}") for key, value in figures.items()
            if key.startswith("accuracy/circuit")]  # fmt: skip
    return report.Section("By the simulated circuit", text, (drawn, ranges), (("circuit", "accuracy"), *rows))


def table(config: Config) -> report.Section:
    """The products, and how far they are from linear ones."""
    own, codes = 1000 * product_table(config.table, config.bits), range(2**config.bits)
    shown = {"products": own, "products_linear": 1000 * UNIT * np.outer(codes, codes)}
    drawn = [
        plots.heatmap(config.workdir, name, matrix, rows=codes, columns=codes, x="input", y="weight", format=".0f")
        for name, matrix in shown.items()
    ]
    text = f"Millivolt of each product: {config.table}, and below it {1000 * UNIT} mV a unit of weight times input."
    return report.Section("What a product is", text, tuple(drawn))


def waveform(config: Config) -> report.Section:
    """The lines of one weight while it is multiplied."""
    drawn, (w, v) = [], SHOWN
    found = bitline_waveform(w, v)
    bits = {f"bit {bit}, holds {w >> bit & 1}": line for bit, line in enumerate(found.bit_lines.T)}
    for name, lines in {"word_line": {"word line": found.word_line}, "bit_lines": bits}.items():
        each = {legend: (found.time, line) for legend, line in lines.items()}
        drawn.append(plots.curves(config.workdir, name, each, x="ns", y="volt"))
    text = (
        f"Weight {w} by input {v}, ideal and without noise: the input is the height of the pulse on the word line, a "
        "bit's significance the time for which its line discharges. Then the four lines share their charge and end "
        f"{1000 * found.product:.0f} mV below where they started, which is the product."
    )
    return report.Section("One product in time", text, tuple(drawn))


def layers(one: Arrays) -> list[str]:
    """Names of the layers in the array."""
    return [str(name).removeprefix("params/").removesuffix("/kernel") for name in one["in_array"]]


def along(found: list[Arrays], prefix: str) -> dict[float, float]:
    """{place: mean over the seeds} of what was swept."""
    names = [key for key in found[0] if key.startswith(prefix)]
    return {float(key.removeprefix(prefix)): float(np.mean([one[key] for one in found])) for key in names}


def costs(config: Config, figures: dict[str, float], one: Arrays) -> report.Section:
    """Delay and energy of one image, layer by layer."""
    names = [str(name).removeprefix("params/").removesuffix("/kernel") for name in one["layers"]]
    drawn = []
    for number, (kind, y) in enumerate((("delay", "delay (ns)"), ("energy", "energy (pJ)"))):
        groups = {"in memory": one["costs"][:, 0, number], "processor": one["costs"][:, 1, number]}
        drawn.append(plots.bars(config.workdir, kind, groups, labels=names, x="layer", y=y))
    head = ("processor over memory", "delay", "energy", "product of both")
    rows = [(name, *(f"{figures[f'system/{name}/{ratio}']:.2f}" for ratio in RATIOS)) for name in ("lenet5", "network")]
    text = "One image, one layer after the other, by the model of the published system; LeNet-5 reads 28x28 images."
    return report.Section("What does it cost?", text, tuple(drawn), (head, *rows))
