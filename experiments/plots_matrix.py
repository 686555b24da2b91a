"""Pictures of a few numbers by name: grouped bars, a matrix with its values written in."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import plots


def bars(
    workdir: str,
    name: str,
    groups: Mapping[str, Sequence[float] | np.ndarray],
    *,
    labels: Sequence[Any],
    x: str,
    y: str,
) -> pathlib.Path:
    """One group of bars a label, one bar a legend entry: {legend: a height for each label}."""
    figure, ax = plots.axes(width=max(7.0, 0.35 * len(labels) * (len(groups) + 1)))
    width = 0.8 / len(groups)
    for number, (legend, heights) in enumerate(groups.items()):
        along = np.arange(len(labels)) + (number - (len(groups) - 1) / 2) * width
        ax.bar(along, heights, width, color=plots.COLORS[number % len(plots.COLORS)], label=legend)
    long = max(len(str(label)) for label in labels) > 4
    ax.set_xticks(
        range(len(labels)), list(map(str, labels)), rotation=30 if long else 0, ha="right" if long else "center"
    )
    ax.set(xlabel=x, ylabel=y)
    if len(groups) > 1:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return plots.save(figure, workdir, name)


def heatmap(
    workdir: str,
    name: str,
    matrix: np.ndarray,
    *,
    rows: Sequence[Any],
    columns: Sequence[Any],
    x: str,
    y: str,
    mark: tuple[int, int] | None = None,
    format: str = ".3f",
) -> pathlib.Path:
    """Cells (row, column) coloured by value, with the value inside; `mark` gets a red frame."""
    figure, ax = plots.axes(1.5 + 0.7 * len(columns), 1.2 + 0.5 * len(rows))
    low, high = np.nanmin(matrix), np.nanmax(matrix)
    ax.imshow(matrix, cmap="Blues", aspect="auto", vmin=low, vmax=high if high > low else low + 1)
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value > (low + high) / 2 and high > low else "black"
        ax.text(column, row, f"{value:{format}}", ha="center", va="center", fontsize=8, color=color)
    if mark:
        corner = mark[1] - 0.5, mark[0] - 0.5
        ax.add_patch(plots.Rectangle(corner, 1, 1, fill=False, color=plots.COLORS[1], lw=2.5, clip_on=False))
    ax.set_xticks(range(len(columns)), list(map(str, columns)))
    ax.set_yticks(range(len(rows)), list(map(str, rows)))
    ax.set(xlabel=x, ylabel=y)
    return plots.save(figure, workdir, name)


def points(workdir: str, name: str, places: Mapping[str, tuple[float, float]], *, x: str, y: str) -> pathlib.Path:
    """One point a legend entry: (x, y); colour and shape together tell up to 24 apart."""
    figure, ax = plots.axes()
    for number, (label, place) in enumerate(places.items()):
        turn, color = divmod(number, len(plots.COLORS))
        ax.scatter(*place, s=50, alpha=0.8, color=plots.COLORS[color], marker="o^s"[turn % 3], label=label)
    ax.set(xlabel=x, ylabel=y)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return plots.save(figure, workdir, name)
