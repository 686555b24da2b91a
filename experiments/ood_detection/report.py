"""How well each detector tells known from unknown, near and far apart, what it costs, what scaling and training add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import plots, report
from subspace_jax.ood import evaluation

if TYPE_CHECKING:
    from experiments.ood_detection.experiment import Config

Arrays = dict[str, np.ndarray]
Found = dict[int, dict[str, dict[str, Arrays]]]  # arrays by seed, training and part
KNOWN, CHANCE = "id", 0.5
KINDS = "auroc", "fpr95", "fpr95_other", "aupr_in", "aupr_out"
SCALING = "msp", "norm", "std", "weight", "msp_t", "norm_matched", "maxlogit"
TRAINED_ON = "gaussian"  # the noise of the auxiliary class
SIDES = "near", "far"
SAME = "msp", "energy"  # beside the auxiliary class, of the same network
DRAWN, MOST_SETS = ("aux", "msp"), 5  # of the histograms
UNTUNED = "No detector was tuned on OOD data: every setting was fixed beforehand."


def names(arrays: Arrays) -> tuple[list[str], list[str]]:
    """Detectors and unknown sets of a part."""
    pairs = [name.split("/")[1:] for name in arrays if name.startswith("score/")]
    return list(dict.fromkeys(p[0] for p in pairs)), list(dict.fromkeys(p[1] for p in pairs if p[1] != KNOWN))


def judge(config: Config, found: dict[str, dict[str, Arrays]], near: list[str]) -> dict[str, float]:
    """Of one seed: "<kind>/<training>/<detector>/<set>", means over near and over far sets, accuracies, costs."""
    figures: dict[str, float] = {}
    for training, parts in found.items():
        for arrays in reversed(parts.values()):  # what is flagged of known inputs is said of all classes
            figures |= separations(config, training, arrays)
            flagged = {name: value for name, value in arrays.items() if name.startswith("flagged/")}
            figures |= {name.replace("/", f"/{training}/"): float(value) for name, value in flagged.items()}
        first = parts.get("all") or parts["near"]
        figures |= averages(figures, training, names(first)[0], near)
        figures |= {f"accuracy/{training}": float(first["accuracy"])} if "accuracy" in first else {}
    listed = {name[5:]: cost for parts in found.values() for name, cost in next(iter(parts.values())).items()
              if name.startswith("cost/")}  # fmt: skip
    for number, kind in enumerate(("cost_flops", "state_floats", "passes")):
        figures |= {f"{kind}/{name}": float(cost[number]) for name, cost in listed.items()}
    plain = next(iter(found.values()))
    last = plain[list(plain)[-1]]  # the part of near classes, where there is one
    return figures | {name: float(value) for name, value in last.items() if name.startswith("class_spread/")}


def metric_rows(seed: int, figures: dict[str, float]) -> list[dict[str, Any]]:
    """One row a training, detector and set."""
    cells = [key.removeprefix("auroc/") for key in figures if key.startswith("auroc/")]
    return [
        {"seed": seed} | dict(zip(("training", "detector", "set"), place.split("/"), strict=True))
        | {kind: figures[f"{kind}/{place}"] for kind in KINDS}
        for place in cells
    ]  # fmt: skip


def separations(config: Config, training: str, arrays: Arrays) -> dict[str, float]:
    """Figures of every detector on every set of a part."""
    figures, (detectors, sets) = {}, names(arrays)
    other = "ood" if config.positive == "id" else "id"
    for name in detectors:
        for place in sets:
            sides = arrays[f"score/{name}/{KNOWN}"], arrays[f"score/{name}/{place}"]
            one = evaluation.separation(*sides, positive=config.positive)
            values = one._asdict() | {"fpr95_other": evaluation.separation(*sides, positive=other).fpr95}
            figures |= {f"{kind}/{training}/{name}/{place}": values[kind] for kind in KINDS}
    return figures


def averages(figures: dict[str, float], training: str, detectors: list[str], near: list[str]) -> dict[str, float]:
    """Means of the figures over near sets and over far sets."""
    found = {}
    for kind in KINDS:
        for name in detectors:
            start = f"{kind}/{training}/{name}/"
            sets = {key.removeprefix(start): value for key, value in figures.items() if key.startswith(start)}
            for side, inside in (("near", True), ("far", False)):
                values = [value for place, value in sets.items() if (place in near) == inside]
                found |= {f"{start}{side}": float(np.mean(values))} if values else {}
    return found


def worst_seed(runs: list[dict[str, float]]) -> dict[str, float]:
    """The smallest AUROC of the auxiliary class over the seeds: "worst_seed/<training>/<set>"."""
    found = {}
    for key in runs[0]:
        kind, training, *rest = key.split("/")
        if kind == "auroc" and rest[0] == "aux" and rest[1] not in SIDES:
            found[f"worst_seed/{training}/{rest[1]}"] = min(run[key] for run in runs)
    return found


def sections(
    config: Config, figures: dict[str, float], std: dict[str, float], found: Found, shown: dict[str, np.ndarray]
) -> list[report.Section]:
    """The report: figures of all seeds, scores and pictures of the first."""
    first = next(iter(found.values()))
    tables = [section for training in first for section in scoreboard(config, figures, std, training)]
    whole = [*tables, scaling(config, figures, std, first), *auxiliary(figures, std, first)]
    whole += [costs(config, figures, first)] if any(key.startswith("cost_flops/") for key in figures) else []
    return [*whole, histograms(config, first), *pictures(config, shown)]


def scoreboard(config: Config, figures: dict[str, float], std: dict[str, float], training: str) -> list[report.Section]:
    """AUROC and FPR95 of every detector: near, far, and every set."""
    start = f"auroc/{training}/"
    cells = [key.removeprefix(start).split("/") for key in figures if key.startswith(start)]
    detectors, sets = (list(dict.fromkeys(column)) for column in zip(*cells, strict=True))
    sets = [*(side for side in SIDES if side in sets), *(s for s in sets if s not in ("near", "far"))]
    below = [f"{d} on {s}" for d in detectors for s in sets if figures[f"{start}{d}/{s}"] < CHANCE]
    warning = f" Below chance: {', '.join(below)}." if below else ""
    accuracy = figures.get(f"accuracy/{training}")
    said = f"Accuracy {accuracy:.4f}. " if accuracy is not None else ""
    other = "ood" if config.positive == "id" else "id"
    matrix = np.array([[figures[f"{start}{d}/{s}"] for s in sets] for d in detectors])
    figure = plots.heatmap(
        config.workdir, f"auroc_{training}", matrix, rows=detectors, columns=sets, x="unknown set", y=""
    )
    texts = {
        "auroc": f"{said}Means ± deviation over the seeds; near and far are means over their sets.{warning} {UNTUNED}",
        "fpr95": f"Share of the negatives let pass where 95 % of the positives ({config.positive}) are found.",
        "fpr95_other": f"The other convention: {other} is positive. Compare papers in one of them.",
    }
    return [
        report.Section(
            f"{training}: {kind}", text, (figure,) if kind == "auroc" else (),
            (("detector", *sets), *((d, *(cell(figures, std, f"{kind}/{training}/{d}/{s}") for s in sets))
                                    for d in detectors)),
        )
        for kind, text in texts.items()
    ]  # fmt: skip


def cell(figures: dict[str, float], std: dict[str, float], key: str) -> str:
    """Mean and deviation; what is not there is left blank."""
    return f"{figures[key]:.3f} ± {std[key]:.3f}" if key in figures else ""


def scaling(
    config: Config, figures: dict[str, float], std: dict[str, float], first: dict[str, dict[str, Arrays]]
) -> report.Section:
    """Norm-scaling beside the controls that change the temperature alone, or the scaling alone."""
    training = next(iter(first))
    there = [name for name in SCALING if any(key.startswith(f"auroc/{training}/{name}/") for key in figures)]
    sides = [side for side in SIDES if any(key.endswith(f"/{side}") for key in figures)]
    rows = [(name, *(cell(figures, std, f"auroc/{training}/{name}/{side}") for side in sides)) for name in there]
    told = ""
    keys = [f"auroc/{training}/{name}/near" for name in ("msp", "norm", "msp_t", "norm_matched")]
    if all(key in figures for key in keys):
        plain, norm, hot, same = (figures[key] for key in keys)
        told = (
            f" Near: norm {norm - plain:+.4f} over msp; the temperature alone gives {hot - plain:+.4f}, the scaling "
            f"alone, at the confidence of msp, {same - plain:+.4f}."
        )
        told += " Most of the gain is temperature." if norm > plain and hot - plain > (norm - plain) / 2 else ""
    if "class_spread/raw" in figures:
        told += (
            f" Spread of the classes' 5 % quantiles: {figures['class_spread/raw']:.2f} raw, "
            f"{figures['class_spread/std']:.2f} after std."
        )
    text = (
        "AUROC. msp_t: raw logits at the temperature that gives the mean confidence of norm; norm_matched: norm at the "
        f"mean confidence of msp; maxlogit knows no temperature.{told}"
    )
    bars = {side: [figures.get(f"auroc/{training}/{name}/{side}", np.nan) for name in there] for side in sides}
    drawn = (plots.bars(config.workdir, "scaling", bars, labels=there, x="", y="AUROC"),) if there and sides else ()
    return report.Section("What norm-scaling adds", text, drawn, (("detector", *sides), *rows) if rows else ())


def auxiliary(
    figures: dict[str, float], std: dict[str, float], first: dict[str, dict[str, Arrays]]
) -> list[report.Section]:
    """The auxiliary class on the noise it was trained on and on others, beside MSP of plain training."""
    listed = []
    for training in (name for name in first if f"flagged/{name}/{KNOWN}" in figures):
        sets = [key.split("/")[2] for key in figures if key.startswith(f"flagged/{training}/")]
        compared = *(f"{training}/{one}" for one in ("aux", "aux_max", *SAME)), "erm/msp"
        kinds = {TRAINED_ON: "trained on", KNOWN: "known"}
        rows = [
            (place, kinds.get(place, "unlike it"), *(cell(figures, std, f"auroc/{one}/{place}") for one in compared),
             cell(figures, std, f"flagged/{training}/{place}"),
             f"{figures[worst]:.3f}" if (worst := f"worst_seed/{training}/{place}") in figures else "")
            for place in sets
        ]  # fmt: skip
        text = "AUROC, and the share whose largest output is the auxiliary class: a decision without threshold."
        text += f" {', '.join(SAME)}: what plain detectors make of the known logits of the same network."
        near = [figures.get(f"auroc/{one}/near") for one in (*compared[:2], compared[-1])]
        if None not in near:
            aux, largest, plain = near
            text += (
                f" Near the classes: {aux:.3f} by aux, {largest:.3f} by aux_max, {plain:.3f} by msp of plain training."
            )
        head = "set", "noise", "aux", "aux_max", *SAME, "msp of erm", "flagged", "worst seed of aux"
        listed.append(report.Section(f"The auxiliary class of {training}", text, (), (head, *rows)))
    return listed


def costs(config: Config, figures: dict[str, float], first: dict[str, dict[str, Arrays]]) -> report.Section:
    """AUROC over far and near sets against the operations a detector adds; that of the first training that has it."""
    listed = [key.removeprefix("cost_flops/") for key in figures if key.startswith("cost_flops/")]
    drawn, columns = [], {}
    for side in SIDES:
        columns[side] = {}
        for name in listed:
            keys = [key for one in first if (key := f"auroc/{one}/{name}/{side}") in figures]
            columns[side] |= {name: figures[keys[0]]} if keys else {}
        places = {name: (figures[f"cost_flops/{name}"], value) for name, value in columns[side].items()}
        if places:
            picture = plots.points(
                config.workdir, f"cost_{side}", places, x="operations added per input", y=f"AUROC, {side}", log_x=True
            )
            drawn.append(picture)
    rows = [
        (name, *(f"{figures[f'{kind}/{name}']:,.0f}" for kind in ("passes", "cost_flops", "state_floats")),
         *(f"{columns[side][name]:.3f}" if name in columns[side] else "" for side in SIDES))
        for name in listed
    ]  # fmt: skip
    text = (
        "Per input: forward passes in all, operations beside the first of them, numbers stored beside the network. "
        "Those of the auxiliary class are its one unit. What they take in time: benchmarks.ood."
    )
    head = "detector", "passes", "operations added", "numbers stored", "AUROC near", "AUROC far"
    return report.Section("Cost against AUROC", text, tuple(drawn), (head, *rows))


def histograms(config: Config, first: dict[str, dict[str, Arrays]]) -> report.Section:
    """Scores of known and unknown inputs, first seed: of the auxiliary class where there is one, else of MSP."""
    drawn = []
    for training, parts in first.items():
        for part, arrays in parts.items():
            detectors, sets = names(arrays)
            name = next(one for one in (*DRAWN, *detectors) if one in detectors)
            sides = {place: arrays[f"score/{name}/{place}"] for place in (KNOWN, *sets[:MOST_SETS])}
            low, high = np.quantile(np.concatenate(list(sides.values())), [0.005, 0.995])
            groups = {place: np.clip(values, low, high) for place, values in sides.items()}
            where = f"scores_{training}_{part}_{name}"
            drawn.append(plots.histograms(config.workdir, where, groups, x=f"{name} of {training}"))
    return report.Section("Scores", "First seed; the outer half per cent is drawn at the edges.", tuple(drawn))


def pictures(config: Config, shown: dict[str, np.ndarray]) -> list[report.Section]:
    """Some inputs of every set."""
    rows: list[tuple[str, list[report.Shown]]] = [
        (name, [(image, "", False) for image in images]) for name, images in shown.items() if images.ndim == 4
    ]
    return [report.gallery("Unknown inputs", "First seed.", config.workdir, "sets", rows)] if rows else []
