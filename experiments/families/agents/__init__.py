"""Decentralized training, shared by its experiments: flags, data of each agent, a run over all seeds, figures."""

from experiments.families.agents import report
from experiments.families.agents.methods import Trial, rate
from experiments.families.agents.places import FREE, exchange_of
from experiments.families.agents.places import Config as Places
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
    "FREE", "PARTITION_KEY", "TRAIN_KEY", "Config", "Data", "Places", "Trial", "course", "exchange_of", "graph", "load",
    "rate", "report", "spread", "warn_of_statistics",
]  # fmt: skip
