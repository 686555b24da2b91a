"""What is shown of networks that were made to forget: figures, rows, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import plots, report
from subspace_jax.unlearning import class_projection, evaluation

if TYPE_CHECKING:
    from experiments.class_unlearning.experiment import Config

Arrays = dict[str, dict[str, np.ndarray]]  # by method, and under "ulira" the attack
KINDS = "retain_accuracy", "forget_accuracy", "mia", "probe", "seconds", "forward", "backward"
BESIDE = "projection", "finetune", "random_labels", "neggrad_plus", "scrub"  # of which the weight changes are shown


def figures(arrays: Arrays) -> dict[str, float]:
    """Of one seed: "<kind>/<method>"."""
    found: dict[str, float] = {}
    for name, measured in methods(arrays).items():
        found |= {f"{kind}/{name}": float(measured[kind]) for kind in KINDS}
        found[f"score/{name}"] = evaluation.forget_score(
            found[f"retain_accuracy/{name}"], found[f"forget_accuracy/{name}"]
        )
    found |= {f"ulira_{key}": float(value) for key, value in arrays.get("ulira", {}).items()}
    return found | {strength: float(arrays["projection"][strength]) for strength in ("alpha_r", "alpha_f")}


def methods(arrays: Arrays) -> Arrays:
    return {name: measured for name, measured in arrays.items() if name != "ulira"}


def metric_rows(seed: int, arrays: Arrays) -> list[dict[str, Any]]:
    """One row a method."""
    found = figures(arrays)
    return [
        {"seed": seed, "method": name} | {kind: found[f"{kind}/{name}"] for kind in (*KINDS, "score")}
        for name in methods(arrays)
    ]


def sections(config: Config, figures: dict[str, float], found: dict[int, Arrays]) -> list[report.Section]:
    """The report: figures of all seeds, then the pictures of the first."""
    arrays = next(iter(found.values()))
    return [
        scoreboard(config, figures, list(methods(arrays))),
        *(part(config, arrays) for part in (per_class, strengths, confusions, weights)),
    ]


def scoreboard(config: Config, figures: dict[str, float], names: list[str]) -> report.Section:
    """All methods, the best score first, and retain against forget accuracy."""
    names = sorted(names, key=lambda name: -figures[f"score/{name}"])
    kinds = ("score", *KINDS)
    digits = dict.fromkeys(kinds, ".3f") | {"seconds": ".3f", "forward": ",.0f", "backward": ",.0f"}
    table = [(name, *(f"{figures[f'{kind}/{name}']:{digits[kind]}}" for kind in kinds)) for name in names]
    places = {name: (figures[f"forget_accuracy/{name}"], figures[f"retain_accuracy/{name}"]) for name in names}
    figure = plots.points(
        config.workdir, "retain_forget", places, x="accuracy on what goes", y="accuracy on what stays"
    )
    text = (
        "Means over the seeds, of the test set. Retrain never saw the classes: it is what the others try to reach, in "
        "all columns. mia: share of unseen samples of the classes that an attack takes for unseen. probe: accuracy on "
        "the classes of a new head on the old features. Seconds are without compilation (what compiles is run once "
        "before). Forward and backward count passes of one sample; most of what the projection costs, in both, is the "
        "search on the held-out part of the training set. All but retrain got the same samples."
    )
    if "ulira_auc/projection" in figures:
        attacked = (f"{name} {figures[f'ulira_auc/{name}']:.3f}" for name in ("original", "projection"))
        text += f" U-LiRA (area under the curve, .5 is best): {', '.join(attacked)}."
    head = tuple(kind.replace("_", " ") for kind in ("method", *kinds))
    return report.Section("Methods", text, (figure,), (head, *table))


def per_class(config: Config, arrays: Arrays) -> report.Section:
    """Accuracy of each class before and after."""
    names = [name for name in ("original", "projection", "retrain") if name in arrays]
    shown = {name: accuracies(arrays[name]["confusion"]) for name in names}
    labels = range(len(shown["original"]))
    figure = plots.bars(config.workdir, "per_class", shown, labels=labels, x="class", y="test accuracy")
    gone = ", ".join(map(str, config.forget))
    return report.Section("Accuracy per class", f"First seed. To be forgotten: {gone}.", (figure,))


def accuracies(confusion: np.ndarray) -> np.ndarray:
    """Of each class; 0 where there is no sample."""
    return np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)


def strengths(config: Config, arrays: Arrays) -> report.Section:
    """The score of each pair of strengths, the chosen one marked."""
    grid, rows, columns = arrays["projection"]["grid"], class_projection.ALPHAS_R, class_projection.ALPHAS_F
    chosen = (rows.index(float(arrays["projection"]["alpha_r"])), columns.index(float(arrays["projection"]["alpha_f"])))
    figure = plots.heatmap(
        config.workdir, "strengths", grid, rows=[f"{a:g}" for a in rows], columns=[f"{a:g}" for a in columns],
        x="alpha_f: removes", y="alpha_r: protects", mark=chosen,
    )  # fmt: skip
    text = "acc_retain (1 - acc_forget) on the held-out part of the training set; first seed, the chosen pair framed."
    return report.Section("Choice of the strengths", text, (figure,))


def confusions(config: Config, arrays: Arrays) -> report.Section:
    """What the samples of the classes become."""
    drawn = tuple(
        plots.heatmap(
            config.workdir, f"confusion_{name}", arrays[name]["confusion"], rows=range(len(arrays[name]["confusion"])),
            columns=range(len(arrays[name]["confusion"])), x=f"predicted ({name})", y="true", format=".0f",
        )
        for name in ("original", "projection")
    )  # fmt: skip
    return report.Section("Confusion before and after", "Test samples, first seed.", drawn)


def weights(config: Config, arrays: Arrays) -> report.Section:
    """How far each layer moved."""
    shown = {name: arrays[name]["change"] for name in BESIDE if name in arrays}
    layers = [str(path).removesuffix("/kernel") for path in arrays["projection"]["layers"]]
    figure = plots.bars(config.workdir, "weights", shown, labels=layers, x="layer", y="relative change")
    return report.Section(
        "Change of the weights", "Frobenius norm of the change over that before; first seed.", (figure,)
    )
