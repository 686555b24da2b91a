"""What each network and ensemble withstands, what carries over between them, and which pixels an attack can touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.families.classifier import withstood
from experiments.harness import plots, report
from subspace_jax.robustness import audit, trend

if TYPE_CHECKING:
    from experiments.transferability.experiment import Config

Arrays = dict[str, np.ndarray]
MATRICES = "transfer", "transfer_share", "transfer_fitted", "fit_rmse"
PLAIN = "fp"  # networks that see all of a pixel
OF_ENSEMBLE = "dag"  # the gradient attack that stands for PGD there


def judge(config: Config, arrays: Arrays) -> dict[str, float]:
    """Figures of one seed at the strength --eps."""
    at, figures = list(config.strengths).index(config.eps), {}
    for name, kinds in attacked(arrays).items():
        clean = arrays[f"clean/{name}"]
        right = {kind: values[at] for kind, values in kinds.items()}
        figures[f"accuracy/{name}"] = float(clean.mean())
        figures |= {f"robust/{name}/{kind}": float(values.mean()) for kind, values in right.items()}
        figures[f"robust/{name}/min"] = float((clean & np.all(list(right.values()), axis=0)).mean())
        gradient = right.get("pgd", right.get(OF_ENSEMBLE))
        figures[f"masked/{name}"] = float(gradient.mean() - right["square"].mean())
    plain = str(arrays["names"][0])
    known = arrays[f"clean/{plain}"], *(arrays[f"right/{plain}/{kind}"][at] for kind in ("square", "pgd"))
    figures["power"] = audit.power_of(*known)
    figures |= carried_over(config, arrays, at)
    figures |= {f"robust_scaled/{rule}": float(arrays[f"scaled/{rule}"].mean()) for rule in trend.RULES}
    found = {key: value for key, value in arrays.items() if key.startswith("changeable/")}
    return figures | {key: float(value.mean()) for key, value in found.items()}


def attacked(arrays: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """By network or ensemble and attack, what is right at each strength (strengths, n)."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        if key.startswith("right/"):
            _, name, kind = key.split("/")
            found.setdefault(name, {})[kind] = values
    return found


def matrices(config: Config, arrays: Arrays, at: int) -> dict[str, np.ndarray]:
    """The three ratios of every pair and the error of the fitted form, in images."""
    counts, names = arrays["counts"], arrays["names"].tolist()
    fit = trend.fit_strength(config.strengths, counts)
    raw, share = trend.raw_ratio(counts[..., at], names), trend.share(counts[..., at], names)
    return dict(zip(MATRICES, (raw, share, trend.transfer_metric(fit, config.eps), fit.rmse), strict=True))


def carried_over(config: Config, arrays: Arrays, at: int) -> dict[str, float]:
    """Every pair, and means over the networks that see all of a pixel: "<matrix>/<source>/<target>"."""
    names, figures = arrays["names"].tolist(), {}
    plain = np.array([name.startswith(PLAIN) for name in names])
    for kind, matrix in matrices(config, arrays, at).items():
        figures |= {f"{kind}/{s}/{t}": float(matrix[i, j]) for i, s in enumerate(names) for j, t in enumerate(names)}
        if plain.sum() > 1:
            figures[f"{kind}/fp/fp"] = float(matrix[np.ix_(plain, plain)][~np.eye(plain.sum(), dtype=bool)].mean())
        for i in np.flatnonzero(~plain) if plain.any() else ():
            figures[f"{kind}/fp/{names[i]}"] = float(matrix[plain, i].mean())
            figures[f"{kind}/{names[i]}/fp"] = float(matrix[i, plain].mean())
    return figures


def sections(config: Config, figures: dict[str, float], std: dict[str, float], first: Arrays) -> list[report.Section]:
    """The report: figures of all seeds, curves and pictures of the first."""
    return [
        scoreboard(config, figures, std, first),
        strengths(config, first),
        transfers(config, figures, first),
        sure(config, figures),
        *touched(config, figures, first),
        examples(config, first),
    ]


def scoreboard(config: Config, figures: dict[str, float], std: dict[str, float], first: Arrays) -> report.Section:
    """Networks by attacks, the worst first; a cell is marked where the search without gradients wins."""
    names = list(attacked(first))
    kinds = list(dict.fromkeys(kind for of in attacked(first).values() for kind in of))
    text = (
        f"Accuracy at eps {config.eps:g}. min: right under all attacks, image by image. masked: Square is stronger "
        f"than the gradient attack by {audit.MASKED} or more. transfer: examples made on the first network, or on the "
        f"summed logits of an ensemble. Designed of the first seed: {', '.join(first['designed'].tolist())}. "
        + withstood.power(str(first["names"][0]), figures)
    )
    return report.Section("What is withstood", text, (), withstood.scoreboard(names, kinds, figures, std))


def strengths(config: Config, first: Arrays) -> report.Section:
    """Accuracy over eps, the worst of all attacks as a bold line."""
    found = {name: (first[f"clean/{name}"], kinds) for name, kinds in attacked(first).items()}
    return withstood.over_strengths(config.workdir, config.strengths, found)


def transfers(config: Config, figures: dict[str, float], first: Arrays) -> report.Section:
    """The raw ratio and the share side by side, sources in rows."""
    names, drawn = first["names"].tolist(), []
    for kind, title in (("transfer", "raw ratio"), ("transfer_share", "share of the target's own count")):
        matrix = np.array([[figures[f"{kind}/{s}/{t}"] for t in names] for s in names])
        drawn.append(plots.heatmap(
            config.workdir, kind, matrix, rows=names, columns=names, x=f"target: {title}", y="source", format=".2f"
        ))  # fmt: skip
    fit = trend.fit_strength(config.strengths, first["counts"])
    weak = [f"{s} to {t}" for i, s in enumerate(names) for j, t in enumerate(names) if fit.weak[i, j]]
    told = f" Strengths too weak for the fitted form, which then says nothing: {len(weak)} of {fit.weak.size} pairs."
    text = (
        "Left what share of the source's successes carries over. A target that is hard to break has a small ratio "
        "whatever carries over, so right the same counts beside the target's own: near 1, the examples of the source "
        f"do as well as those made on the target itself.{told if weak else ''}"
    )
    return report.Section("What carries over", text, tuple(drawn))


def sure(config: Config, figures: dict[str, float]) -> report.Section:
    """The rules on an ensemble, and with one member whose logits are scaled up."""
    of = "fp3" if "accuracy/fp3" in figures else "designed"
    rows = [
        (rule, f"{figures[f'robust/{of}/{rule}']:.3f}", f"{figures[f'robust_scaled/{rule}']:.3f}")
        for rule in trend.RULES
    ]
    text = (
        f"Accuracy of {of}. Its answers stay, but the gradients of a member whose logits are multiplied by "
        f"{config.scale_logits:g} vanish on most images: then no pixel is unanimous."
    )
    return report.Section("One sure member", text, (), (("rule", "as trained", "one member sure"), *rows))


def touched(config: Config, figures: dict[str, float], first: Arrays) -> list[report.Section]:
    """Which pixels a change of eps can move to another value of the quantised input."""
    maps = {key.split("/")[1]: values for key, values in first.items() if key.startswith("changeable/")}
    if not maps:
        return []
    drawn: list[report.Shown] = [
        (np.rint(255 * values).astype(np.uint8), f"{name}: {figures[f'changeable/{name}']:.0%}", False)
        for name, values in maps.items()
    ]
    text = (
        f"Dark: pixels of {config.data} that eps = {config.eps:g} moves to another value in most images, and their "
        "share of all. Where few can be moved, the network is robust up to the width of a bin, and by the data: "
        "photographs have more pixels near an edge than drawings."
    )
    return [report.gallery("Changeable pixels", text, config.workdir, "changeable", [("pixels", drawn)])]


def examples(config: Config, first: Arrays) -> report.Section:
    """Images, changes by PGD and what each network then says."""
    names, rows = first["names"].tolist(), []
    clean, label = first["images"], first["y"]

    rows.append(("image", [(x, str(k), False) for x, k in zip(withstood.drawn(clean), label, strict=False)]))
    for name, made, said in list(zip(names, first["made"], first["said"], strict=True))[:: max(1, len(names) // 4)]:
        change = 0.5 + (made - clean) / (2 * config.eps)
        rows.append((f"{name}: change", [(x, "", False) for x in withstood.drawn(change)]))
        shown: list[Any] = [
            (x, str(k), bool(k != y)) for x, k, y in zip(withstood.drawn(made), said, label, strict=False)
        ]
        rows.append((f"{name}: sees", shown))
    text = f"First seed, PGD at eps {config.eps:g}; grey: unchanged. Framed: another answer than the label."
    return report.gallery("Examples", text, config.workdir, "examples", rows)
