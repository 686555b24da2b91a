"""Figures and table rows of decentralized runs: accuracy, bytes sent, and distance between the agents' models."""

from typing import Any

import numpy as np

from experiments.families.agents.methods import Trial
from experiments.harness import runner

Arrays = dict[str, np.ndarray]
LATE = 0.75  # accuracies are means over the evaluations from this share of the run on


def figures(trials: list[Trial], found: dict[str, Arrays]) -> dict[str, float]:
    """The figures of every trial of one seed."""
    listed = {}
    for trial in trials:
        name, arrays = trial.name, found[trial.name]
        if name.endswith("_tuned"):
            listed[f"accuracy_mean_tuned/{trial.method}"] = late(trial, arrays, "accuracy")
            listed[f"accuracy_consensus_tuned/{trial.method}"] = late(trial, arrays, "consensus")
            continue
        listed |= {
            f"accuracy_mean/{name}": late(trial, arrays, "accuracy"),
            f"accuracy_worst/{name}": late(trial, arrays | {"worst": arrays["accuracy"].min(1)}, "worst"),
            f"accuracy_gossiped/{name}": late(trial, arrays, "gossiped"),
            f"accuracy_consensus/{name}": late(trial, arrays, "consensus"),
            f"consensus_distance/{name}": late(trial, arrays, "distance"),
            f"bytes_model_per_step/{name}": arrays["bytes_model"][-1] / trial.steps,
            f"bytes_cross_per_step/{name}": arrays["bytes_cross"][-1] / trial.steps,
            f"backward_passes/{name}": arrays["passes"][-1] / trial.steps,
            f"seconds/{name}": arrays["seconds"],
        }
    return {name: float(value) for name, value in listed.items()}


def late(trial: Trial, arrays: Arrays, kind: str) -> float:
    """Mean over the evaluations of the last quarter of the run, and over the agents."""
    return float(arrays[kind][arrays["step"] >= LATE * trial.steps].mean())


def rows(config: runner.Config, runs: dict[str, list[Arrays]]) -> list[dict[str, Any]]:
    """metrics.jsonl: one row an evaluation."""
    kinds = "consensus", "distance", "loss", "cosine", "bytes_model", "bytes_cross", "passes"
    return [
        {"trial": name, "seed": config.seed + k, "step": int(step), "accuracy": float(arrays["accuracy"][e].mean()),
         "worst": float(arrays["accuracy"][e].min())} | {kind: float(arrays[kind][e]) for kind in kinds}
        for name, found in runs.items()
        for k, arrays in enumerate(found)
        for e, step in enumerate(arrays["step"])
    ]  # fmt: skip


def write_agents(config: runner.Config, runs: dict[str, list[Arrays]]) -> None:
    """agents.csv and agents.npz: one row a trial, seed, evaluation and agent."""
    cells = [
        (name, config.seed + k, int(arrays["step"][e]), i, accuracy, arrays["gossiped"][e, i], arrays["bytes_model"][e],
         arrays["bytes_cross"][e], arrays["passes"][e])
        for name, found in runs.items()
        for k, arrays in enumerate(found)
        for (e, i), accuracy in np.ndenumerate(arrays["accuracy"])
    ]  # fmt: skip
    names = "trial", "seed", "step", "agent", "accuracy", "gossiped", "bytes_model", "bytes_cross", "backward_passes"
    runner.write_table(config, "agents", dict(zip(names, map(np.array, zip(*cells, strict=True)), strict=True)))
