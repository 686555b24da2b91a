"""What each network withstands under which attack, how that falls with the strength, and which entries decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.families import classifier
from experiments.families.classifier import withstood
from experiments.harness import report
from subspace_jax.robustness import audit

if TYPE_CHECKING:
    from experiments.robust_layer.experiment import Config

Found = dict[str, dict[str, np.ndarray]]  # arrays by network


def judge(found: Found) -> dict[str, float]:
    """Figures of one seed."""
    figures: dict[str, float] = {}
    for name, arrays in found.items():
        right = attacked(arrays)
        figures[f"accuracy/{name}"] = float(arrays["clean"].mean())
        figures |= {f"robust/{name}/{kind}": float(values.mean()) for kind, values in right.items()}
        figures[f"robust/{name}/min"] = float(arrays["worst"].mean())
        figures[f"masked/{name}"] = float(right["pgd"].mean() - right["square"].mean())
        figures |= {f"{kind}/{name}": float(arrays[kind]) for kind in ("gradient_norm", "margin_ratio")}
        curve = zip(arrays["strengths"], arrays["curve"], strict=True)
        figures |= {f"pgd_{eps:.3g}/{name}": float(value) for eps, value in curve}
    return figures | {"power": float(found["dense"]["power"])}


def attacked(arrays: dict[str, np.ndarray], word: str = "right") -> dict[str, np.ndarray]:
    """What is right by attack at eps, or "weaker": at the other strengths; both halves of the restarts are one."""
    right = {key.split("/")[1]: values for key, values in arrays.items() if key.startswith(f"{word}/")}
    return right | {"restarts": right["restarts"] & right.pop("restarts_ce")}


def sections(config: Config, figures: dict[str, float], std: dict[str, float], first: Found) -> list[report.Section]:
    """The report: figures of all seeds, curves and pictures of the first."""
    return [scoreboard(config, figures, std, first), strengths(config, first),
            withstood.verdicts({name: a["warnings"] for name, a in first.items()}), *entries(config, first),
            examples(config, first)]  # fmt: skip


def scoreboard(config: Config, figures: dict[str, float], std: dict[str, float], first: Found) -> report.Section:
    """Networks by attacks."""
    kinds = list(dict.fromkeys(kind for arrays in first.values() for kind in attacked(arrays)))
    text = (
        f"Accuracy at eps {config.eps:g}. min: right under all attacks, image by image; masked: Square is stronger "
        f"than PGD by {audit.MASKED} or more. transfer: made on dense. full_softmax, tau_4, tau_16, tau_free: made on "
        "smoother forms of the layer, by an attacker who knows it. The gradient's length says more of the confidence "
        "than of the robustness; margin over its gradient, the change of all pixels that would overturn a linear "
        f"network, is comparable: 1, the whole range, where there is no gradient. {withstood.power('dense', figures)}"
    )
    more = {"gradient": "gradient_norm", "margin / gradient": "margin_ratio"}
    return report.Section(
        "What is withstood", text, (), withstood.scoreboard(list(first), kinds, figures, std, more=more)
    )


def strengths(config: Config, first: Found) -> report.Section:
    """Accuracy over eps under every attack, the worst bold."""
    along, found = classifier.along(config.strengths, config.eps), {}
    at = along.index(config.eps)
    for name, arrays in first.items():
        others, right = attacked(arrays, "weaker"), attacked(arrays)
        right = {kind: np.insert(others[kind], at, values, axis=0) for kind, values in right.items()}
        found[name] = arrays["clean"], right
    return withstood.over_strengths(config.workdir, along, found)


def entries(config: Config, first: Found) -> list[report.Section]:
    """The table entries that decided an image before and after its attack."""
    name = next((name for name in ("npl", "table") if name in first), None)
    if name is None:
        return []
    arrays, rows = first[name], []
    for k, label in enumerate(arrays["label"]):
        shown: list[report.Shown] = []
        for kind, image, said in zip(("before", "after"), ("images", "made"), arrays["said"], strict=True):
            answer = int(said[k])
            shown.append((withstood.drawn(arrays[image][k : k + 1])[0], f"says {answer}", bool(answer != label)))
            weights, labels = arrays[f"entry_weight_{kind}"][k], arrays[f"entry_label_{kind}"][k]
            near = withstood.drawn(arrays[f"entry_{kind}"][k])
            shown += [(x, f"{y}: {w:.2f}", False) for x, y, w in zip(near, labels, weights, strict=True)]
        rows.append((f"a {label}", shown))
    text = (
        f"{name}, first seed: an image and its three nearest entries with their weights, before and after the attack. "
        "Where a small change makes other entries the nearest, the output jumps, and gradients say nothing of it."
    )
    return [report.gallery("What decided", text, config.workdir, "entries", rows)]


def examples(config: Config, first: Found) -> report.Section:
    """Images that fell, the change, and what the network then says."""
    shown = {n: first[n] for n in ("dense", "npl", "adversarial", "pixel_knn") if n in first}
    return withstood.examples(config.workdir, config.eps, shown)
