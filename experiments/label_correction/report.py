"""What the correction of label noise achieved: its figures, and the pictures of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import plots, report
from experiments.label_correction import methods
from subspace_jax import data

if TYPE_CHECKING:
    from experiments.label_correction.experiment import Config

Parts = dict[str, dict[str, np.ndarray]]  # arrays by stage
Found = tuple[int, methods.Case, Parts]  # one seed
SHOWN = 10  # images a row


def sets(parts: Parts) -> list[str]:
    """The trusted sets that were tried."""
    return [name for name in methods.SETS if name in parts]


def chosen(part: dict[str, np.ndarray], *, by: str = "selection") -> float:
    """Test accuracy of the edit that scores highest; the unedited network wins ties, then the first alpha."""
    return float(part["test"][np.argmax(part[by])])


def alpha(config: Config, part: dict[str, np.ndarray]) -> float:
    """The alpha chosen; 0 where the unedited network was kept."""
    return (0.0, *config.alphas)[int(np.argmax(part["selection"]))]


def metric_rows(config: Config, seed: int, parts: Parts) -> list[dict[str, Any]]:
    """One row a trusted set and alpha; alpha 0 is the unedited network."""
    judges = "selection", "clean_selection", "test"
    return [
        {"seed": seed, "trusted": name, "alpha": a} | {judge: float(parts[name][judge][i]) for judge in judges}
        for name in sets(parts)
        for i, a in enumerate((0.0, *config.alphas))
    ]


def sections(config: Config, figures: dict[str, float], found: list[Found]) -> list[report.Section]:
    """The report: all seeds, then the images of the first."""
    _, case, parts = found[0]
    listed = [
        everything(config, figures),
        over_alpha(config, found),
        who(config, figures, found),
        classes(config, found),
    ]
    return [*listed, *counts(config, parts), images(config, case, parts)]


def everything(config: Config, figures: dict[str, float]) -> report.Section:
    """Test accuracy of everything."""
    heights = {k.removeprefix("test_accuracy/"): v for k, v in figures.items() if k.startswith("test_accuracy/")}
    picture = plots.bars(
        config.workdir, "methods", {"test accuracy": list(heights.values())}, labels=list(heights), x="",
        y="test accuracy",
    )  # fmt: skip
    text = (
        f"Means over the seeds; verifix is that of --trusted {config.trusted}, verifix_clean_selection the same with "
        "alpha chosen by clean labels. A new network trained on the trusted samples alone (trusted_only) gets "
        f"{heights['trusted_only']:.3f}: an edit is worth its while where that is less than {heights['verifix']:.3f}. "
        "Those from scratch take as many steps as the network itself; retrain sees all correctly labelled samples. "
        "Seconds of verifix are those of the whole choice of alpha."
    )
    seconds = [(k.removeprefix("seconds/"), f"{v:.2f}") for k, v in figures.items() if k.startswith("seconds/")]
    return report.Section("All methods", text, (picture,), (("method", "seconds"), *seconds))


def over_alpha(config: Config, found: list[Found]) -> report.Section:
    """The inverted U: by the test set, and by the noisy labels that choose alpha."""

    def mean(name, judge):
        return np.mean([parts[name][judge] for *_, parts in found], axis=0)

    pictures = []
    for judge, y in (("test", "test accuracy"), ("selection", "accuracy on noisy selection labels")):
        lines = {name: (config.alphas, mean(name, judge)[1:]) for name in sets(found[0][2])}
        lines["unedited"] = config.alphas, [mean(config.trusted, judge)[0]] * len(config.alphas)
        pictures.append(plots.curves(config.workdir, f"alpha_{judge}", lines, x="alpha", y=y, log_x=True))
    text = (
        "Means over the seeds. Too small an alpha takes away what the task needs, too large a one keeps what wrong "
        "labels wrote. The second picture is all that the choice of alpha sees."
    )
    return report.Section("Strength of the edit", text, tuple(pictures))


def who(config: Config, figures: dict[str, float], found: list[Found]) -> report.Section:
    """The trusted sets."""
    head = "trusted", "samples", "share of right labels", "alpha of each seed (0: unedited)", "test accuracy"
    rows = [
        (name, f"{figures[f'trusted_count/{name}']:.0f}", f"{figures[f'trusted_clean_share/{name}']:.3f}",
         ", ".join(f"{alpha(config, parts[name]):g}" for *_, parts in found),
         f"{figures[f'test_accuracy/verifix_{name}']:.3f}")
        for name in sets(found[0][2])
    ]  # fmt: skip
    text = "Alpha 0 says that no edit was better than none on the selection samples: the network is left as it is."
    return report.Section("Who is trusted", text, (), (head, *rows))


def classes(config: Config, found: list[Found]) -> report.Section:
    """Accuracy of each class, means over the seeds."""
    test_label = found[0][1].task.test_label
    names = np.unique(test_label)

    def accuracies(stage):
        right = np.mean([parts[stage]["predicted"] == test_label for *_, parts in found], axis=0)
        return [float(right[test_label == c].mean()) for c in names]

    picture = plots.bars(
        config.workdir, "classes", {"before": accuracies("before"), "after": accuracies(config.trusted)},
        labels=names.tolist(), x="class", y="test accuracy",
    )  # fmt: skip
    return report.Section("Accuracy per class", "Before and after the edit.", (picture,))


def counts(config: Config, parts: Parts) -> list[report.Section]:
    """Test accuracy against the number of trusted samples, first seed."""
    tried = [parts[name] for name in parts if name.startswith("count")] + [parts["clean_members"]]
    along = [len(part["index"]) for part in tried]
    lines = {"verifix": (along, [chosen(p) for p in tried]), "before": (along, [p["test"][0] for p in tried])}
    picture = plots.curves(
        config.workdir, "counts", lines, x="trusted samples, correctly labelled members", y="test accuracy", log_x=True
    )
    text = "First seed; alpha by the noisy selection labels, the unedited network among the choices."
    return [report.Section("How many are trusted", text, (picture,))] if len(tried) > 1 else []


def images(config: Config, case: methods.Case, parts: Parts) -> report.Section:
    """Test images that the edit corrected, and those it broke."""
    task, old, new = case.task, parts["before"]["predicted"], parts[config.trusted]["predicted"]
    right, still = old == task.test_label, new == task.test_label
    raw, index, called = data.inputs(case.shared.test), case.shared.test["index"], task.called
    rows = []
    for name, mask in (("corrected", ~right & still), ("broken", right & ~still)):
        where = np.flatnonzero(mask)
        told = {i: f"{called(task.test_label[i])}: {called(old[i])} to {called(new[i])}" for i in where[:SHOWN]}
        shown = [(raw[i], report.caption(raw[i], index[i], said), name == "broken") for i, said in told.items()]
        rows += [(f"{len(where)} {name}", shown)] if shown else []
    text = "First seed, test images. True label: prediction before and after." if rows else "No prediction."
    return report.gallery("What the edit changed", text, config.workdir, "images", rows)


def judge(config: Config, parts: Parts) -> dict[str, float]:
    """Every figure of one seed; alpha 0 says that no edit was better than none."""
    main, start = parts[config.trusted], parts["before"]
    accuracy = {"before": main["test"][0], "verifix": chosen(main)}
    accuracy |= {f"verifix_{name}": chosen(parts[name]) for name in sets(parts)}
    accuracy["verifix_clean_selection"] = chosen(main, by="clean_selection")
    for name in methods.BASELINES:
        accuracy[name] = parts[name]["accuracy"]
        if name in methods.CORRECTED:
            accuracy[f"{name}_verifix"] = chosen(parts[name])
    if "early_stopping" in start:
        accuracy["early_stopping"] = start["early_stopping"]
    figures = {f"test_accuracy/{name}": value for name, value in accuracy.items()}
    figures |= {"train_accuracy/before": start["train_accuracy"], "alpha": alpha(config, main)}
    for name in sets(parts):
        figures[f"trusted_clean_share/{name}"] = parts[name]["clean"]
        figures[f"trusted_count/{name}"] = len(parts[name]["index"])
    timed = {"verifix": main, **{name: parts[name] for name in methods.BASELINES}}
    figures |= {f"seconds/{name}": part["seconds"] for name, part in timed.items()}
    return {name: float(value) for name, value in figures.items()}
