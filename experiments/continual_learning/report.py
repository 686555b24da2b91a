"""What each method of continual_learning reaches, loses and keeps: the tables and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.families import task_sequence
from experiments.harness import plots, report

if TYPE_CHECKING:
    from experiments.continual_learning.experiment import Config

Arrays = dict[str, np.ndarray]


def sections(config: Config, means: dict[str, float], std: dict[str, float], first: dict[str, Arrays]) -> list:
    """The table of all methods, then the pictures of the first seed."""
    whole = {name: arrays for name, arrays in first.items() if len(arrays["matrix"]) > 1}
    listed = [task_sequence.report.scoreboard(means, std), against_memory(config, means)]
    if whole:
        listed += [task_sequence.report.over_time(config, whole), task_sequence.report.matrices(config, whole)]
    return [*listed, *stored(config, whole)]


def against_memory(config: Config, means: dict[str, float]) -> report.Section:
    """Accuracy against memory, in floats kept."""
    places = {key[4:]: (means[f"memory/{key[4:]}"], value) for key, value in means.items() if key.startswith("acc/")}
    figure = plots.points(config.workdir, "memory", places, x="floats kept", y="accuracy at the end", log_x=True)
    return report.Section("Accuracy against memory", "", (figure,))


def stored(config: Config, whole: dict[str, Arrays]) -> list[report.Section]:
    """Directions kept by layer and task, of the methods that keep bases."""
    along, pictures = np.arange(1, config.tasks + 1), []
    for name, arrays in whole.items():
        ranks = {key.removeprefix("held/rank/"): value for key, value in arrays.items() if "held/rank/" in key}
        if ranks:
            lines = {path: (along, values) for path, values in ranks.items()}
            pictures.append(
                plots.curves(config.workdir, f"ranks_{name}", lines, x="tasks learned", y=f"directions kept ({name})")
            )
    return [report.Section("Bases", "First seed.", tuple(pictures))] if pictures else []
