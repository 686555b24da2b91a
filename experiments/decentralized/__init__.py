"""Can agents with other labels each train one classifier without a server? D-PSGD, NGC and their peers on one graph."""

from experiments.decentralized.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
