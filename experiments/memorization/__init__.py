"""What did the network memorize? Every training sample scored by input-loss curvature while one network trains."""

from experiments.memorization.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
