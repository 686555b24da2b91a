"""Spikes through the layers, and the thresholds and rates of a converted network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.harness import plots, report


def raster(workdir: str, names: Sequence[str], read: Mapping[str, np.ndarray], text: str) -> report.Section:
    """Which neurons fire when, of one sample: {name: (steps, neurons)}."""
    figure, ax = plots.axes(8, 5)
    offset = 0
    for number, name in enumerate(names):
        t, neuron = np.nonzero(read[name])
        colour = plots.COLORS[number % len(plots.COLORS)]
        ax.scatter(t + 1, neuron + offset, s=3, color=colour, label=f"into {name}", linewidths=0)
        offset += read[name].shape[1]
    ax.set(xlabel="time step", ylabel="neuron")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return report.Section("Spikes through the layers", text, (plots.save(figure, workdir, "raster"),))


def layers(
    workdir: str, names: Sequence[str], figures: Mapping[str, float], one: Mapping[str, np.ndarray]
) -> report.Section:
    """Thresholds and rates of the layers with neurons, by `names` with and without the leaf's own."""
    rows = [(name, f"{figures[f'threshold/{name}']:.2f}", f"{one[f'largest/{name}/kernel'].item():.2f}",
             f"{figures[f'rate/{name}']:.4f}", f"{one[f'dead/{name}/kernel'].item():.3f}")
            for name in names]  # fmt: skip
    heights = {"spikes a neuron and step": [figures[f"rate/{name}"] for name in names]}
    drawn = plots.bars(workdir, "rates", heights, labels=names, x="layer", y="spikes a neuron and step")
    head = ("layer", "threshold", "largest drive, first seed", "spikes a neuron and step", "dead neurons, first seed")
    text = "After conversion, on the training images from which the thresholds were read."
    return report.Section("Thresholds and rates", text, (drawn,), (head, *rows))
