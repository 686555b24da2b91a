"""How many mistakes, how severe, and what of the gain is the tree's: tables and pictures of subpopulation_shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.harness import plots, report
from experiments.subpopulation_shift import figures as drawings
from subspace_jax.hierarchy import metrics
from subspace_jax.hierarchy.tree import Tree

if TYPE_CHECKING:
    from experiments.subpopulation_shift.experiment import Config
    from experiments.subpopulation_shift.protocol import Parts

Found = dict[tuple[int, str], dict[str, np.ndarray]]  # arrays of one seed by split and network
GROUPS = "seen", "unseen"
SHOWN, CLASSES = 8, 6  # samples in a row of the gallery, classes of which it shows some


def answers(found: Found, split: int, name: str, group: str) -> np.ndarray:
    """(heads, n): what a method says; a decision by expected distance is one of flat."""
    if name == "expected_distance":
        return found[split, "flat"][f"{group}/near"][None]
    return found[split, name][f"{group}/heads"]


def judge(config: Config, tree: Tree, found: Found) -> dict[str, float]:
    """Figures of one seed: means over its splits, and the main ones of every split."""
    splits = list(dict.fromkeys(split for split, _ in found))
    figures: dict[str, float] = {}
    for name in config.methods:
        for group in GROUPS:
            each = [one_split(tree, answers(found, split, name, group), found[split, "flat"][f"{group}/label"])
                    for split in splits]  # fmt: skip
            figures |= {f"{kind}/{group}/{name}": float(np.mean([one[kind] for one in each])) for kind in each[0]}
            if group == "unseen":
                for split, one in zip(splits, each, strict=True):
                    figures |= {f"split_{split}/{kind}/unseen/{name}": one[kind] for kind in ("accuracy", "cc")}
    return figures


def one_split(tree: Tree, said: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Figures of one method on one group; a single head agrees with itself."""
    found = metrics.severity(said[-1], label, tree)
    agree = float(metrics.head_agreement(said, tree)) if len(said) == tree.levels else 1.0
    levels = {f"accuracy_level_{level}": float(found.levels[level - 1]) for level in range(1, tree.levels)}
    main = {"accuracy": float(found.levels[-1]), "cc": float(found.coefficient), "severity": float(found.severity)}
    return main | levels | {"head_agreement": agree}


def sections(
    config: Config, tree: Tree, figures: dict[str, float], std: dict[str, float], found: dict[int, Found], first: Parts
) -> list[report.Section]:
    """Means over the seeds; trees over all seeds and splits; images, where there are some, of the first split."""
    shown = [scoreboard(config, tree, figures, std), gain(config, figures, found, tree), split_up(config, figures),
             mistakes(config, tree, figures, found), by_split(config, figures)]  # fmt: skip
    return [*shown, images(config, first, found)] if first.task.image.ndim == 4 else shown


def scoreboard(config: Config, tree: Tree, figures: dict[str, float], std: dict[str, float]) -> report.Section:
    """All methods on both groups."""
    inner = [f"accuracy_level_{level}" for level in range(1, tree.levels)]
    head = ("method", "unseen cc", "accuracy", "severity", *(f"level {k + 1}" for k in range(len(inner))),
            "heads agree", "seen cc", "accuracy")  # fmt: skip
    rows = [
        (name, *(f"{figures[f'{kind}/unseen/{name}']:.4f} ± {std[f'{kind}/unseen/{name}']:.4f}"
                 for kind in ("cc", "accuracy")),
         *(f"{figures[f'{kind}/unseen/{name}']:.3f}" for kind in ("severity", *inner, "head_agreement")),
         f"{figures[f'cc/seen/{name}']:.3f}", f"{figures[f'accuracy/seen/{name}']:.3f}")
        for name in config.methods
    ]  # fmt: skip
    text = (
        f"cc: mean distance between answer and truth on the tree, 0 to {2 * tree.levels}, right answers counted as 0; "
        "severity: of the wrong answers alone; level: share of answers under the right node there, whatever the class. "
        "A single head agrees with itself. Unseen: samples of the kinds that were not trained on, from the "
        "training and the test split."
    )
    return report.Section("Every method on seen and unseen kinds", text, (), (head, *rows))


def gain(config: Config, figures: dict[str, float], found: dict[int, Found], tree: Tree) -> report.Section:
    """How much of the lower coefficient the conditions bring, the coarse heads, and three updates alone."""
    runs = [judge(config, tree, one) for one in found.values()]
    pairs = [("joint", "flat", "heads on the tree and their conditions"), ("multitask", "flat", "heads alone"),
             ("joint", "multitask", "conditions alone"), ("sequential", "flat", "sequential against one update"),
             ("flat3", "flat", "three updates a batch alone"), ("sequential", "flat3", "sequential, as many updates"),
             ("expected_distance", "flat", "another decision, nothing trained")]  # fmt: skip
    rows = []
    for name, base, what in (pair for pair in pairs if {*pair[:2]} <= set(config.methods)):
        each = np.array([run[f"cc/unseen/{base}"] - run[f"cc/unseen/{name}"] for run in runs])
        error = f" ± {each.std(ddof=1) / np.sqrt(len(each)):.4f}" if len(each) > 1 else ""
        right = figures[f"accuracy/unseen/{name}"] - figures[f"accuracy/unseen/{base}"]
        rows.append((what, f"{name} - {base}", f"{-each.mean():+.4f}{error}", f"{right:+.4f}"))
    return report.Section("What of it helps?", told(config, figures), (),
                          (("what", "difference", "cc, ± standard error over seeds", "accuracy"), *rows))  # fmt: skip


def told(config: Config, figures: dict[str, float]) -> str:
    """The shares of the gain in words."""
    text = "On unseen kinds, seed by seed. "
    cc = {name: figures[f"cc/unseen/{name}"] for name in config.methods}
    if not {"flat", "multitask", "joint"} <= cc.keys():
        return text
    whole = cc["flat"] - cc["joint"]
    if whole <= 0:
        return text + "Joint training on the tree does not lower the distance here."
    text += f"Joint training lowers the distance by {whole:.3f}, {whole / cc['flat']:.1%} of it; "
    text += f"coarse heads without conditions by {cc['flat'] - cc['multitask']:.3f}, so that the conditions add "
    text += f"{(cc['multitask'] - cc['joint']) / whole:.0%} of the gain."
    if "flat3" in cc:
        text += f" Three updates a batch alone change the distance by {cc['flat3'] - cc['flat']:+.3f}."
    return text


def split_up(config: Config, figures: dict[str, float]) -> report.Section:
    """The coefficient as error rate times severity."""
    places = {
        name: (1 - figures[f"accuracy/unseen/{name}"], figures[f"severity/unseen/{name}"]) for name in config.methods
    }
    text = "To the left fewer mistakes, below milder ones; grey: equal products, that is equal cc."
    return report.Section("More mistakes or worse ones?", text,
                          (drawings.error_by_severity(config.workdir, places),))  # fmt: skip


def counts(found: dict[int, Found], tree: Tree, name: str) -> np.ndarray:
    """Samples by class (true, answered) over all seeds and splits, unseen kinds."""
    matrix = np.zeros((tree.classes, tree.classes), int)
    for one in found.values():
        for split in dict.fromkeys(split for split, _ in one):
            said, label = answers(one, split, name, "unseen")[-1], one[split, "flat"]["unseen/label"]
            np.add.at(matrix, (label, said), 1)
    return matrix


def mistakes(config: Config, tree: Tree, figures: dict[str, float], found: dict[int, Found]) -> report.Section:
    """The class tree with the mistakes of flat and of two methods beside it."""
    beside = [name for name in ("joint", "sequential", *config.methods) if name in config.methods and name != "flat"]
    chosen = ["flat", *list(dict.fromkeys(beside))[:2]]
    matrices = {name: counts(found, tree, name) for name in chosen}
    said = {name: f"cc {figures[f'cc/unseen/{name}']:.3f}, severity {figures[f'severity/unseen/{name}']:.2f}"
            for name in chosen}  # fmt: skip
    picture = drawings.tree_with_mistakes(config.workdir, tree, matrices, said)
    head = "true as answered", "distance", *(f"{name}, share of all" for name in chosen)
    far = drawings.distance(tree)
    wrong = matrices["flat"] - np.diag(np.diag(matrices["flat"]))
    rows = []
    for place in np.argsort(-wrong, axis=None)[:8]:
        one, other = np.unravel_index(place, wrong.shape)
        called = f"{tree.names[-1][one]} as {tree.names[-1][other]}"
        rows.append((called, far[one, other], *(f"{m[one, other] / m.sum():.3%}" for m in matrices.values())))
    text = (
        "Unseen kinds, all seeds and splits: each curve runs from the true class to the answer by the nodes between "
        "them, as wide as it is frequent. Below, the most frequent mistakes of flat."
    )
    return report.Section("The tree with its mistakes", text, (picture,), (head, *rows))


def by_split(config: Config, figures: dict[str, float]) -> report.Section:
    """Accuracy and coefficient of each split."""
    splits = sorted({int(key.split("/")[0].removeprefix("split_")) for key in figures if key.startswith("split_")})
    bars = {name: [figures[f"split_{split}/cc/unseen/{name}"] for split in splits] for name in config.methods}
    picture = plots.bars(config.workdir, "splits", bars, labels=[f"split {k}" for k in splits], x="", y="cc, unseen")
    head = "method", *(f"split {split}: accuracy / cc" for split in splits)
    rows = []
    for name in config.methods:
        cells = [[figures[f"split_{k}/{kind}/unseen/{name}"] for kind in ("accuracy", "cc")] for k in splits]
        rows.append((name, *(f"{accuracy:.3f} / {cc:.3f}" for accuracy, cc in cells)))
    return report.Section("Split by split", "Unseen kinds.", (picture,), (head, *rows))


def images(config: Config, first: Parts, found: dict[int, Found]) -> report.Section:
    """Samples of seen and unseen kinds of each class, and what flat says of them."""
    arrays = next(one for (_, name), one in next(iter(found.values())).items() if name == "flat")
    rows: list[tuple[str, list[report.Shown]]] = []
    for k in range(min(first.own.classes, CLASSES)):
        for kind, group in first.groups.items():
            said = arrays[f"{kind}/heads"][-1]
            chosen = in_turn(np.flatnonzero(group.label == k), group.number)[:SHOWN]
            shown: list[report.Shown] = []
            for i in chosen:
                answer = report.caption(group.raw[i], int(i), first.task.called(int(said[i])))
                shown.append((group.raw[i], answer, bool(said[i] != k)))
            rows += [(f"{first.task.called(k)}, {kind}", shown)] if shown else []
    text = "First seed and split, the first classes; captions: what flat answers; framed: wrong."
    return report.gallery("Kinds that were trained on, and others", text, config.workdir, "kinds", rows)


def in_turn(members: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The samples with one of each kind in turn, so that the first ones show all kinds."""
    rank = np.zeros(len(members))
    for kind in np.unique(number[members]):
        own = number[members] == kind
        rank[own] = np.arange(own.sum())
    return members[np.argsort(rank, kind="stable")]
