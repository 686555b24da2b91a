"""What each network withstands under which attack, how that falls with the strength, and which entries decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.harness import plots, report
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
        curve = zip(arrays["strengths"], arrays["curve/pgd"].mean(axis=1), strict=True)
        figures |= {f"pgd_{eps:.3g}/{name}": float(value) for eps, value in curve}
    return figures | {"power": float(found["dense"]["power"])}


def attacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is right by attack; both halves of the restarts are one."""
    right = {key.split("/")[1]: values for key, values in arrays.items() if key.startswith("right/")}
    return right | {"restarts": right["restarts"] & right.pop("restarts_ce")}


def sections(config: Config, figures: dict[str, float], std: dict[str, float], first: Found) -> list[report.Section]:
    """The report: figures of all seeds, curves and pictures of the first."""
    return [scoreboard(config, figures, std, first), strengths(config, first), verdicts(first), *entries(config, first),
            examples(config, first)]  # fmt: skip


def scoreboard(config: Config, figures: dict[str, float], std: dict[str, float], first: Found) -> report.Section:
    """Networks by attacks, the worst first; a cell is marked where the search without gradients wins."""
    kinds = list(dict.fromkeys(kind for arrays in first.values() for kind in attacked(arrays)))
    rows = []
    for name in first:
        mark = " masked" if figures[f"masked/{name}"] >= audit.MASKED else ""
        keys = {kind: f"robust/{name}/{kind}" for kind in kinds}
        cells = [f"{figures[key]:.3f}{mark if kind == 'square' else ''}" if key in figures else ""
                 for kind, key in keys.items()]  # fmt: skip
        worst = f"{figures[f'robust/{name}/min']:.3f} ± {std[f'robust/{name}/min']:.3f}"
        rows.append((name, worst, f"{figures[f'accuracy/{name}']:.3f}", *cells,
                     f"{figures[f'gradient_norm/{name}']:.2g}", f"{figures[f'margin_ratio/{name}']:.2g}"))  # fmt: skip
    power = figures["power"]
    weak = " It proves nothing: raise --queries." if power < audit.POWER else ""
    text = (
        f"Accuracy at eps {config.eps:g}. min: right under all attacks, image by image; masked: Square is stronger "
        f"than PGD by {audit.MASKED} or more. transfer: made on dense. full_softmax, tau_4, tau_16, tau_free: made on "
        "smoother forms of the layer, by an attacker who knows it. The gradient's length says more of the confidence "
        "than of the robustness; margin over its gradient is comparable. On dense Square reaches "
        f"{power:.2f} of PGD's success.{weak}"
    )
    head = "network", "min", "clean", *kinds, "gradient", "margin / gradient"
    return report.Section("What is withstood", text, (), (head, *rows))


def strengths(config: Config, first: Found) -> report.Section:
    """Accuracy over eps under the attacks that are tried at several strengths, all of them together as a bold line."""
    panels = {}
    for name, arrays in first.items():
        right = {key.split("/")[1]: values for key, values in arrays.items() if key.startswith("curve/")}
        right |= {"together": np.all(list(right.values()), axis=0)}
        panels[name] = {kind: [arrays["clean"].mean(), *values.mean(axis=1)] for kind, values in right.items()}
    along = [0.0, *first["dense"]["strengths"]]
    picture = plots.bundles(config.workdir, "strengths", along, panels, bold="together", x="eps", y="accuracy")
    text = (
        "First seed; bold: right under all of these, of which the table above has more at --eps. At eps = 1 any image "
        "can become any other: what is not 0 there is an attack that fails."
    )
    return report.Section("Accuracy over the strength", text, (picture,))


def verdicts(first: Found) -> report.Section:
    """What the audit said of each network."""
    rows = [(name, " ".join(a["warnings"].tolist()) or "no sign of masked gradients") for name, a in first.items()]
    return report.Section("Can it be believed?", "First seed.", (), (("network", "verdict"), *rows))


def drawn(images: np.ndarray) -> list[np.ndarray]:
    """Pictures from pixels in [0, 1]."""
    return list(np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8))


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
            shown.append((drawn(arrays[image][k : k + 1])[0], f"says {answer}", bool(answer != label)))
            weights, labels = arrays[f"entry_weight_{kind}"][k], arrays[f"entry_label_{kind}"][k]
            near = drawn(arrays[f"entry_{kind}"][k])
            shown += [(x, f"{y}: {w:.2f}", False) for x, y, w in zip(near, labels, weights, strict=True)]
        rows.append((f"a {label}", shown))
    text = (
        f"{name}, first seed: an image and its three nearest entries with their weights, before and after the attack. "
        "Where a small change makes other entries the nearest, the output jumps, and gradients say nothing of it."
    )
    return [report.gallery("What decided", text, config.workdir, "entries", rows)]


def examples(config: Config, first: Found) -> report.Section:
    """Images that fell, the change, and what the network then says."""
    rows = []
    for name in [n for n in ("dense", "npl", "adversarial", "pixel_knn") if n in first]:
        a = first[name]
        change = 0.5 + (a["made"] - a["images"]) / (2 * config.eps)
        rows.append((name, [(x, str(k), False) for x, k in zip(drawn(a["images"]), a["label"], strict=True)]))
        rows.append(("change", [(x, "", False) for x in drawn(change)]))
        marks = zip(drawn(a["made"]), a["said"][1], a["label"], strict=True)
        rows.append(("sees", [(x, str(k), bool(k != y)) for x, k, y in marks]))
    text = f"First seed, eps {config.eps:g}: images that fell first; grey: unchanged; framed: another answer."
    return report.gallery("Examples", text, config.workdir, "examples", rows)
