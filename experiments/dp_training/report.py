"""What is shown of private training: accuracy against epsilon, audits against what was stated, what was clipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.dp_training.methods import CONTROL, LESS, Case
from experiments.harness import plots, report

if TYPE_CHECKING:
    from experiments.dp_training.experiment import Config

Found = dict[tuple[int, str], dict[str, np.ndarray]]  # arrays by seed and network
Runs = dict[int, dict[str, float]]  # figures by seed
KINDS = "accuracy", "membership_auroc", "clip_fraction", "noise_multiplier", "epsilon_spent", "epsilon_audited"


def figures(cases: list[Case], found: Found, seed: int) -> dict[str, float]:
    """Of one seed: "<kind>/<network>"; what is infinite is left out."""
    listed: dict[str, float] = {}
    for case in cases:
        arrays = found[seed, case.name]
        values = {kind: float(arrays[kind]) for kind in KINDS if kind in arrays}
        values |= {"clip_fraction": float(arrays["history/clip_fraction"].mean()), "noise_multiplier": case.sigma}
        listed |= {f"{kind}/{case.name}": values[kind] for kind in KINDS if np.isfinite(values.get(kind, np.nan))}
    if found[seed, CONTROL]:
        listed[f"epsilon_audited/{CONTROL}"] = float(found[seed, CONTROL]["epsilon_audited"])
    return listed


def metric_rows(cases: list[Case], runs: Runs) -> list[dict[str, Any]]:
    """One row a network and seed."""
    return [
        {"seed": seed, "network": case.name}
        | {kind: run[f"{kind}/{case.name}"] for kind in KINDS if f"{kind}/{case.name}" in run}
        for seed, run in runs.items()
        for case in cases
    ]


def sections(config: Config, cases: list[Case], runs: Runs, found: Found) -> list[report.Section]:
    """The report."""
    audits = [audited(config, cases, runs, found)] if config.canaries else []
    return [scoreboard(config, cases, runs), *audits, over_steps(config, cases, found)]


def scoreboard(config: Config, cases: list[Case], runs: Runs) -> report.Section:
    """Accuracy against epsilon, and everything that was measured."""
    private = [case for case in cases if case.private]
    along = [case.epsilon for case in private]
    lines = {"private": (along, [mean(runs, f"accuracy/{case.name}") for case in private])}
    for name, said in (("eps_inf", "clipped, no noise"), ("non_private", "ordinary training")):
        lines[said] = ([along[0] * 0.9, along[-1] * 1.1], [mean(runs, f"accuracy/{name}")] * 2)
    figure = plots.curves(
        config.workdir, "accuracy", lines, x=f"epsilon, at delta {config.delta:g}", y="test accuracy", log_x=True
    )
    table = [(case.name, *(shown(runs, f"{kind}/{case.name}") for kind in KINDS)) for case in cases]
    text = (
        "Means over the seeds. eps_inf clips and adds no noise; non_private does neither, at a learning rate of its "
        "own. clip fraction: share of sampled gradients that were longer than the clip norm. membership auroc: of the "
        "attack that calls samples with a small loss members, .5 is blind; it may be near .5 without any noise where a "
        "network learns nothing by heart, and proves no privacy. Epsilon covers the training alone: neither these "
        "figures, which are computed from the data, nor the choice of flags by looking at them."
    )
    head = tuple(kind.replace("_", " ") for kind in ("network", *KINDS))
    return report.Section("Accuracy against epsilon", text, (figure,), (head, *table))


def audited(config: Config, cases: list[Case], runs: Runs, found: Found) -> report.Section:
    """Lower bounds beside what was stated, and the scores of the canaries at the smallest epsilon."""
    private = [case for case in cases if case.private]
    along = [case.epsilon for case in private]
    of_seeds = [[run[f"epsilon_audited/{case.name}"] for run in runs.values()] for case in private]
    lines = {
        "stated": (along, along),
        "audited, largest of the seeds": (along, [max(values) for values in of_seeds]),
        "audited, mean": (along, [float(np.mean(values)) for values in of_seeds]),
        "audited, no noise": ([along[0], along[-1]], [mean(runs, "epsilon_audited/eps_inf")] * 2),
        f"audited, a tenth of the noise of {private[0].name}": ([along[0]], [mean(runs, f"epsilon_audited/{CONTROL}")]),
    }
    first = plots.curves(config.workdir, "audits", lines, x="stated epsilon", y="epsilon", log_x=True)
    seed, pictures = next(iter(runs)), [first]
    for name in dict.fromkeys((private[0].name, private[-1].name)):
        arrays = found[seed, name]
        groups = {"included": arrays["canaries_in"], "left out": arrays["canaries_out"]}
        pictures.append(plots.histograms(config.workdir, f"canaries_{name}", groups, x=f"score of a canary, {name}"))
    text = (
        f"{config.canaries} canaries, a random half included: a lower bound that is wrong with chance at most "
        f"{config.significance:g}. One above the stated epsilon would show a broken mechanism; one below it proves "
        f"nothing, since so many canaries cannot show more than about the line without noise. The control states "
        f"{private[0].name} and adds 1/{LESS} of its noise: it must lie above. Histograms: first seed."
    )
    return report.Section("Audited against stated", text, tuple(pictures))


def over_steps(config: Config, cases: list[Case], found: Found) -> report.Section:
    """Clip fraction and loss of every step, mean over the seeds."""
    drawn = []
    for kind, y in (("clip_fraction", "share of gradients clipped"), ("loss", "training loss before the step")):
        lines = {}
        for case in cases:
            rows = [arrays[f"history/{kind}"] for (_, name), arrays in found.items() if name == case.name]
            lines[case.name] = np.arange(1, len(rows[0]) + 1), np.mean(rows, axis=0)
        drawn.append(plots.curves(config.workdir, kind, lines, x="step", y=y))
    text = "Means over the seeds and the samples that were drawn. These metrics are not private."
    return report.Section("Over the steps", text, tuple(drawn))


def mean(runs: Runs, name: str) -> float:
    """Over the seeds."""
    return float(np.mean([run[name] for run in runs.values()]))


def shown(runs: Runs, name: str) -> str:
    """A cell of the table."""
    return f"{mean(runs, name):.3f}" if name in next(iter(runs.values())) else "-"
