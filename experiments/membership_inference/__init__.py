"""Can one tell who was in the training set? Shadow models, every attack, as released and as it should be."""

from experiments.membership_inference.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
