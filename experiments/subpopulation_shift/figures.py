"""The class tree on a circle with its mistakes as paths, and the coefficient as error rate times severity."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import plots
from subspace_jax.hierarchy.tree import Tree, distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUND = 0.9  # how far a path is bent towards the nodes that it passes
POINTS = 40  # of a path
LONGEST = 18  # characters of a class name that are shown
CHARACTER, HALF = 0.06, 2.6  # inches: a character, half a panel


def colour(levels: int, far: int) -> Any:
    """From pale to dark red with the distance."""
    import matplotlib

    return matplotlib.colormaps["YlOrRd"](0.35 + 0.6 * (far / 2 - 1) / max(levels - 1, 1))


def places(tree: Tree) -> dict[tuple[int, int], np.ndarray]:
    """Points of all nodes (level, node) with classes on the unit circle, neighbours on the tree beside each other."""
    order = sorted(range(tree.classes), key=lambda c: tree.paths[c])
    angle = {c: np.pi / 2 - 2 * np.pi * (i + 0.5) / tree.classes for i, c in enumerate(order)}
    found = {(-1, 0): np.zeros(2)}
    for level in range(tree.levels):
        radius = (level + 1) / tree.levels
        for node in range(tree.sizes[level]):
            below = [angle[c] for c in range(tree.classes) if tree.paths[c][level] == node]
            found[level, node] = radius * np.array([np.cos(np.mean(below)), np.sin(np.mean(below))])
    return found


def path(tree: Tree, place: dict[tuple[int, int], np.ndarray], one: int, other: int) -> np.ndarray:
    """A smooth curve from class to class by their nodes up to the lowest common one (points, 2)."""
    up, down = (list(enumerate(tree.paths[c])) for c in (one, other))
    shared = sum(a == b for a, b in zip(up, down, strict=True))
    top = up[shared - 1] if shared else (-1, 0)
    passed = np.array([place[node] for node in (*up[shared:][::-1], top, *down[shared:])])
    straight = np.linspace(passed[0], passed[-1], len(passed))
    return bent(ROUND * passed + (1 - ROUND) * straight)


def bent(points: np.ndarray) -> np.ndarray:
    """The Bezier curve with these control points."""
    along, control = np.linspace(0, 1, POINTS)[:, None, None], points[None].repeat(POINTS, 0)
    while control.shape[1] > 1:
        control = (1 - along) * control[:, :-1] + along * control[:, 1:]
    return control[:, 0]


def tree_with_mistakes(
    workdir: str, tree: Tree, counts: Mapping[str, np.ndarray], said: Mapping[str, str]
) -> pathlib.Path:
    """A panel a method: {method: counts (true, answered)}, `said` below its name; width is the share of answers."""
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=(5.2 * len(counts), 5.6), layout="constrained")
    widest = max((c - np.diag(np.diag(c))).max() / max(c.sum(), 1) for c in counts.values()) or 1.0
    for ax, (name, matrix) in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True):
        panel(ax, tree, matrix / max(matrix.sum(), 1) / widest)
        ax.set_title(f"{name}: {said[name]}", fontsize=10)
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour(tree.levels, far), lw=3, label=f"distance {far}")
            for far in range(2, 2 * tree.levels + 1, 2)]  # fmt: skip
    figure.legend(handles=keys, frameon=False, fontsize=9, ncols=tree.levels, loc="outside lower center")
    return plots.save(figure, workdir, "tree")


def panel(ax: Any, tree: Tree, share: np.ndarray) -> None:
    """Mistakes, the far ones on top, and over them the tree in grey."""
    place, far = places(tree), distance(tree)
    for c, own in enumerate(tree.paths):
        for level in range(tree.levels):
            above = (level - 1, own[level - 1]) if level else (-1, 0)
            ends = np.array([place[above], place[level, own[level]]])
            ax.plot(*ends.T, color="#6b7280", lw=1.4, marker="o", ms=3, zorder=3)
        write(ax, 1.06 * place[tree.levels - 1, c], short(tree.names[-1][c]))
    for one, other in sorted(zip(*np.nonzero(share), strict=True), key=lambda pair: far[pair]):
        if one != other:
            curve = path(tree, place, one, other)
            ax.plot(*curve.T, color=colour(tree.levels, far[one, other]), lw=0.4 + 7 * share[one, other], alpha=0.65,
                    solid_capstyle="round", zorder=2)  # fmt: skip
    reach = max(1.2, 1.08 / (1 - CHARACTER * max(len(short(name)) for name in tree.names[-1]) / HALF))
    ax.set_aspect("equal")
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    ax.set_axis_off()


def short(name: str) -> str:
    """A name, cut where it is long."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def write(ax: Any, place: np.ndarray, name: str) -> None:
    """A class name outside the circle: numbers upright, names along the radius."""
    x, y = place
    if len(name) < 3:
        ax.text(x, y, name, fontsize=8, ha="center", va="center")
        return
    flip = 180 if x < 0 else 0
    turn = np.degrees(np.arctan2(y, x)) + flip
    side = "right" if flip else "left"
    ax.text(x, y, name, rotation=turn, fontsize=8, ha=side, va="center", rotation_mode="anchor")


def error_by_severity(workdir: str, points: Mapping[str, tuple[float, float]]) -> pathlib.Path:
    """A point a method (error rate, severity) over lines of equal coefficient."""
    figure, ax = plots.axes(7.5, 4.6)
    for number, (name, (error, severity)) in enumerate(points.items()):
        marker = "o^s"[number // len(plots.COLORS) % 3]
        ax.plot(error, severity, marker, ms=8, color=plots.COLORS[number % len(plots.COLORS)], label=name)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    along = np.linspace(max(left, 1e-6), right, 200)
    for value in np.linspace(max(left, 0) * low, right * high, 9)[1:-1]:
        ax.plot(along, value / along, color="#c3c9d4", lw=0.8, zorder=0)
        across = value / right
        if low < across < high:
            ax.text(right, across, f" cc {value:.2f}", fontsize=7, color="#6b7280", va="center")
    ax.set(xlim=(left, right), ylim=(low, high))
    ax.set(xlabel="error rate on unseen kinds", ylabel="mean distance of the errors")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.1, 0.5))
    return plots.save(figure, workdir, "error_severity")
