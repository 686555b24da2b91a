"""Can one network learn task after task and lose nothing? Gradient projection and its baselines over one protocol."""

from experiments.continual_learning.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
