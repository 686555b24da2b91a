"""How many channels, time steps and bits does a spiking network need? Counted, trained anew, beside its controls."""

from experiments.spiking_pruning.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
