"""Accuracy beside energy, the image frequency by frequency, spikes through the layers: the pictures of spiking_dct."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.families import spiking
from experiments.harness import plots, report

if TYPE_CHECKING:
    from experiments.spiking_dct.experiment import Config
    from experiments.spiking_dct.protocol import Arrays

SHOWN = 8  # frames in a row
COUNTS = "energy_ratio", "energy_ratio_rate"


def sections(config: Config, figures: dict[str, float], names: list[str], one: Arrays) -> list[report.Section]:
    """Means over the seeds first; pictures of the first one."""
    found = [frontier(config, figures), steps(config, figures)]
    if "frames" in one:
        read = {name: one[f"raster/{name}/kernel"] for name in names}
        text = f"The first test image on its way through the layers, {config.order}."
        found += [
            frames(config, one), spiking.report.raster(config.workdir, names, read, text),
            spiking.report.layers(config.workdir, names[:-1], figures, one),
        ]  # fmt: skip
    return found


def reached(figures: dict[str, float]) -> list[str]:
    """Names of the spiking networks."""
    names = [key.removeprefix("energy_ratio/") for key in figures if key.startswith("energy_ratio/")]
    return [name for name in names if f"accuracy/{name}" in figures]


def frontier(config: Config, figures: dict[str, float]) -> report.Section:
    """Whether the frequencies were worth it."""
    names = reached(figures)
    places = {name: (figures[f"energy_ratio/{name}"], figures[f"accuracy/{name}"]) for name in names}
    places["classifier"] = 1.0, figures["accuracy/ann"]
    x, y = "energy of the classifier over that of the network, every addition counted", "test accuracy"
    drawn = plots.points(config.workdir, "accuracy_energy", places, x=x, y=y)
    best = max((name for name in names if name.startswith("dct")), key=lambda name: figures[f"accuracy/{name}"],
               default="")  # fmt: skip
    text = "Further right is cheaper. An addition takes .9 pJ, a multiply-accumulate 4.6 pJ; memory is left out. "
    if best:
        others = [name for name in names if name.startswith(("poisson", "direct"))
                  and places[name][0] >= places[best][0] and places[name][1] >= places[best][1]]  # fmt: skip
        text += f"The most accurate network on frequencies is {best}; as cheap or cheaper and as accurate or more: "
        text += f"{', '.join(others) or 'none'}. "
    text += "keep_K sees the K coarsest frequencies, without tuning; ENCODER_T is tuned at T steps with update_first."
    rows = [(name, f"{figures[f'accuracy/{name}']:.4f}", *(f"{figures[f'{kind}/{name}']:.2f}" for kind in COUNTS))
            for name in names]  # fmt: skip
    head = ("network", "accuracy", "energy ratio, additions counted", "energy ratio, papers' formula")
    table = (head, ("classifier", f"{figures['accuracy/ann']:.4f}", "1.00", "1.00"), *rows)
    return report.Section("Was it worth it? Accuracy against energy", text, (drawn,), table)


def steps(config: Config, figures: dict[str, float]) -> report.Section:
    """Accuracy over time steps for every encoder, the classifier as a line."""
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for encoder in config.encoder:
        own = sorted((int(key.rsplit("_", 1)[1]), value) for key, value in figures.items()
                     if key.startswith(f"accuracy/{encoder}_") and key.rsplit("_", 1)[1].isdigit())  # fmt: skip
        if own:
            lines[f"{encoder}, tuned at each"] = [at for at, _ in own], [value for _, value in own]
    kept = sorted(
        (keep, figures[f"accuracy/keep_{keep}"]) for keep in config.keep if f"accuracy/keep_{keep}" in figures
    )
    if kept:
        lines["dct, frequencies left out"] = [at for at, _ in kept], [value for _, value in kept]
    ends = [1, max([config.timesteps, *(at for along, _ in lines.values() for at in along)])]
    lines["classifier"] = ends, [figures["accuracy/ann"]] * 2
    drawn = plots.curves(config.workdir, "accuracy_steps", lines, x="time steps", y="test accuracy")
    text = (
        "Networks that are tuned at each number of steps fire with update_first; frequencies are left out of the one "
    )
    text += f"that was tuned at {config.timesteps} steps with {config.order}."
    return report.Section("How many steps?", text, (drawn,))


def frames(config: Config, one: Arrays) -> report.Section:
    """The image arriving frequency by frequency, beside the spikes that it becomes."""
    count = min(SHOWN, len(one["frames"]), len(one["spikes"]))
    shown = np.cumsum(one["frames"], 0)
    sums = [(grey(shown[t], -1, 1), f"{t + 1}", False) for t in range(count)]
    parts = [(grey(one["frames"][t], -1, 1), f"{t + 1}", False) for t in range(count)]
    spikes = [(grey(one["spikes"][t], -1, 1), f"{t + 1}", False) for t in range(count)]
    rows = [("frequency", parts), ("sum so far", sums), ("spikes", spikes)]
    text = f"The first test image, the first {count} steps: coarse to fine. White: 1, black: -1."
    return report.gallery("An image, frequency by frequency", text, config.workdir, "frames", rows)


def grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """(h, w, channels) in [low, high] as uint8, the first channel."""
    return (255 * np.clip((image[..., :1] - low) / (high - low), 0, 1)).astype(np.uint8)
