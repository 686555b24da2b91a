"""Does the tree of the classes help with kinds inside a class that were never trained on, and what of it does?"""

from experiments.subpopulation_shift.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
