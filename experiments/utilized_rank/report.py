"""What each layer uses and what is lost without the rest: the pictures and tables of utilized_rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import plots, report
from experiments.utilized_rank.protocol import COMPARED, METHODS, REFERENCE
from subspace_jax.core import capture

if TYPE_CHECKING:
    from experiments.utilized_rank.experiment import Config


CEILING = 8  # nines of energy that are drawn


def sections(config: Config, figures: dict[str, float], table: capture.Layers, parts: dict) -> list[report.Section]:
    """What is used, what is lost: pictures of the first seed, figures over all."""
    cuts = [name for name, part in parts.items() if "shares" in part]
    return [used_section(config, table, parts, cuts), spectra_section(config, table, parts["use"]),
            lost_section(config, figures, cuts), peers_section(figures, cuts)]  # fmt: skip


def used_section(config: Config, table: capture.Layers, parts: dict, cuts: list[str]) -> report.Section:
    """Bars of utilization by layer and cut, and the ranks behind them."""
    groups = {name: parts[name]["shares"].tolist() for name in cuts}
    bars = plots.bars(config.workdir, "utilization", groups, labels=list(table), x="layer", y="utilization")
    use = parts["use"]
    lines = [
        (path, layer.d_in, layer.d_out, *use[f"ranks/{path}"].tolist(), f"{use[f'utilization/{path}']:.3f}",
         f"{use[f'effective_rank/{path}']:.1f}") for path, layer in table.items()
    ]  # fmt: skip
    head = (
        "layer",
        "inputs",
        "outputs",
        "rank of the kernel",
        "k of inputs",
        "k of outputs",
        "utilization",
        "effective rank",
    )
    text = (
        f"Utilization is the smaller k over the smaller side of the kernel; the table is that of tau {REFERENCE}. The "
        "effective rank, exp(entropy), counts without a threshold. First seed."
    )
    return report.Section("What each layer uses", text, (bars,), (head, *lines))


def spectra_section(config: Config, table: capture.Layers, use: dict[str, np.ndarray]) -> report.Section:
    """Kept energy of inputs and outputs against the number of directions, and where each tau cuts."""
    drawn = []
    for side in ("inputs", "outputs"):
        kept = {path: np.cumsum(use[f"{side}/{path}"]) / use[f"{side}/{path}"].sum() for path in table}
        lines = {path: (1 + np.arange(len(share)), nines(share)) for path, share in kept.items()}
        ends = np.array([1, max(map(len, kept.values()))])
        lines |= {f"tau {tau}": (ends, nines(np.array([tau, tau]))) for tau in config.tau}
        x, y = f"directions of the {side}", "kept energy: 1, 2, 3 for .9, .99, .999"
        drawn.append(plots.curves(config.workdir, f"spectra_{side}", lines, x=x, y=y, log_x=True))
    text = "A layer reaches the line of a tau at the number of directions that the projection keeps. First seed."
    return report.Section("Spectra", text, tuple(drawn))


def nines(share: np.ndarray) -> np.ndarray:
    """-log10(1 - share), cut where rounding begins."""
    return -np.log10(np.maximum(1 - share, 10.0**-CEILING))


def lost_section(config: Config, figures: dict[str, float], cuts: list[str]) -> report.Section:
    """Accuracy against parameters, every cut and every baseline."""
    taus = sorted((name for name in cuts if name != "search"), key=lambda name: figures[f"parameters_ratio/{name}"])
    curves = {"projected": "accuracy_change/{}", "fine-tuned": "accuracy_change_finetuned/{}"}
    curves |= {method: f"accuracy_change/{method}_{{}}" for method in METHODS}
    points = {legend: [(name, key.format(name)) for name in taus] for legend, key in curves.items()}
    points["searched"] = [("search", "accuracy_change/search")]
    lines: dict[str, tuple[Any, Any]] = {}
    for legend, named in points.items():
        if there := [(figures[f"parameters_ratio/{name}"], figures[key]) for name, key in named if key in figures]:
            lines[legend] = tuple(np.transpose(there))
    x, y = "kernel parameters left", "change of test accuracy"
    drawn = plots.curves(config.workdir, "accuracy_and_parameters", lines, x=x, y=y)
    kinds = "parameters_ratio", "accuracy_change", "accuracy_change_finetuned", "inference_time"
    cells = [(name, *(f"{figures[f'{kind}/{name}']:.4f}" for kind in kinds)) for name in cuts]
    text = f"Means over the seeds; test accuracy before: {figures['test_accuracy/before']:.4f}. Inference time is that "
    text += "of the factorised network over that of the dense one."
    head = "cut", "parameters left", "accuracy change", "after fine-tuning", "inference time"
    return report.Section("What is lost", text, (drawn,), (head, *cells))


def peers_section(figures: dict[str, float], cuts: list[str]) -> report.Section:
    """Accuracy change of every baseline."""
    names = [name for name in cuts if name in COMPARED]
    lines = [("utilized rank", *(f"{figures[f'accuracy_change/{name}']:.4f}" for name in names))]
    lines += [(m, *(f"{figures[f'accuracy_change/{m}_{name}']:.4f}" for name in names)) for m in METHODS]
    text = "Change of test accuracy before any fine-tuning, means over the seeds."
    return report.Section("Other kernels of the same ranks", text, table=(("method", *names), *lines))
