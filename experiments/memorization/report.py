"""How well the scores find what was planted, the table of suspects, and the pictures of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families.classifier import Task
from experiments.harness import plots, report, runner
from subspace_jax.core import metrics
from subspace_jax.memorization import duplicates

if TYPE_CHECKING:
    from experiments.memorization.experiment import Config

Found = list[tuple[Any, Task, dict[str, np.ndarray]]]  # seed, task, arrays
auroc, roc = jax.jit(metrics.auroc), jax.jit(metrics.roc)
precision_at = jax.jit(metrics.precision_at, static_argnums=2)
SHOWN = 10  # images a row, classes a gallery


def named(arrays: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays "<kind>/<name>" by name."""
    return {key.split("/", 1)[1]: value for key, value in arrays.items() if key.startswith(f"{kind}/")}


def judge(config: Config, task: Task, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """AUROC, precision and seconds of every score; planted copies are left out of the mislabel figures."""
    figures = {f"seconds/{name}": float(value) for name, value in named(arrays, "seconds").items()}
    keep = ~task.planted
    wrong = task.noisy[keep]
    for name, values in named(arrays, "score").items():
        if wrong.any():
            kept = jnp.asarray(values[keep])
            figures[f"auroc/{name}"] = float(auroc(kept, jnp.asarray(wrong)))
            figures[f"precision/{name}"] = float(precision_at(kept, jnp.asarray(wrong), int(wrong.sum())))
    if task.planted.any():
        clean = ~task.noisy
        for name in dict.fromkeys(name for name in ("fd_norm", config.score, "loss") if f"score/{name}" in arrays):
            values = jnp.asarray(arrays[f"score/{name}"][clean])
            figures[f"duplicates_auroc/{name}"] = float(auroc(values, jnp.asarray(task.planted[clean])))
    return figures | ({"test_accuracy": float(arrays["test_accuracy"])} if len(task.test_label) else {})


def metric_rows(seed: int, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row an epoch: training loss and accuracy."""
    columns = dict(sorted(named(arrays, "metrics").items()))  # restored arrays come in another order than fresh ones
    epochs = np.flatnonzero(~np.isnan(columns["loss"]))
    return [{"seed": seed, "epoch": int(e) + 1} | {k: float(v[e]) for k, v in columns.items()} for e in epochs]


def write_table(config: Config, found: Found) -> None:
    """scores.npz and scores.csv, one row a sample and seed; where nothing was planted, one a sample, seeds averaged."""
    if not any(task.noisy.any() or task.planted.any() for _, task, _ in found):
        found = [("mean", found[0][1], mean_scores(found))]
    tables = [table(config, seed, task, arrays) for seed, task, arrays in found]
    whole = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    runner.write_table(config, "scores", whole)


def mean_scores(found: Found) -> dict[str, np.ndarray]:
    """Scores averaged over seeds that saw the same labels; the rest from the first seed."""
    first = found[0][2]
    scores = {k: np.mean([arrays[k] for _, _, arrays in found], axis=0) for k in first if k.startswith("score/")}
    return first | scores


def table(config: Config, seed: Any, task: Task, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of one seed, most suspicious first."""
    order = np.argsort(-arrays[f"score/{config.score}"], kind="stable")
    known = task.noisy.any() or task.planted.any()
    columns = {
        "seed": np.full(len(order), seed),
        "rank": np.arange(1, len(order) + 1),
        "index": task.index[order],
        "given_label": task.label[order],
        "true_label": task.true[order] if known else np.full(len(order), -1),
        "predicted_label": arrays["predicted"][order],
        "planted_copy": task.planted[order].astype(int),
    }
    if task.names:
        called = {"given_name": task.label, "true_name": task.true, "predicted_name": arrays["predicted"]}
        columns |= {name: np.array(task.names)[labels[order]] for name, labels in called.items()}
        columns["true_name"] = columns["true_name"] if known else np.full(len(order), "")
    return columns | {name: values[order] for name, values in named(arrays, "score").items()}


def sections(config: Config, figures: dict[str, float], found: Found) -> list[report.Section]:
    """The report: scores of all seeds, then the pictures of the first."""
    _, task, arrays = found[0]
    listed = [scoreboard(figures)]
    if task.noisy.any():
        listed += [rocs(config, figures, task, arrays), *over_epochs(config, task, arrays)]
        listed += [separated(config, task, arrays), *sensitivity(config, task, arrays)]
    else:
        arrays = mean_scores(found)
    listed += galleries(config, task, arrays)
    return [*listed, copies(config, task, arrays), most_suspicious(config, task, arrays)]


def scoreboard(figures: dict[str, float]) -> report.Section:
    """Every score with what it finds and what it costs."""
    names = [key.removeprefix("seconds/") for key in figures if key.startswith("seconds/")]
    names.sort(key=lambda name: -figures.get(f"auroc/{name}", 0))
    cells = [
        (name, *(f"{figures[f'{kind}/{name}']:.4f}" if f"{kind}/{name}" in figures else "-"
                 for kind in ("auroc", "precision", "duplicates_auroc")), f"{figures[f'seconds/{name}']:.2f}")
        for name in names
    ]  # fmt: skip
    head = ("score", "mislabel AUROC", "precision at k", "duplicates AUROC", "seconds")
    text = (
        "Means over the seeds; k is the number of wrong labels. Seconds are those of one run on this machine, without "
        "compilation for the scores, with everything for confident learning and the second split, which train further "
        "networks; training is one whole run of the network itself. Loss, margin, learning time, forgetting and "
        "inconfidence share one forward pass an epoch."
    )
    return report.Section("Scores", text, table=(head, *cells))


def rocs(config: Config, figures, task: Task, arrays) -> report.Section:
    """ROC of all scores, cost in the legend."""
    keep = ~task.planted
    lines = {}
    for name, values in named(arrays, "score").items():
        fpr, tpr = roc(jnp.asarray(values[keep]), jnp.asarray(task.noisy[keep]))
        label = f"{name}  {figures[f'auroc/{name}']:.3f}  ({figures[f'seconds/{name}']:.1f} s)"
        lines[label] = np.maximum(fpr, 1e-3), np.asarray(tpr)
    lines = dict(sorted(lines.items(), key=lambda line: -float(line[0].split()[1])))
    figure = plots.curves(config.workdir, "roc", lines, x="clean samples flagged", y="wrong labels found", log_x=True)
    return report.Section("Finding the wrong labels", "First seed; in the legend mean AUROC and seconds.", (figure,))


def over_epochs(config: Config, task: Task, arrays) -> list[report.Section]:
    """Mean curvature of wrong and clean labels, and AUROC of each epoch and of the mean so far."""
    histories = named(arrays, "history")
    name = next((n for n in (config.score, "fd_norm", *histories) if n in histories), None)
    if name is None:
        return []
    history, keep = histories[name], ~task.planted
    along = (1 + np.arange(len(history))) * config.score_every
    groups = {"wrong label": history[:, keep & task.noisy].mean(1), "clean": history[:, keep & ~task.noisy].mean(1)}
    first = plots.curves(
        config.workdir, "curvature_over_epochs", {k: (along, v) for k, v in groups.items()}, x="epoch",
        y=f"mean {name}",
    )  # fmt: skip
    running = np.cumsum(history, axis=0)
    wrong = jnp.asarray(task.noisy[keep])
    lines = {
        "this epoch": (along, [float(auroc(jnp.asarray(row[keep]), wrong)) for row in history]),
        "mean up to it": (along, [float(auroc(jnp.asarray(row[keep]), wrong)) for row in running]),
    }
    second = plots.curves(config.workdir, "auroc_over_epochs", lines, x="epoch", y=f"mislabel AUROC of {name}")
    text = (
        "At the end of an over-fit run every loss is near 0, and so is its curvature: the mean over epochs separates."
    )
    return [report.Section("Over the training run", text, (first, second))]


def separated(config: Config, task: Task, arrays) -> report.Section:
    """Histograms of clean and wrong labels."""
    values = arrays[f"score/{config.score}"]
    groups = {"clean": values[~task.noisy & ~task.planted], "wrong label": values[task.noisy]}
    if task.planted.any():
        groups["planted copies"] = values[task.planted]
    figure = plots.histograms(config.workdir, "histograms", groups, x=config.score, log=bool((values > 0).all()))
    return report.Section("Clean and wrong labels", "", (figure,))


def sensitivity(config: Config, task: Task, arrays) -> list[report.Section]:
    """AUROC against step and against probes."""
    figures = []
    for kind, start in (("step", "step_"), ("probes", "probes_")):
        sweep = {float(k.removeprefix(start)): v for k, v in named(arrays, "sweep").items() if k.startswith(start)}
        if not sweep:
            return []
        along = sorted(sweep)
        keep = (~task.planted)[: len(sweep[along[0]])]
        wrong = jnp.asarray(task.noisy[: len(keep)][keep])
        values = [float(auroc(jnp.asarray(sweep[at][keep]), wrong)) for at in along]
        line = {"fd_norm": (along, values)}
        figures.append(plots.curves(config.workdir, f"auroc_{kind}", line, x=kind, y="mislabel AUROC", log_x=True))
    text = "fd_norm averaged over every fifth scored epoch of the first seed, at most 5,000 samples."
    return [report.Section("Sensitivity to step and probes", text, tuple(figures))]


def cell(task: Task, arrays, position: int) -> report.Shown:
    """One sample: given and predicted label, marked when the label is known to be wrong."""
    sample = task.image[position]
    said = f"{task.called(task.label[position])} ({task.called(arrays['predicted'][position])})"
    wrong = bool(task.label[position] != task.true[position])
    return sample, report.caption(sample, task.index[position], said), wrong


def galleries(config: Config, task: Task, arrays) -> list[report.Section]:
    """The highest of each given label by the score that was chosen and by the other one, and the lowest."""
    other = "fd_norm" if config.score == "loss" else "loss"
    wanted = [(config.score, "highest", -1), (other, "highest", -1), (config.score, "lowest", 1)]
    found = []
    for score, name, sign in [part for part in wanted if f"score/{part[0]}" in arrays]:
        values, rows = arrays[f"score/{score}"], []
        for label in np.unique(task.label)[:SHOWN]:
            members = np.flatnonzero(task.label == label)
            best = members[np.argsort(sign * values[members], kind="stable")[:SHOWN]]
            rows.append((f"label {task.called(label)}", [cell(task, arrays, i) for i in best]))
        text = f"Given label (predicted label), {score} {name}. Red: the given label is known to be wrong."
        title = f"The {name} {score} of each label"
        found.append(report.gallery(title, text, config.workdir, f"gallery_{name}_{score}", rows))
    return found


def copies(config: Config, task: Task, arrays) -> report.Section:
    """Identical images under different labels, planted or not."""
    title = "Identical images under different labels"
    groups = duplicates.conflicting_copies(task.image, task.label)
    if not groups:
        return report.Section(title, "There are none.")
    values = arrays[f"score/{config.score}"]
    percentile = 100 * np.argsort(np.argsort(values)) / len(values)

    def shown(i: int) -> report.Shown:
        said = f"{task.called(task.label[i])}: {percentile[i]:.0f} %"
        return task.image[i], report.caption(task.image[i], task.index[i], said), bool(task.label[i] != task.true[i])

    rows = [(place, [shown(group[k]) for group in groups[:SHOWN]]) for k, place in enumerate(("one", "another"))]
    text = f"{len(groups)} groups; label and percentile of its {config.score}. None can be learned but by heart."
    table = [(" ".join(str(task.index[i]) for i in g), " ".join(task.called(task.label[i]) for i in g)) for g in groups]
    found = report.gallery(title, text, config.workdir, "duplicates", rows)
    return found._replace(table=(("index", "labels"), *table[: 2 * SHOWN]))


def most_suspicious(config: Config, task: Task, arrays) -> report.Section:
    """The head of scores.csv as pictures and rows."""
    values = arrays[f"score/{config.score}"]
    order = np.argsort(-values, kind="stable")[: 2 * SHOWN]
    shown = [cell(task, arrays, i) for i in order]
    rows = [(heading, part) for heading, part in (("top", shown[:SHOWN]), ("next", shown[SHOWN:])) if part]
    table = [
        (rank, int(task.index[i]), task.called(task.label[i]), task.called(arrays["predicted"][i]), f"{values[i]:.4g}")
        for rank, i in enumerate(order, start=1)
    ]
    text = "The first rows of scores.csv; index is the position in the original data set."
    found = report.gallery("Most suspicious", text, config.workdir, "suspects", rows)
    return found._replace(table=(("rank", "index", "given", "predicted", config.score), *table))
