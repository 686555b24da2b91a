"""Figures, tables and pictures of task sequences: each method's accuracy matrix R and memory beside the network."""

import numpy as np

from experiments.families.task_sequence.protocol import Config
from experiments.harness import plots, report, runner
from subspace_jax.continual import protocol

Arrays = dict[str, np.ndarray]
NAMES = {
    "accuracy": "acc", "backward_transfer": "bwt", "forward_transfer": "fwt", "forgetting": "forgetting",
    "anytime": "anytime",
}  # fmt: skip


def figures(found: dict[str, Arrays], told: dict[str, float]) -> dict[str, float]:
    """The measures of every method of one seed; joint training is tested once, at its end."""
    listed = {}
    for name, arrays in found.items():
        if len(arrays["matrix"]) == 1:
            listed[f"acc/{name}"] = float(arrays["matrix"].mean())
        else:
            measured = protocol.measures(arrays["matrix"])._asdict()
            listed |= {f"{NAMES[key]}/{name}": value for key, value in measured.items()}
        listed[f"memory/{name}"] = float(arrays["held/floats"][-1])
        listed[f"task_id_at_test/{name}"] = told[name]
        listed[f"seconds/{name}"] = float(arrays["seconds"])
    return listed


def write_matrices(config: Config, runs: dict[int, dict[str, Arrays]]) -> None:
    """matrix.csv and matrix.npz: one row per seed, method, number of learned tasks and task."""
    cells = [
        (seed, name, t, i, accuracy)
        for seed, found in runs.items()
        for name, arrays in found.items()
        for (t, i), accuracy in np.ndenumerate(arrays["matrix"])
    ]
    columns = "seed", "method", "tasks_learned", "task", "accuracy"
    runner.write_table(config, "matrix", dict(zip(columns, map(np.array, zip(*cells, strict=True)), strict=True)))


def scoreboard(means: dict[str, float], std: dict[str, float]) -> report.Section:
    """Table of all methods: accuracy, transfer, forgetting, memory and time."""
    names = sorted((key[4:] for key in means if key.startswith("acc/")), key=lambda name: -means[f"acc/{name}"])
    kinds = "acc", "bwt", "forgetting", "fwt", "anytime"

    def cell(kind: str, name: str) -> str:
        key = f"{kind}/{name}"
        return f"{means[key]:.3f} ± {std[key]:.3f}" if key in means else "-"

    rows = [
        (name, *(cell(kind, name) for kind in kinds), f"{means[f'memory/{name}']:,.0f}",
         "yes" if means[f"task_id_at_test/{name}"] else "no", f"{means[f'seconds/{name}']:.1f}")
        for name in names
    ]  # fmt: skip
    head = ("method", *kinds, "floats kept", "told the task", "seconds")
    text = (
        "Accuracy on all tasks at the end, backward transfer, forgetting, forward transfer, mean accuracy over the "
        "run: means over the seeds. Floats kept are those beside the network: bases, Fisher diagonal, samples. "
        "Multitask sees all tasks at once and is no sequence."
    )
    return report.Section("Methods", text, table=(head, *rows))


def over_time(config: Config, whole: dict[str, Arrays]) -> report.Section:
    """Mean accuracy on the tasks learned so far, and of the first task alone, by method."""
    along = np.arange(1, config.tasks + 1)
    means = {
        name: (along, [row[: t + 1].mean() for t, row in enumerate(arrays["matrix"][1:])])
        for name, arrays in whole.items()
    }
    firsts = {name: (along, arrays["matrix"][1:, 0]) for name, arrays in whole.items()}
    pictures = [
        plots.curves(config.workdir, name, lines, x="tasks learned", y=y)
        for name, lines, y in (
            ("so_far", means, "mean accuracy on the tasks so far"),
            ("first_task", firsts, "accuracy on the first task"),
        )
    ]
    return report.Section("Over the sequence", "First seed.", tuple(pictures))


def matrices(config: Config, whole: dict[str, Arrays]) -> report.Section:
    """R of every method."""
    moments, tasks = ["untrained", *range(1, config.tasks + 1)], range(1, config.tasks + 1)
    pictures = tuple(
        plots.heatmap(
            config.workdir, f"matrix_{name}", arrays["matrix"], rows=moments, columns=tasks, x=f"task ({name})",
            y="tasks learned", format=".2f",
        )
        for name, arrays in whole.items()
    )  # fmt: skip
    return report.Section("Accuracy on each task after each task", "First seed; a row a moment.", pictures)
