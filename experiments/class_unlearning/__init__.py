"""Does a network forget a class by a closed-form edit of its weights, and keep the others?"""

from experiments.class_unlearning.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
