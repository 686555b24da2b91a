"""Tables and pictures of what networks withstand: the reports of the questions about attacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.families.classifier import data as classifier
from experiments.harness import plots, report, runner
from subspace_jax.robustness import audit

Arrays = Mapping[str, np.ndarray]
Right = Mapping[str, np.ndarray]  # by attack, whether each image is right at each strength (strengths, n)


def summary(
    config: classifier.Config, found: Mapping[int, Any], judge: Callable, sections: Callable, claims: Callable
) -> runner.Summary:
    """Figures over all seeds, and a report with the pictures of the first.

    Args:
      config: of the run.
      found: what each seed found.
      judge: (config, that) -> figures of the seed.
      sections: (config, figures, deviations, what the first seed found) -> the report.
      claims: (config, figures) -> claims.
    """
    runs = [judge(config, one) for one in found.values()]
    figures, std = runner.over_seeds(runs)
    rows = [{"seed": seed} | run for seed, run in zip(found, runs, strict=True)]
    told = sections(config, figures, std, next(iter(found.values())))
    return runner.Summary(figures, std, runner.judged(claims, config, figures, runs), told, rows)


def scoreboard(
    names: Sequence[str], kinds: Sequence[str], figures: dict[str, float], std: dict[str, float], *,
    more: Mapping[str, str] | None = None,
) -> tuple[tuple[Any, ...], ...]:  # fmt: skip
    """Networks by attacks, the worst first; a cell is marked where the search without gradients wins.

    Args:
      names: of the networks.
      kinds: of the attacks.
      figures: of the run.
      std: deviations.
      more: further columns, {heading: first word of the figure}.
    """
    rows = []
    for name in names:
        mark = " masked" if figures[f"masked/{name}"] >= audit.MASKED else ""
        keys = {kind: f"robust/{name}/{kind}" for kind in kinds}
        cells = [f"{figures[key]:.3f}{mark if kind == 'square' else ''}" if key in figures else ""
                 for kind, key in keys.items()]  # fmt: skip
        worst = f"{figures[f'robust/{name}/min']:.3f} ± {std[f'robust/{name}/min']:.3f}"
        own = [f"{figures[f'{word}/{name}']:.2g}" for word in (more or {}).values()]
        rows.append((name, worst, f"{figures[f'accuracy/{name}']:.3f}", *cells, *own))
    return ("network", "min", "clean", *kinds, *(more or {})), *rows


def power(network: str, figures: dict[str, float]) -> str:
    """How strong the search without gradients was on the network without a defence."""
    weak = " It proves nothing: raise --queries." if figures["power"] < audit.POWER else ""
    return f"On {network} Square reaches {figures['power']:.2f} of PGD's success.{weak}"


def over_strengths(
    workdir: str, along: Sequence[float], found: Mapping[str, tuple[np.ndarray, Right]]
) -> report.Section:
    """Accuracy over eps, each attack as a thin line and the worst of all as a bold one.

    Args:
      workdir: of the run.
      along: the strengths.
      found: by network, what is right clean (n,), and what under each attack.
    """
    panels = {}
    for name, (clean, right) in found.items():
        worst = np.all(list(right.values()), axis=0)
        lines = {kind: values.mean(axis=1) for kind, values in right.items()} | {"min": worst.mean(axis=1)}
        panels[name] = {kind: [clean.mean(), *values] for kind, values in lines.items()}
    picture = plots.bundles(workdir, "strengths", [0.0, *along], panels, bold="min", x="eps", y="accuracy")
    return report.Section("Accuracy over the strength", "First seed; bold: right under all attacks.", (picture,))


def verdicts(warnings: Mapping[str, np.ndarray]) -> report.Section:
    """What the audit said of each network."""
    rows = [(name, " ".join(said.tolist()) or "no sign of masked gradients") for name, said in warnings.items()]
    return report.Section("Can it be believed?", "First seed.", (), (("network", "verdict"), *rows))


def drawn(images: np.ndarray) -> list[np.ndarray]:
    """Pictures from pixels in [0, 1]."""
    return list(np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8))


def examples(workdir: str, eps: float, found: Mapping[str, Arrays]) -> report.Section:
    """Images that fell, the change, and what the network then says; arrays of `attacked.fallen` by network."""
    rows = []
    for name, a in found.items():
        change = 0.5 + (a["made"] - a["images"]) / (2 * eps)
        rows.append((name, [(x, str(k), False) for x, k in zip(drawn(a["images"]), a["label"], strict=True)]))
        rows.append(("change", [(x, "", False) for x in drawn(change)]))
        marks = zip(drawn(a["made"]), a["said"][1], a["label"], strict=True)
        rows.append(("sees", [(x, str(k), bool(k != y)) for x, k, y in marks]))
    text = f"First seed, eps {eps:g}: images that fell first; grey: unchanged; framed: another answer."
    return report.gallery("Examples", text, workdir, "examples", rows)
