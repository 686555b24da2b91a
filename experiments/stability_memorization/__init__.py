"""How much would each sample be forgotten if it had not been trained on? Many networks, each on half of the data."""

from experiments.stability_memorization.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
