"""What is shown of training without barriers: who waits, accuracy over time and samples, gains without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.asynchronous.methods import Method, clocks
from experiments.asynchronous.protocol import GRAPHS, SETTINGS, SHOWN, SIGMAS, SIZES
from experiments.harness import plots, report

if TYPE_CHECKING:
    from experiments.asynchronous.experiment import Config

Arrays = dict[str, np.ndarray]
Parts = dict[str, Arrays]  # by what was computed
KINDS = "time_to_target", "speedup_to_target", "accuracy_end", "accuracy_equal_samples"


def figures(config: Config, compared: dict[str, Method], parts: Parts) -> dict[str, float]:
    """The figures of one seed; the time to a target that was never reached is infinite."""
    listed: dict[str, float] = {}
    if compared:
        spans = parts["makespan"]
        listed["oracle_difference"] = float(spans["oracle_difference"])
        listed |= {f"speedup_makespan/{name}": float(spans[name]) for name in spans if name != "oracle_difference"}
    for name, method in compared.items():
        for setting in SETTINGS:
            arrays = parts[f"{name}/{setting}"]
            listed[f"time_to_target/{name}/{setting}"] = reached(config, arrays)
            base = reached(config, parts[f"bsp_{config.graph}/{setting}"])
            own = listed[f"time_to_target/{name}/{setting}"]
            listed[f"speedup_to_target/{name}/{setting}"] = base / own if own < np.inf else np.inf
            listed[f"accuracy_end/{name}/{setting}"] = float(arrays["accuracy"][-1])
            listed[f"accuracy_equal_samples/{name}/{setting}"] = float(arrays["equal"])
            listed[f"share_waiting/{name}/{setting}"] = float(arrays["waiting"])
        reduced = 2 * (config.workers - 1) / config.workers
        sent = reduced if method.reduces else float(parts[f"{name}/jitter"]["sent"])
        listed[f"models_sent_per_iteration/{name}"] = sent
    if compared:
        listed["models_sent_per_iteration/all_to_all"] = config.workers - 1.0
    return listed | wall(config, parts)


def wall(config: Config, parts: Parts) -> dict[str, float]:
    """The figures of the runs by the real clock."""
    listed: dict[str, float] = {}
    for kind, count in clocks(config):
        arrays = parts[f"{kind}_{count}"]
        worst = f"max_difference/{kind}"
        listed[worst] = max(listed.get(worst, 0.0), float(arrays["difference"]))
        if kind == "threads":
            listed[f"speedup_wall/{kind}_{count}"] = float(arrays["wall/bsp"] / arrays["wall/notify_ack"])
        listed[f"wall_over_simulated/{kind}_{count}"] = float(arrays["wall/notify_ack"] / arrays["simulated"])
    return listed


def reached(config: Config, arrays: Arrays) -> float:
    """The first look at which the mean model is at the target."""
    found = np.flatnonzero(arrays["accuracy"] >= config.target)
    return float(arrays["at"][found[0]]) if len(found) else np.inf


def speedups(config: Config, compared: dict[str, Method], means: dict[str, float]) -> dict[str, float]:
    """Ratios of the mean times to the target, over bsp on the same graph."""
    listed = {}
    for name in compared:
        for setting in SETTINGS:
            base, own = (means.get(f"time_to_target/{n}/{setting}") for n in (f"bsp_{config.graph}", name))
            if base and own:
                listed[f"speedup_to_target/{name}/{setting}"] = base / own
    return listed


def sections(
    config: Config, compared: dict[str, Method], means: dict[str, float], first: Parts,
    graphs: dict[str, tuple[float, float, float, float]],
) -> list[report.Section]:  # fmt: skip
    """The report."""
    shown = []
    if compared:
        shown = [scoreboard(config, compared, means), over_both(config, compared, first)]
        shown += [waiting(config, compared, first), without_training(config, means), averaging(config, graphs)]
    return [*shown, *([by_the_wall(config, means, first)] if clocks(config) else [])]


def scoreboard(config: Config, compared: dict[str, Method], means: dict[str, float]) -> report.Section:
    """Everything that was measured, by setting and method."""
    rows = []
    for setting in SETTINGS:
        for name in compared:
            cells = [shown(means, f"{kind}/{name}/{setting}") for kind in (*KINDS, "share_waiting")]
            rows.append((setting, name, *cells, shown(means, f"models_sent_per_iteration/{name}")))
    words = (*KINDS, "share_of_time_waiting", "models_sent_per_iteration")
    head = ("setting", "method", *(word.replace("_", " ") for word in words))
    text = (
        f"Means over the seeds; the target is {config.target:g}, times are in mean compute times of a step. bsp, "
        "all-reduce and NOTIFY-ACK compute the same as with a barrier: NOTIFY-ACK gains time where compute times vary "
        "and nothing beside a straggler, whom everybody waits for in the end. What waits for nobody gains most time, "
        "and pays at equal samples: it folds old models. All-to-all would send "
        f"{config.workers - 1} models a worker and iteration, the all-reduce of a ring 2 (N - 1) / N."
    )
    return report.Section("How fast, how accurate", text, (), (head, *rows))


def over_both(config: Config, compared: dict[str, Method], first: Parts) -> report.Section:
    """Accuracy over time and over samples, side by side."""
    from matplotlib.figure import Figure

    drawn = []
    for setting in SETTINGS:
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for number, name in enumerate(compared):
            arrays, style = first[f"{name}/{setting}"], "--" if name.startswith("bsp_a") else "-"
            drawn_as = {"color": plots.COLORS[number % len(plots.COLORS)], "lw": 1.6, "ls": style}
            drawn_as |= {"lw": 5, "alpha": 0.35} if name == f"bsp_{config.graph}" else {}  # others lie on it
            left.plot(arrays["at"], arrays["accuracy"], label=name, **drawn_as)
            right.plot(arrays["steps"], arrays["accuracy"], **drawn_as)
        left.axhline(config.target, color="#9aa3b2", lw=0.8)
        left.set(xlabel="time (mean compute times)", ylabel=f"accuracy of the mean model, {setting}")
        right.set(xlabel="steps of a worker, mean over the workers", xscale="log")
        figure.legend(fontsize=8, frameon=False, loc="outside right upper")
        drawn.append(plots.save(figure, config.workdir, f"accuracy_{setting}"))
    text = "First seed. Left: what a clock shows. Right: the same accuracy over the samples that were seen for it."
    return report.Section("Over time and over samples", text, tuple(drawn))


def waiting(config: Config, compared: dict[str, Method], first: Parts) -> report.Section:
    """The time line of every worker under each policy."""
    from matplotlib.figure import Figure

    drawn = []
    for setting in SETTINGS:
        figure = Figure(figsize=(9, 0.8 + (0.5 + 0.09 * config.workers) * len(compared)), layout="constrained")
        places = figure.subplots(len(compared), 1, sharex=True, squeeze=False).ravel()
        for ax, name in zip(places, compared, strict=True):
            arrays = first[f"{name}/{setting}"]
            for worker in range(config.workers):
                own = arrays["computing"][arrays["computing"][:, 0] == worker]
                spans = [(start, min(end, SHOWN) - start) for _, start, end in own]
                ax.broken_barh(spans, (worker - 0.4, 0.8), color=plots.COLORS[0], edgecolor="white", lw=0.4)
            ax.set(xlim=(0, SHOWN), ylim=(config.workers - 0.4, -0.6), facecolor="#f3c9a5")
            ax.set_yticks(range(0, config.workers, max(1, config.workers // 4)))
            share = float(arrays["waiting"])
            ax.set_title(f"{name}: waits {share:.0%} of the whole run", fontsize=9, loc="left")
            ax.set_ylabel("worker", fontsize=8)
        places[-1].set_xlabel(f"time (mean compute times), {setting}")
        drawn.append(plots.save(figure, config.workdir, f"waiting_{setting}"))
    text = "First seed, first iterations. Blue: a worker computes. Orange: it waits. In straggler worker 0 is slow."
    return report.Section("Who waits", text, tuple(drawn))


def without_training(config: Config, means: dict[str, float]) -> report.Section:
    """The gain in time of NOTIFY-ACK over barriers against the number of workers."""
    lines = {
        f"{graph}, sigma {sigma}": (SIZES, [means[f"speedup_makespan/{graph}_{n}/sigma_{sigma}"] for n in SIZES])
        for sigma in SIGMAS
        for graph in GRAPHS
    }
    figure = plots.curves(config.workdir, "makespan", lines, x="workers", y="time with barriers over time without")
    text = (
        f"NOTIFY-ACK over {config.draws} iterations with log-normal compute times, by the recursion; mean over the "
        f"seeds. regular: {config.degree} neighbours. On the complete graph everybody waits for everybody: exactly 1. "
        f"The simulator's end times differ from the recursion's by at most {means['oracle_difference']:.1g}."
    )
    return report.Section("Gain in time, without training", text, (figure,))


def averaging(config: Config, graphs: dict[str, tuple[float, float, float, float]]) -> report.Section:
    """What a sparse average costs."""
    head = ("graph", "spectral radius", "messages of a worker a round", "rounds to 1 %", "messages to 1 %")
    rows = [(name, f"{radius:.3f}", f"{degree:g}", f"{rounds:g}", f"{messages:g}")
            for name, (radius, degree, rounds, messages) in graphs.items()]  # fmt: skip
    text = (
        f"Graphs of {config.workers} workers. To 1 %: rounds of averaging until that is left of the distance from the "
        "mean, and the models a worker sends for it; a ring all-reduce needs 2 (N - 1) / N. Sparse graphs pay where "
        "training itself keeps models close, and not as an exact average."
    )
    return report.Section("Sparse averages", text, (), (head, *rows))


def by_the_wall(config: Config, means: dict[str, float], first: Parts) -> report.Section:
    """Threads and processes beside the simulated clock."""
    head = ("runner", "simulated (s)", "real (s)", "real over simulated", "with a barrier (s)", "gain", "from gossip")
    rows = []
    for kind, count in clocks(config):
        name, arrays = f"{kind}_{count}", first[f"{kind}_{count}"]
        barrier = f"{arrays['wall/bsp']:.2f}" if "wall/bsp" in arrays else "-"
        rows.append((
            name, f"{arrays['simulated']:.2f}", f"{arrays['wall/notify_ack']:.2f}",
            shown(means, f"wall_over_simulated/{name}"), barrier, shown(means, f"speedup_wall/{name}"),
            f"{arrays['difference']:g}",
        ))  # fmt: skip
    text = (
        f"NOTIFY-ACK on a ring, {config.wall_iterations} iterations; seconds of the first seed, ratios are means over "
        f"the seeds. SLEEP of {config.compute_ms:g} ms in the mean stands for the computation, since there are fewer "
        "cores than workers; the gradient step behind it is real and comes on top. From gossip: largest distance of a "
        "parameter from synchronous gossip in float64. Every trace passed the check of its policy."
    )
    figure = plots.bars(
        config.workdir, "wall",
        {label: [float(first[f"{kind}_{count}"][key]) for kind, count in clocks(config)]
         for label, key in (("simulated", "simulated"), ("real", "wall/notify_ack"))},
        labels=[f"{kind}_{count}" for kind, count in clocks(config)], x="runner and workers", y="seconds",
    )  # fmt: skip
    return report.Section("By the real clock", text, (figure,), (head, *rows))


def shown(means: dict[str, float], name: str) -> str:
    """A cell of the table."""
    return f"{means[name]:.3f}" if name in means else "-"
