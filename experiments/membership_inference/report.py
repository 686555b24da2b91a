"""How well each attack tells members from others, who is exposed most, and the pictures of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families import classifier
from experiments.harness import plots, report, runner
from subspace_jax.core import roc

if TYPE_CHECKING:
    from experiments.membership_inference.experiment import Config

Arrays = dict[str, np.ndarray]
Found = list[tuple[int, classifier.Task, Arrays]]  # seed, task, arrays
ALWAYS, FPRS = 1e-2, {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
RELEASED = "_as_released"
SHOWN = 10  # images a row


def scores(arrays: Arrays) -> dict[str, np.ndarray]:
    """Scores (targets, n) by attack."""
    return {name.removeprefix("score/"): values for name, values in arrays.items() if name.startswith("score/")}


def rates(arrays: Arrays) -> dict[str, float]:
    """False positive rates that the number of non-members can show, by name; 1 % in any case."""
    negatives = (~arrays["member"]).sum(axis=1).min()
    return {name: rate for name, rate in FPRS.items() if rate == ALWAYS or rate * negatives >= 1}


def summaries(arrays: Arrays) -> dict[str, list[roc.Summary]]:
    """Every attack on every target."""
    fprs = [*rates(arrays).values()]
    return {
        name: [roc.summary(row, member, fprs=fprs) for row, member in zip(values, arrays["member"], strict=True)]
        for name, values in scores(arrays).items()
    }


def judge(arrays: Arrays) -> dict[str, float]:
    """Means over the targets, the deviation between them, accuracies of the networks, curvature of both sides."""
    figures = {}
    for name, found in summaries(arrays).items():
        aurocs = [one.auroc for one in found]
        figures[f"auroc/{name}"] = float(np.mean(aurocs))
        figures[f"auroc_target_std/{name}"] = float(np.std(aurocs, ddof=1)) if len(aurocs) > 1 else 0.0
        figures[f"balanced_accuracy/{name}"] = float(np.mean([one.balanced_accuracy for one in found]))
        for rate, value in zip(rates(arrays), np.mean([one.tpr for one in found], axis=0), strict=True):
            figures[f"tpr_at_fpr_{rate}/{name}"] = float(value)
    if "log_curvature" in arrays:
        for side, mask in (("members", arrays["member"]), ("others", ~arrays["member"])):
            figures[f"log_curvature/{side}"] = float(arrays["log_curvature"][mask].mean())
    single = "train_accuracy", "test_accuracy", "models"
    figures |= {name: float(arrays[name]) for name in single if name in arrays}
    for size, own in by_size(arrays).items():
        found = {name: np.mean([one.auroc for one in of]) for name, of in summaries(own).items()}
        figures |= {f"auroc_at_size/{name}/{size}": float(value) for name, value in found.items()}
        figures[f"train_accuracy_at_size/{size}"] = float(own["train_accuracy"])
    return figures | {"negatives": float((~arrays["member"]).sum(axis=1).mean())}


def by_size(arrays: Arrays) -> dict[int, Arrays]:
    """The arrays of the targets of each of --set-sizes."""
    found: dict[int, Arrays] = {}
    for name, values in arrays.items():
        size, _, rest = name.partition("/")
        if size.startswith("size"):
            found.setdefault(int(size.removeprefix("size")), {})[rest] = values
    return found


def metric_rows(seed: int, arrays: Arrays) -> list[dict[str, Any]]:
    """One row an attack and target."""
    return [
        {"seed": seed, "target": target, "attack": name, "auroc": one.auroc, "balanced_accuracy": one.balanced_accuracy}
        | {f"tpr_at_fpr_{rate}": float(value) for rate, value in zip(rates(arrays), one.tpr, strict=True)}
        for name, found in summaries(arrays).items()
        for target, one in enumerate(found)
    ]


def write_table(config: Config, found: Found) -> None:
    """risk.npz and risk.csv: one row a member, target and seed, the most exposed first."""
    tables = [risks(config, *one) for one in found]
    whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    order = np.lexsort((-whole["score"], whole["exposed_at_fpr"]))
    runner.write_table(config, "risk", {name: column[order] for name, column in whole.items()})


def risks(config: Config, seed: int, task: classifier.Task, arrays: Arrays) -> dict[str, np.ndarray]:
    """The members of the targets of one seed: score, and the false positive rate at which the attack finds them."""
    target, position = np.nonzero(arrays["member"])
    values = arrays[f"score/{config.score}"]
    exposed = [roc.exposure(row, member) for row, member in zip(values, arrays["member"], strict=True)]
    return {
        "seed": np.full(len(target), seed),
        "target": target,
        "index": task.index[position],
        "label": task.label[position],
        "score": values[target, position],
        "exposed_at_fpr": np.stack(exposed)[target, position],
    }


def sections(config: Config, figures: dict[str, float], found: Found) -> list[report.Section]:
    """The report: figures of all seeds, then pictures of the first."""
    arrays = found[0][2]
    sizes = [set_sizes(config, figures)] if config.set_sizes else []
    pictures = rocs(config, figures, arrays), histograms(config, arrays), exposed(config, *found[0])
    return [scoreboard(figures), *sizes, *pictures]


def set_sizes(config: Config, figures: dict[str, float]) -> report.Section:
    """AUROC against the size of the targets' training set."""
    along = sorted(config.set_sizes)
    names = dict.fromkeys(key.split("/")[1] for key in figures if key.startswith("auroc_at_size/"))
    values = {name: [figures[f"auroc_at_size/{name}/{size}"] for size in along] for name in names}
    lines = {name: (along, row) for name, row in values.items()}
    picture = plots.curves(
        config.workdir, "set_sizes", lines, x="samples in the training set of a target", y="AUROC", log_x=True
    )
    fitted = [f"{figures[f'train_accuracy_at_size/{size}']:.4f}" for size in along]
    rows = [(name, *(f"{value:.4f}" for value in row)) for name, row in values.items()]
    text = (
        f"{config.targets} targets a size and seed, each trained on random samples; the others are non-members. The "
        "shadow models are trained on halves, whatever the size: what they know fits targets on halves best."
    )
    return report.Section("Size of the training set", text, (picture,), (
        ("attack", *along), *rows, ("accuracy on members", *fitted),
    ))  # fmt: skip


def scoreboard(figures: dict[str, float]) -> report.Section:
    """Every attack with its figures; those of the released scripts beside the correct ones."""
    names = sorted((key.removeprefix("auroc/") for key in figures if key.startswith("auroc/")),
                   key=lambda name: -figures[f"auroc/{name}"])  # fmt: skip
    kinds = ["auroc", "auroc_target_std", "balanced_accuracy"]
    kinds += [f"tpr_at_fpr_{rate}" for rate in FPRS if f"tpr_at_fpr_{rate}/{names[0]}" in figures]
    cells = [
        (name, "as released" if name.endswith(RELEASED) else "", *(f"{figures[f'{k}/{name}']:.4f}" for k in kinds))
        for name in names
    ]
    head = ("attack", "protocol", "AUROC", "between targets", "balanced accuracy",
            *(f"TPR at FPR {kind.removeprefix('tpr_at_fpr_')}" for kind in kinds[3:]))  # fmt: skip
    text = (
        f"Means over targets and seeds; {figures['negatives']:.0f} non-members a target. Attacks as released take a "
        "variance for a deviation; the released LiRA also takes the largest probability for that of the label."
    )
    return report.Section("Attacks", text, table=(head, *cells))


def rocs(config: Config, figures: dict[str, float], arrays: Arrays) -> report.Section:
    """ROC of all attacks on logarithmic axes."""
    member = arrays["member"]
    least = 1 / (~member).sum(axis=1).max(), 1 / member.sum(axis=1).max()
    grid = np.geomspace(least[0], 1, 200)
    lines = {}
    for name, values in scores(arrays).items():
        curves = [roc.curve(row, mask) for row, mask in zip(values, member, strict=True)]
        tpr = np.mean([np.interp(grid, of.fpr, of.tpr) for of in curves], axis=0)
        lines[f"{name}  {figures[f'auroc/{name}']:.3f}"] = grid, np.maximum(tpr, least[1])
    lines = dict(sorted(lines.items(), key=lambda line: -float(line[0].split()[-1])))
    figure = plots.curves(
        config.workdir, "roc", lines, x="non-members accused", y="members found", log_x=True, log_y=True
    )
    return report.Section("Members found", "First seed, mean over its targets; in the legend mean AUROC.", (figure,))


def histograms(config: Config, arrays: Arrays) -> report.Section:
    """Scores of members and others, and their curvature."""
    kinds = {name: arrays[f"score/{name}"] for name in dict.fromkeys((config.score, "curvature_nll", "yeom"))
             if f"score/{name}" in arrays}  # fmt: skip
    kinds |= {"log_curvature": arrays["log_curvature"]} if "log_curvature" in arrays else {}
    pictures = []
    for name, values in kinds.items():
        low, high = np.quantile(values, [0.005, 0.995])
        sides = {"IN": arrays["member"], "OUT": ~arrays["member"]}
        groups = {side: np.clip(values[mask], low, high) for side, mask in sides.items()}
        pictures.append(plots.histograms(config.workdir, f"histogram_{name}", groups, x=name))
    text = "All targets of the first seed; the outer half per cent of each side is drawn at the edge."
    return report.Section("Members and others", text, tuple(pictures))


def exposed(config: Config, seed: int, task: classifier.Task, arrays: Arrays) -> report.Section:
    """The members that the attack finds at the lowest false positive rates: pictures and rows."""
    table = risks(config, seed, task, arrays)
    order = np.lexsort((-table["score"], table["exposed_at_fpr"]))
    place = {index: position for position, index in enumerate(task.index.tolist())}
    shown = []
    for row in order[np.sort(np.unique(table["index"][order], return_index=True)[1])][: 2 * SHOWN]:
        position = place[int(table["index"][row])]
        said = f"{task.called(task.label[position])}: {table['exposed_at_fpr'][row]:.2g}"
        wrong = bool(task.label[position] != task.true[position])
        shown.append((task.image[position], report.caption(task.image[position], task.index[position], said), wrong))
    rows = [(heading, part) for heading, part in (("top", shown[:SHOWN]), ("next", shown[SHOWN:])) if part]
    text = (
        f"By {config.score}: label and the false positive rate at which the sample is exposed, 0 where no non-member "
        "scores as high. Red: the label is known to be wrong. All members are in risk.csv."
    )
    head = ("index", "label", "target", "score", "exposed at FPR")
    cells = [
        (int(table["index"][r]), task.called(table["label"][r]), int(table["target"][r]), f"{table['score'][r]:.4g}",
         f"{table['exposed_at_fpr'][r]:.4g}")
        for r in order[: 2 * SHOWN]
    ]  # fmt: skip
    found = report.gallery("Most exposed", text, config.workdir, "exposed", rows)
    return found._replace(table=(head, *cells))
