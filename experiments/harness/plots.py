"""Pictures of the reports: each function draws one PNG and returns its path."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import launch
from subspace_jax.files import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = "#2458a6", "#d1495b", "#2e8b57", "#e09f3e", "#7b4fa3", "#3aa6b9", "#8c564b", "#6b7280"
WIDE = 9  # letters of a column's name that fit beside the next one's


def save(figure: Figure, workdir: str, name: str) -> pathlib.Path:
    """Write figures/<name>.png of a run; of several processes, in the first."""
    path = pathlib.Path(workdir) / "figures" / f"{name}.png"
    if not launch.first():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path, "wb") as file:
        figure.savefig(file, dpi=110, bbox_inches="tight")
    return path


def canvas(width: float, height: float) -> tuple[Figure, Any]:
    """A figure and its axes."""
    from matplotlib.figure import Figure  # here, since it takes a quarter of an experiment's load time

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def frame(ax: Any, corner: tuple[float, float], width: float, height: float, *, line: float) -> None:
    """A red rectangle around something."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle(corner, width, height, fill=False, color=COLORS[1], lw=line, clip_on=False))


def axes(width: float = 7, height: float = 4.2) -> tuple[Figure, Any]:
    """One plain set of axes."""
    figure, ax = canvas(width, height)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def gallery(workdir: str, name: str, rows: list[tuple[str, list[tuple[np.ndarray, str, bool]]]]) -> pathlib.Path:
    """Rows of (label, [(image uint8 hwc, caption, mark)]) on one canvas; marked images have a red frame."""
    height, width, channels = rows[0][1][0][0].shape
    across = max(len(images) for _, images in rows)
    down, right = int(1.45 * height) + 1, int(1.15 * width) + 1  # one cell, its caption included
    white = 0 if channels == 1 else 255
    page = np.full((down * len(rows), right * across, channels), white, np.uint8)
    figure, ax = canvas(0.95 * across + 0.8, 0.95 * across / (right * across) * down * len(rows) + 0.2)
    for row, (label, images) in enumerate(rows):
        ax.text(-0.3 * width, row * down + down - height / 2, label, ha="right", va="center", fontsize=9)
        for column, (image, caption, mark) in enumerate(images):
            top, left = (row + 1) * down - height, column * right
            page[top : top + height, left : left + width] = image
            color = COLORS[1] if mark else "black"
            ax.text(
                left + width / 2, top - 0.04 * down - 0.5, caption, ha="center", va="bottom", fontsize=7, color=color
            )
            if mark:
                frame(ax, (left - 0.5, top - 0.5), width, height, line=2)
    ax.imshow(page.squeeze(), cmap="gray_r" if channels == 1 else None, interpolation="nearest")
    ax.set_axis_off()
    return save(figure, workdir, name)


def curves(
    workdir: str, name: str, lines: dict[str, tuple[Any, Any]], *, x: str, y: str, log_x: bool = False,
    log_y: bool = False, mark: tuple[float, float] | None = None,
) -> pathlib.Path:  # fmt: skip
    """Lines by legend: (x values, y values); `mark` gets a red circle."""
    figure, ax = axes()
    for number, (label, (along, values)) in enumerate(lines.items()):
        style = "-" if number < len(COLORS) else "--"
        few = len(along) < 40
        color = COLORS[number % len(COLORS)]
        ax.plot(along, values, style, color=color, label=label, lw=1.6, marker="o" if few else None, ms=3)
    if mark:
        ax.plot(*mark, "o", color=COLORS[1], ms=12, mew=2, fillstyle="none")
    if log_x:
        ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log")
    ax.set(xlabel=x, ylabel=y)
    if len(lines) > 1:
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, workdir, name)


def bundles(
    workdir: str, name: str, along: Sequence[float], panels: Mapping[str, Mapping[str, Any]], *, bold: str, x: str,
    y: str,
) -> pathlib.Path:  # fmt: skip
    """Panels of thin lines over the same x values, three a row: {panel: {line: values}}, the line `bold` is thick."""
    from matplotlib.figure import Figure

    down = -(-len(panels) // 3)
    figure = Figure(figsize=(9, 2.6 * down), layout="constrained")
    places = figure.subplots(down, 3, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in places[len(panels) :]:
        ax.set_axis_off()
    kinds = list(dict.fromkeys(line for lines in panels.values() for line in lines if line != bold))
    for ax, (title, lines) in zip(places, panels.items(), strict=False):
        for line, values in lines.items():
            color, width = ("black", 2.6) if line == bold else (COLORS[kinds.index(line) % len(COLORS)], 0.9)
            style = "-" if line == bold or kinds.index(line) < len(COLORS) else "--"
            ax.plot(along, values, style, color=color, lw=width, label=line)
        ax.set(title=title, xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
    found = {label: handle for ax in places for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), fontsize=8, frameon=False, loc="outside right upper")
    return save(figure, workdir, name)


def histograms(workdir: str, name: str, groups: dict[str, np.ndarray], *, x: str, log: bool = False) -> pathlib.Path:
    """Shares of each group over common bins."""
    figure, ax = axes()
    values = np.concatenate(list(groups.values()))
    low = max(values.min(), values[values > 0].min(initial=1.0)) if log else values.min()
    bins = np.geomspace(low, max(values.max(), 2 * low), 41) if log else np.linspace(low, values.max(), 41)
    for color, (label, group) in zip(COLORS, groups.items(), strict=False):
        weights = np.full(len(group), 1 / max(len(group), 1))
        ax.hist(np.clip(group, bins[0], bins[-1]), bins=bins, weights=weights, color=color, alpha=0.6, label=label)
    if log:
        ax.set_xscale("log")
    ax.set(xlabel=x, ylabel="share of the group")
    ax.legend(frameon=False)
    return save(figure, workdir, name)


def scatter(workdir: str, name: str, groups: dict[str, tuple[Any, Any]], *, x: str, y: str) -> pathlib.Path:
    """Points by group."""
    figure, ax = axes()
    for color, (label, (along, values)) in zip(COLORS, groups.items(), strict=False):
        ax.scatter(along, values, s=8, alpha=0.5, color=color, label=label, linewidths=0)
    ax.set(xlabel=x, ylabel=y)
    ax.legend(frameon=False)
    return save(figure, workdir, name)


def clouds(
    workdir: str, name: str, panels: Mapping[str, tuple[np.ndarray, np.ndarray]], *, radii: Sequence[float]
) -> pathlib.Path:
    """Points (n, 2) coloured by label, three panels a row, each with circles of these radii around the origin."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    down = -(-len(panels) // 3)
    figure = Figure(figsize=(9, 3.1 * down), layout="constrained")
    places = figure.subplots(down, 3, squeeze=False).ravel()
    for ax in places[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, (points, labels)) in zip(places, panels.items(), strict=False):
        ax.scatter(*points.T, c=labels, cmap="tab10" if labels.max() < 10 else "tab20", s=7, linewidths=0, alpha=0.8)
        for radius in radii:
            ax.add_patch(Circle((0, 0), radius, fill=False, color="black", lw=1.2))
        ax.set(title=title, aspect="equal")
        ax.set_adjustable("datalim")
        ax.autoscale_view()
    return save(figure, workdir, name)


def bars(
    workdir: str,
    name: str,
    groups: Mapping[str, Sequence[float] | np.ndarray],
    *,
    labels: Sequence[Any],
    x: str,
    y: str,
) -> pathlib.Path:
    """One group of bars per label, one bar per legend entry: {legend: a height for each label}."""
    figure, ax = axes(width=max(7.0, 0.35 * len(labels) * (len(groups) + 1)))
    width = 0.8 / len(groups)
    for number, (legend, heights) in enumerate(groups.items()):
        along = np.arange(len(labels)) + (number - (len(groups) - 1) / 2) * width
        ax.bar(along, heights, width, color=COLORS[number % len(COLORS)], label=legend)
    long = max(len(str(label)) for label in labels) > 4
    ax.set_xticks(
        range(len(labels)), list(map(str, labels)), rotation=30 if long else 0, ha="right" if long else "center"
    )
    ax.set(xlabel=x, ylabel=y)
    if len(groups) > 1:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, workdir, name)


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
    figure, ax = axes(1.5 + 0.7 * len(columns), 1.2 + 0.5 * len(rows))
    low, high = np.nanmin(matrix), np.nanmax(matrix)
    ax.imshow(matrix, cmap="Blues", aspect="auto", vmin=low, vmax=high if high > low else low + 1)
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value > (low + high) / 2 and high > low else "black"
        ax.text(column, row, f"{value:{format}}", ha="center", va="center", fontsize=8, color=color)
    if mark:
        frame(ax, (mark[1] - 0.5, mark[0] - 0.5), 1, 1, line=2.5)
    said = list(map(str, columns))
    ax.set_xticks(range(len(said)), said, rotation=40 if max(map(len, said)) > WIDE else 0)
    ax.set_yticks(range(len(rows)), list(map(str, rows)))
    ax.set(xlabel=x, ylabel=y)
    return save(figure, workdir, name)


def confusions(workdir: str, name: str, matrices: Mapping[str, np.ndarray]) -> pathlib.Path:
    """Counts (true, answered) side by side, two a row, coloured by the share of the row; zeros are left blank."""
    from matplotlib.figure import Figure

    down = -(-len(matrices) // 2)
    size = max(3.6, 0.34 * len(next(iter(matrices.values()))) + 0.6)
    figure = Figure(figsize=(2 * size, down * size), layout="constrained")
    places = figure.subplots(down, 2, squeeze=False).ravel()
    for ax in places[len(matrices) :]:
        ax.set_axis_off()
    for ax, (title, matrix) in zip(places, matrices.items(), strict=False):
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(matrix if len(matrix) <= 20 else np.zeros_like(matrix)):
            color = "white" if share[row, column] > 0.5 else "black"
            ax.text(column, row, f"{value:d}" if value else "", ha="center", va="center", fontsize=8, color=color)
        if len(matrix) <= 20:
            ax.set_xticks(range(len(matrix)))
            ax.set_yticks(range(len(matrix)))
        ax.set(title=title, xlabel="answered", ylabel="true")
    return save(figure, workdir, name)


Row = tuple[str, np.ndarray, Sequence[str], Sequence[bool]]  # heading, image, what is said at each step, whether right


def timeline(
    workdir: str, name: str, steps: Sequence[str], lines: Mapping[str, Sequence[float]], rows: Sequence[Row], *,
    aside: tuple[int, int] | None = None,
) -> pathlib.Path:  # fmt: skip
    """Lines over named steps; below, images in rows with what is said of them at each step, green where it is right.

    Of `aside` = (from, last) the last step does not follow from the one before it, but from an earlier one.
    """
    from matplotlib.figure import Figure

    tall = 0.75 * len(rows)
    figure = Figure(figsize=(1.9 * len(steps) + 1.2, 3.6 + tall))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, max(tall, 0.1)))
    upper.spines[["top", "right"]].set_visible(False)
    for number, (label, values) in enumerate(lines.items()):
        color = COLORS[(0, 3, 2, 1)[number % 4]]
        chain = len(steps) - bool(aside)
        upper.plot(range(chain), values[:chain], marker="o", ms=6, lw=2.2, color=color, label=label)
        if aside:
            places = list(aside)
            upper.plot(places, [values[i] for i in places], "--", lw=1.2, color=color, alpha=0.7)
            upper.plot(places[1], values[places[1]], "o", ms=6, color=color)
    upper.set(ylim=(-0.05, 1.05), ylabel="share", xlim=(-0.6, len(steps) - 0.4))
    upper.legend(frameon=False, fontsize=9, ncols=len(lines), loc="lower center", bbox_to_anchor=(0.5, 1))
    upper.tick_params(axis="x", labelbottom=True, labelsize=10)
    lower.set(ylim=(len(rows) - 0.5, -0.5))
    lower.set_axis_off()
    for down, (heading, image, said, right) in enumerate(rows):
        picture = image.astype(float) / max(float(image.max()), 1.0)
        lower.text(-0.62, down, heading, ha="right", va="center", fontsize=9)
        for across, (answer, good) in enumerate(zip(said, right, strict=True)):
            extent = (across - 0.3, across - 0.02, down + 0.4, down - 0.4)
            lower.imshow(picture.squeeze(), cmap="gray_r", extent=extent, aspect="auto", interpolation="nearest")
            color = COLORS[2] if good else COLORS[1]
            lower.text(across + 0.04, down, answer, va="center", fontsize=13, color=color, weight="bold")
    upper.set_xticks(range(len(steps)), list(steps))
    lower.set(xlim=(-0.6, len(steps) - 0.4))
    return save(figure, workdir, name)


def points(
    workdir: str, name: str, places: Mapping[str, tuple[float, float]], *, x: str, y: str, log_x: bool = False,
) -> pathlib.Path:  # fmt: skip
    """One point (x, y) per legend entry; up to 24 differ in colour or shape. log_x is linear near 0, to show 0."""
    figure, ax = axes()
    for number, (label, place) in enumerate(places.items()):
        turn, color = divmod(number, len(COLORS))
        ax.scatter(*place, s=50, alpha=0.8, color=COLORS[color], marker="o^s"[turn % 3], label=label)
    if log_x:
        ax.set_xscale("symlog", linthresh=100)
    ax.set(xlabel=x, ylabel=y)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, workdir, name)


def blocks(workdir: str, name: str, rows: Mapping[str, Sequence[tuple[float, float]]]) -> pathlib.Path:
    """Networks below each other, to scale: {name: (height, breadth) of each layer}, breadth 0 where one is missing."""
    from matplotlib.patches import Rectangle

    tallest = max(height for row in rows.values() for height, _ in row)
    widest = [max(row[i][1] for row in rows.values()) for i in range(len(next(iter(rows.values()))))]
    gap = 0.15 * sum(widest) / len(widest)
    starts = np.concatenate([[0.0], np.cumsum(np.asarray(widest) + gap)])
    figure, ax = canvas(9, 0.4 + 0.9 * len(rows))
    for down, (label, row) in enumerate(rows.items()):
        middle = -1.5 * tallest * down
        ax.text(-gap, middle, label, ha="right", va="center", fontsize=9)
        for start, (height, breadth) in zip(starts, row, strict=False):
            color = COLORS[down % len(COLORS)]
            ax.add_patch(Rectangle((start, middle - height / 2), breadth, height, color=color, alpha=0.75, lw=0))
            if breadth:
                ax.text(start, middle - 0.55 * tallest, f"{breadth:g}", ha="left", va="top", fontsize=7)
    ax.set_xlim(-gap, starts[-1])
    ax.set_ylim(-1.5 * tallest * (len(rows) - 1) - 0.8 * tallest, 0.6 * tallest)
    ax.set_axis_off()
    return save(figure, workdir, name)


def graph(workdir: str, name: str, weights: np.ndarray, *, values: np.ndarray, label: str) -> pathlib.Path:
    """Agents on a circle, coloured by value, an edge where one sends to the other; (times, n, n): at any time."""
    count = weights.shape[-1]
    angles = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    places = np.stack([np.cos(angles), np.sin(angles)], 1)
    heard = np.max(np.abs(weights.reshape(-1, count, count)), axis=0)
    figure, ax = axes(5.4, 4.6)
    for i, j in zip(*np.nonzero(heard), strict=True):
        if i < j or (i > j and not heard[j, i]):
            ax.plot(*places[[i, j]].T, color="#9aa3b2", lw=0.6 + 4 * heard[i, j], zorder=1)
    drawn = ax.scatter(*places.T, c=values, cmap="viridis", s=420, zorder=2, edgecolors="black")
    for i, place in enumerate(places):
        ax.text(*place, str(i), ha="center", va="center", fontsize=9, color="white", zorder=3, weight="bold")
    figure.colorbar(drawn, ax=ax, label=label, shrink=0.8)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return save(figure, workdir, name)
