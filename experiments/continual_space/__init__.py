"""How narrow can a network be for each task, if no task may ever lose anything to a later one?"""

from experiments.continual_space.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
