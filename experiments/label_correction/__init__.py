"""Can a network that learned wrong labels be corrected after training, by one edit from a few trusted samples?"""

from experiments.label_correction.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
