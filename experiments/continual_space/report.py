"""What SPACE keeps of a network for each task: figures, widths, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families import task_sequence
from experiments.harness import plots, report, runner

if TYPE_CHECKING:
    from experiments.continual_space.experiment import Config

Arrays = dict[str, np.ndarray]


def measured(run: dict[str, Arrays]) -> dict[str, float]:
    """All figures of one seed; "share" is of the network with all channels and one head."""
    learned, own = with_matrix(run), run["space"]
    listed = task_sequence.report.figures(learned, dict.fromkeys(learned, 1.0))
    for kind in ("parameters", "macs"):
        share = own[kind][1:] / own[kind][0]
        listed |= {f"{kind}/share_of_task_{t + 1}": float(value) for t, value in enumerate(share)}
    for name, arrays in run.items():
        if widths := own_widths(arrays):
            listed[f"channels/{name}"] = float(sum(layer[-1] for layer in widths.values()))
    full = full_widths(own)
    listed["narrow_layers"] = float(np.mean([layer[0] < full[path] for path, layer in own_widths(own).items()]))
    listed["added_by_the_same_task"] = float(run["again"]["added"].max())
    gap = {"slice/gap": float(own["gap"]), "slice/largest_logit": float(own["largest"])}
    return listed | gap | {"slice/acc": float(own["sliced"].mean())}


def with_matrix(run: dict[str, Arrays]) -> dict[str, Arrays]:
    """The methods that were tested on all tasks."""
    return {name: arrays for name, arrays in run.items() if "matrix" in arrays}


def own_widths(arrays: Arrays) -> Arrays:
    """Channels by layer and task."""
    return {key.removeprefix("width/"): values for key, values in arrays.items() if key.startswith("width/")}


def full_widths(arrays: Arrays) -> dict[str, int]:
    """All channels of each layer."""
    return {key.removeprefix("full/"): int(value) for key, value in arrays.items() if key.startswith("full/")}


def write_widths(config: Config, runs: dict[int, dict[str, Arrays]]) -> list[dict[str, Any]]:
    """widths.csv and widths.npz, and the same rows."""
    rows = [
        {"seed": seed, "method": name, "layer": path, "task": t, "channels": int(width)}
        for seed, run in runs.items()
        for name, arrays in run.items()
        for path, values in own_widths(arrays).items()
        for t, width in enumerate(values)
    ]
    runner.write_table(config, "widths", {key: np.array([row[key] for row in rows]) for key in rows[0]})
    return rows


def sections(config: Config, means: dict[str, float], std: dict[str, float], first: dict[str, Arrays]) -> list:
    """Methods, widths, cost of the slices, accuracy over the sequence."""
    whole = {name: arrays for name, arrays in with_matrix(first).items() if len(arrays["matrix"]) > 1}
    text = (
        "Means over the seeds; floats kept are those beside one network, of SPACE the initial parameters, with which "
        "freed channels start anew. Single is one network a task, the ceiling."
    )
    return [
        task_sequence.report.scoreboard(means, std)._replace(text=text),
        costs(config, means, first["space"]),
        task_sequence.report.over_time(config, whole),
        task_sequence.report.matrices(config, whole),
    ]


def costs(config: Config, means: dict[str, float], own: Arrays) -> report.Section:
    """Channels by layer and task, and what a slice costs."""
    along, full = np.arange(1, config.tasks + 1), full_widths(own)
    lines = {path: (along, values / full[path]) for path, values in own_widths(own).items()}
    figure = plots.curves(config.workdir, "widths", lines, x="task", y="share of the channels of the layer")
    rows = [
        (t, *(int(values[t - 1]) for values in own_widths(own).values()), f"{int(own['parameters'][t]):,}",
         f"{means[f'parameters/share_of_task_{t}']:.3f}", f"{int(own['macs'][t]):,}",
         f"{means[f'macs/share_of_task_{t}']:.3f}", f"{own['sliced'][t - 1]:.3f}")
        for t in along
    ]  # fmt: skip
    head = ("task", *own_widths(own), "parameters", "share", "multiplications", "share", "accuracy")
    last = ("all channels", *full.values(), f"{int(own['parameters'][0]):,}", "1", f"{int(own['macs'][0]):,}", "1", "")
    text = "First seed; shares are means over the seeds. Each row is a network of its own, with one head."
    return report.Section("The network of each task", text, (figure,), (head, *rows, last))
