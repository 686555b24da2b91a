"""What is shown of the links: curvature against epsilon, memorization against its bounds and against curvature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families import classifier
from experiments.harness import plots, report, runner
from experiments.privacy_links.methods import called
from subspace_jax.privacy import links, trends

if TYPE_CHECKING:
    from experiments.privacy_links.experiment import Config

Arrays = dict[str, np.ndarray]
Found = list[tuple[int, classifier.Task, Arrays]]  # seed, task, arrays
KINDS = "curvature", "trace", "accuracy"
BEYOND = 4  # times the largest epsilon, where networks without noise are drawn
LEAST = 1e-3  # memorization drawn on a logarithmic axis
SHOWN = 10  # images a row
MEMORIZED = "mean", "noisy", "noisy_stderr", "rms", "largest", "largest_of_tight"


def budgets(config: Config) -> np.ndarray:
    """The epsilons at which curvature is measured."""
    return np.array([*config.epsilons, math.inf])


def cases(config: Config) -> list[tuple[str, float]]:
    """(name in the figures, epsilon) of all private networks whose memorization is measured."""
    return [
        (f"{name}/{called(epsilon)}", epsilon) for name in config.memorize for epsilon in config.memorization_epsilons
    ]


def judge(config: Config, task: classifier.Task, arrays: Arrays) -> dict[str, float]:
    """The figures of one seed."""
    figures = {}
    for name in config.optimizers:
        for kind in KINDS:
            for epsilon, value in zip(budgets(config), arrays[f"{kind}/{name}"], strict=True):
                figures[f"{kind}/{name}/{called(epsilon)}"] = float(value)
        figures[f"r2_saturation/{name}"] = trends.fit_saturation(budgets(config), arrays[f"curvature/{name}"]).r2
    for case, epsilon in [*cases(config), ("non_private", math.inf)]:
        figures |= {f"memorization_{kind}/{case}": value for kind, value in sizes(config, task, arrays, case, epsilon)}
    for kind, name in (("paper", "violations"), ("tight", "violations_tight")):
        figures[name] = float(sum(broken(config, arrays, case, epsilon, kind) for case, epsilon in cases(config)))
    if "planted/value" in arrays:
        figures["violations_planted"] = float(above_planted(config, arrays))
    return figures | relation(config, task, arrays) | {"models": float(config.models)}


def sizes(config: Config, task: classifier.Task, arrays: Arrays, case: str, epsilon: float) -> list[tuple[str, float]]:
    """How large the memorization of all, and of noisy samples, is; signed means."""
    value, stderr = (arrays[f"memorization/{case}/{kind}"] for kind in ("value", "stderr"))
    found = [("mean", value.mean()), ("rms", links.root_mean_square(value, stderr)), ("largest", np.abs(value).max())]
    if math.isfinite(epsilon):
        tight = links.memorization_bound(epsilon, delta=config.delta, kind="tight")
        found.append(("largest_of_tight", np.abs(value).max() / tight))
    if (wrong := value[task.noisy]).size > 1:
        found += [("noisy", wrong.mean()), ("noisy_stderr", wrong.std(ddof=1) / np.sqrt(len(wrong)))]
    return [(kind, float(number)) for kind, number in found]


def broken(config: Config, arrays: Arrays, case: str, epsilon: float, kind: links.Kind) -> int:
    """Samples whose memorization lies above the bound, by more than the number of networks explains."""
    bound = links.memorization_bound(epsilon, delta=config.delta, kind=kind)
    value, stderr = (arrays[f"memorization/{case}/{part}"] for part in ("value", "stderr"))
    return int(links.violations(value, stderr, float(bound)).sum())


def above_planted(config: Config, arrays: Arrays) -> int:
    """The same of the planted table."""
    bound = links.memorization_bound(min(config.memorization_epsilons), delta=config.delta, kind=config.bound)
    return int(links.violations(arrays["planted/value"], arrays["planted/stderr"], float(bound)).sum())


def binned(config: Config, arrays: Arrays) -> trends.Bins:
    """Mean curvature in bins of memorization by right answers."""
    return trends.bin_means(arrays["correct/value"], arrays["fd_norm"], np.linspace(0, 1, config.bins + 1))


def relation(config: Config, task: classifier.Task, arrays: Arrays) -> dict[str, float]:
    """Link 1 of one seed: does the mean curvature over the networks tell memorization?"""
    mem, curvature, bins = arrays["correct/value"], arrays["fd_norm"], binned(config, arrays)
    found = {
        "pearson/link1": pearson(mem, curvature),
        "pearson/link1_trace": pearson(mem, arrays["ggn_exact"]),
        "cosine/link1": cosine(mem, curvature),
        "train_accuracy": arrays["train_accuracy"],
        "test_accuracy": arrays["test_accuracy"],
    }
    if len(bins.x) > 2:
        found["pearson/link1_bins"] = pearson(bins.x, bins.y)
    found |= {f"r2/{name}": fit.r2 for name, (_, fit) in fits(bins).items()}
    if task.noisy.any():
        found |= {"memorization_correct/noisy": mem[task.noisy].mean()}
        found |= {"memorization_correct/clean": mem[~task.noisy].mean()}
    return {name: float(value) for name, value in found.items()}


def fits(bins: trends.Bins) -> dict[str, tuple[np.ndarray, trends.Fit]]:
    """By name, memorization and the curve there: of a line, and for groups of other sizes; {} where bins are few."""
    several = bins.count > 1
    if several.sum() < 3:
        return {}
    x, y, count = bins.x[several], bins.y[several], bins.count[several]
    return {"line": (x, trends.fit_line(x, y)), "subpopulation": (x, trends.fit_subpopulation(x, y, count))}


def write_table(config: Config, found: Found) -> None:
    """links.npz and links.csv: one row a sample and seed."""
    tables = []
    for seed, task, arrays in found:
        columns = {"seed": np.full(len(task.x), seed), "index": task.index, "label": task.label}
        columns |= {"curvature": arrays["fd_norm"], "trace": arrays["ggn_exact"]}
        columns |= {"memorization_correct": arrays["correct/value"]}
        for case in ("non_private", *(case for case, _ in cases(config))):
            columns[f"memorization/{case}"] = arrays[f"memorization/{case}/value"]
        tables.append(columns)
    runner.write_table(config, "links", {name: np.concatenate([t[name] for t in tables]) for name in tables[0]})


def sections(config: Config, figures: dict[str, float], found: Found) -> list[report.Section]:
    """The report: means over the seeds, pictures of samples from the first."""
    return [against_epsilon(config, figures), against_bounds(config, figures), against_curvature(config, found[0][2]),
            most(config, *found[0][1:])]  # fmt: skip


def against_epsilon(config: Config, figures: dict[str, float]) -> report.Section:
    """Link 2: curvature and trace by both optimisers."""
    along = np.array([*config.epsilons, BEYOND * config.epsilons[-1]])
    pictures = []
    for kind, y in (("curvature", "mean ||g(x + h v) - g(x)|| / h"), ("trace", "mean trace of the input Hessian")):
        lines: dict[str, tuple[Any, Any]] = {}
        for name in config.optimizers:
            values = np.array([figures[f"{kind}/{name}/{called(epsilon)}"] for epsilon in budgets(config)])
            lines[name] = along, values
            if kind == "curvature":
                fit = trends.fit_saturation(budgets(config), values)
                grid = np.geomspace(along[0], along[-1], 100)
                a, b, c = fit.parameters
                lines[f"{name}, fit a + b exp(-c epsilon)"] = grid, a + b * np.exp(-c * grid)
        positive = all(np.min(values) > 0 for _, values in lines.values())
        pictures.append(plots.curves(
            config.workdir, f"{kind}_epsilon", lines, x=f"epsilon at delta {config.delta:g}; last: no noise", y=y,
            log_x=True, log_y=positive,
        ))  # fmt: skip
    head = ("network", *KINDS)
    rows = [
        (f"{name}, {called(epsilon)}", *(f"{figures[f'{kind}/{name}/{called(epsilon)}']:.3f}" for kind in KINDS))
        for name in config.optimizers
        for epsilon in budgets(config)
    ]
    text = (
        "Mean over training samples and seeds, true labels. The direction depends on the optimiser: steps of RMSprop "
        "have one size, so that noise means less training and a flat loss; steps of SGD grow with the noise, and so do "
        "weights. The theorem bounds curvature by epsilon up to constants that hold the largest loss and the number of "
        "samples; it does not say which epsilon has the larger one. Curves named fit are fits, not bounds."
    )
    return report.Section("Privacy and curvature", text, tuple(pictures), (head, *rows))


def against_bounds(config: Config, figures: dict[str, float]) -> report.Section:
    """Link 3: measured memorization, and what it may be at most."""
    grid = np.geomspace(min(config.memorization_epsilons), max(config.memorization_epsilons), 60)
    kinds: tuple[links.Kind, ...] = (config.bound, "earlier")
    lines: dict[str, tuple[Any, Any]] = {
        f"bound, {kind}": (grid, links.memorization_bound(grid, delta=config.delta, kind=kind)) for kind in kinds
    }
    for name in config.memorize:
        for kind in ("largest", "rms"):
            keys = [f"memorization_{kind}/{name}/{called(epsilon)}" for epsilon in config.memorization_epsilons]
            lines[f"{name}, {kind}"] = config.memorization_epsilons, np.maximum([figures[key] for key in keys], LEAST)
    picture = plots.curves(
        config.workdir, "memorization_epsilon", lines, x=f"epsilon at delta {config.delta:g}", y="memorization",
        log_x=True, log_y=True,
    )  # fmt: skip
    shown = [kind for kind in MEMORIZED if any(key.startswith(f"memorization_{kind}/") for key in figures)]
    rows = [
        (case, *(f"{figures[key]:.4f}" if (key := f"memorization_{kind}/{case}") in figures else "-" for kind in shown))
        for case in (*(case for case, _ in cases(config)), "non_private")
    ]
    planted = f"{figures['violations_planted']:.0f}" if "violations_planted" in figures else "no"
    text = (
        f"By the probability of the label, {config.models} networks a row on independent halves; signed means. rms: "
        f"size of a typical memorization without what sampling adds. By more than chance explains, "
        f"{figures['violations']:.2g} samples a seed lie above the bound of the paper and "
        f"{figures['violations_tight']:.2g} above the tighter one; of a table planted .2 above the {config.bound} "
        f"bound, {planted}. Bounds hold delta."
    )
    head = ("network", *(kind.replace("_", " ") for kind in shown))
    return report.Section("Privacy and memorization", text, (picture,), (head, *rows))


def against_curvature(config: Config, arrays: Arrays) -> report.Section:
    """Link 1: bins, fits, and single samples."""
    bins = binned(config, arrays)
    curves = fits(bins)
    lines = {"means of bins": (bins.x, bins.y)}
    lines |= {f"fit: {name}, R^2 {fit.r2:.3f}": (x, fit.predicted) for name, (x, fit) in curves.items()}
    y = "mean ||g(x + h v) - g(x)|| over networks"
    pictures = (
        plots.curves(config.workdir, "link1_bins", lines, x="memorization, mean of a bin", y=y),
        plots.scatter(config.workdir, "link1", {"samples": (arrays["correct/value"], arrays["fd_norm"])},
                      x="memorization", y=y),
    )  # fmt: skip
    head = ("memorization", "curvature", "its deviation", "samples")
    rows = [(f"{x:.2f}", f"{y:.4g}", f"{s:.2g}", int(n)) for x, y, s, n in zip(*bins, strict=True)]
    text = (
        f"{config.models} ordinary networks on random halves, at the end of training; first seed. Fitted to bins of "
        "more than one sample; subpopulation: slopes that depend on the number of samples in a bin."
    )
    return report.Section("Curvature and memorization", text, pictures, (head, *rows))


def most(config: Config, task: classifier.Task, arrays: Arrays) -> report.Section:
    """The samples that ordinary networks memorize most: what is left of it under privacy."""
    case = cases(config)[-1][0]
    without, private = arrays["memorization/non_private/value"], arrays[f"memorization/{case}/value"]
    order = np.argsort(-without, kind="stable")
    rows = []
    for heading, chosen in (("most", order[:SHOWN]), ("next", order[SHOWN : 2 * SHOWN]), ("least", order[-SHOWN:])):
        said = [f"{task.called(task.label[i])}: {without[i]:.2f}, {private[i]:.2f}" for i in chosen]
        rows.append((heading, [
            (task.image[i], report.caption(task.image[i], task.index[i], text), bool(task.noisy[i]))
            for i, text in zip(chosen, said, strict=True)
        ]))  # fmt: skip
    text = f"Label; memorization of ordinary networks, then of {case}. Red: the label is known to be wrong. First seed."
    return report.gallery("Most memorized", text, config.workdir, "memorized", rows)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Linear correlation."""
    return float(np.corrcoef(a, b)[0, 1])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of raw values."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
