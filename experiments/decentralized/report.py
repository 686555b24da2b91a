"""Which method does best by which comparison, and for how many bytes: the tables and pictures of decentralized."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from experiments.decentralized import methods
from experiments.families import agents
from experiments.harness import plots, report
from subspace_jax.decentralized.methods import find

if TYPE_CHECKING:
    from experiments.decentralized.experiment import Config

Arrays = dict[str, np.ndarray]


def sections(
    config: Config,
    trials: list[agents.Trial],
    means: dict[str, float],
    std: dict[str, float],
    first: dict[str, Arrays],
    histogram: np.ndarray,
    weights: np.ndarray,
) -> list[report.Section]:
    """The table of all trials, what it says, then the pictures of the first seed."""
    own = [trial for trial in trials if trial.name == trial.method]
    return [
        scoreboard(trials, means, std),
        price(trials, means),
        order(means),
        over_the_run(config, own, first),
        apart(config, own, first),
        by_agent(config, own, first),
        data_and_graph(config, histogram, weights, first[own[0].name]),
    ]


def scoreboard(trials: list[agents.Trial], means: dict[str, float], std: dict[str, float]) -> report.Section:
    """Every trial with what it reaches and sends."""
    kinds = {
        "accuracy_mean": "own models", "accuracy_worst": "worst agent", "accuracy_gossiped": "own, one exchange later",
        "accuracy_consensus": "mean of all models", "accuracy_mean_tuned": "own models, tuned",
    }  # fmt: skip

    def cell(key: str) -> str:
        return f"{means[key]:.3f}\u00a0±\u00a0{std[key]:.3f}" if key in means else "-"

    listed = [trial for trial in trials if not trial.name.endswith("_tuned")]
    table = [
        (trial.name, *(cell(f"{kind}/{trial.name}") for kind in kinds))
        for trial in sorted(listed, key=lambda trial: -means[f"accuracy_mean/{trial.name}"])
    ]
    text = (
        "Test accuracy, mean over the evaluations of the last quarter of the run and over the seeds. Own models are "
        "tested directly after a step. Tuned: with the learning rate and decay that were best on held-out training "
        "samples. _mixed and _sent: the agent's own gradient taken at the other place; gamma: exact messages at the "
        "averaging rate that CHOCO-SGD and DeepSqueeze have; equal_compute: as many backward passes as NGC; iid: the "
        "same data shuffled; centralized: all data in one place, as many samples a step as all agents together."
    )
    return report.Section("Methods", text, table=(("method", *kinds.values()), *table))


def price(trials: list[agents.Trial], means: dict[str, float]) -> report.Section:
    """What a step of each method costs."""
    table = [
        (trial.name, f"{means[f'bytes_model_per_step/{trial.name}']:,.0f}",
         f"{means[f'bytes_cross_per_step/{trial.name}']:,.0f}",
         f"{means[f'backward_passes/{trial.name}']:.3g}", "after" if find(trial.method).after else "before",
         f"{means[f'seconds/{trial.name}']:.1f}")
        for trial in trials if not trial.name.endswith("_tuned")
    ]  # fmt: skip
    head = ("method", "bytes of models", "bytes of gradients", "backward passes", "mixes", "seconds of the run")
    text = (
        "Of one agent in one step; bytes are those of the arrays that it sends. Models are mixed as they are before "
        "the local step or after it."
    )
    return report.Section("What a step costs", text, table=(head, *table))


COMPARISONS = {"by the recipe": "accuracy_mean/", "tuned": "accuracy_mean_tuned/", "consensus": "accuracy_consensus/"}


PAIRS = ("ngc_alpha_0", "d_psgd"), ("ngc_alpha_1", "ngc_alpha_0"), ("compngc", "d_psgd"), ("ngc_alpha_1", "cga")


def order(means: dict[str, float]) -> report.Section:
    """The methods from best to worst by each comparison, and in words where two comparisons disagree."""
    columns = []
    for kind in COMPARISONS.values():
        named = [name for name in methods.METHODS if kind + name in means]
        columns.append([f"{name} {means[kind + name]:.3f}" for name in sorted(named, key=lambda n: -means[kind + n])])
    ranks = itertools.zip_longest(*columns, fillvalue="-")
    table = (("place", *COMPARISONS), *((place, *row) for place, row in enumerate(ranks, start=1)))
    return report.Section("What the order depends on", words(means), table=table)


def words(means: dict[str, float]) -> str:
    """Where a fairer comparison reverses the order of the fixed recipe."""
    said = []
    for better, worse in PAIRS:
        gains = {
            title: means[kind + better] - means[kind + worse]
            for title, kind in COMPARISONS.items()
            if {kind + better, kind + worse} <= set(means)
        }
        if len({gain > 0 for gain in gains.values()}) > 1:
            listed = ", ".join(f"{gain:+.3f} {title}" for title, gain in gains.items())
            said.append(f"{better} against {worse} depends on the comparison: {listed}.")
    equal = means.get("accuracy_mean/d_psgd_equal_compute")
    for name in ("ngc_alpha_0", "ngc_alpha_1"):
        if equal is not None and f"accuracy_mean/{name}" in means:
            gain = means[f"accuracy_mean/{name}"] - equal
            said.append(f"D-PSGD with as many backward passes reaches {equal:.3f}: {name} is {gain:+.3f} from it.")
    return " ".join(said)


def over_the_run(config: Config, own: list[agents.Trial], first: dict[str, Arrays]) -> report.Section:
    """Accuracy of own models, of the worst and of the consensus over steps; own models over bytes and passes."""
    found = {trial.name: first[trial.name] for trial in own}
    sent = {name: (a["bytes_model"] + a["bytes_cross"]) / 1e6 for name, a in found.items()}
    along = {
        "steps": {name: (a["step"], a["accuracy"].mean(1)) for name, a in found.items()},
        "megabytes": {name: (sent[name], a["accuracy"].mean(1)) for name, a in found.items()},
        "passes": {name: (a["passes"], a["accuracy"].mean(1)) for name, a in found.items()},
        "worst": {name: (a["step"], a["accuracy"].min(1)) for name, a in found.items()},
        "consensus": {name: (a["step"], a["consensus"]) for name, a in found.items()},
    }
    axes = {
        "steps": ("steps", "accuracy of own models"), "megabytes": ("megabytes sent by an agent", "own models"),
        "passes": ("backward passes of an agent", "own models"), "worst": ("steps", "accuracy of the worst agent"),
        "consensus": ("steps", "accuracy of the mean of all models"),
    }  # fmt: skip
    pictures = tuple(
        plots.curves(config.workdir, f"over_{name}", lines, x=axes[name][0], y=axes[name][1],
                     log_x=name == "megabytes" and min(s[0] for s in sent.values()) > 0)
        for name, lines in along.items()
    )  # fmt: skip
    return report.Section("Over the run", "First seed.", pictures)


def apart(config: Config, own: list[agents.Trial], first: dict[str, Arrays]) -> report.Section:
    """How far the agents are from their mean, and how far a step from the own gradient."""
    lines = {trial.name: (first[trial.name]["step"], first[trial.name]["distance"]) for trial in own}
    turned = {trial.name: (first[trial.name]["step"], first[trial.name]["cosine"]) for trial in own}
    pictures = (
        plots.curves(
            config.workdir, "distance", lines, x="steps", y="squared distance from the mean model", log_y=True
        ),
        plots.curves(config.workdir, "cosine", turned, x="steps", y="cosine of own gradient and step"),
    )
    return report.Section("How far apart", "First seed; mean over the agents.", pictures)


def by_agent(config: Config, own: list[agents.Trial], first: dict[str, Arrays]) -> report.Section:
    """Accuracy of every agent at the end."""
    matrix = np.stack([first[trial.name]["accuracy"][-1] for trial in own])
    names = [trial.name for trial in own]
    figure = plots.heatmap(
        config.workdir, "agents", matrix, rows=names, columns=range(matrix.shape[1]), x="agent", y="", format=".2f"
    )
    return report.Section("Every agent", "First seed.", (figure,))


def data_and_graph(config: Config, histogram: np.ndarray, weights: np.ndarray, arrays: Arrays) -> report.Section:
    """Labels of each agent, and the graph."""
    agents, classes = histogram.shape
    pictures = (
        plots.heatmap(
            config.workdir, "histogram", histogram, rows=range(agents), columns=range(classes), x="class", y="agent",
            format=".0f",
        ),
        plots.graph(
            config.workdir, "graph", weights, values=arrays["accuracy"][-1],
            label="accuracy at the end",
        ),
    )  # fmt: skip
    return report.Section(
        "Data and graph", "Training samples by agent and class; edges by weight. First seed.", pictures
    )
