"""Decentralized training, shared by its experiments: flags, data of each agent, a run over all seeds, figures."""

from experiments.families.agents import report
from experiments.families.agents.methods import Trial, rate
from experiments.families.agents.protocol import (
    PARTITION_KEY,
    TRAIN_KEY,
    Config,
    Data,
    course,
    graph,
    load,
    spread,
    warn_of_statistics,
)

__all__ = [
    "PARTITION_KEY", "TRAIN_KEY", "Config", "Data", "Trial", "course", "graph", "load", "rate", "report", "spread",
    "warn_of_statistics",
]  # fmt: skip
