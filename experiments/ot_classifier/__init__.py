"""Does a short code drawn to a simple prior make a network robust, and more than the short code alone?"""

from experiments.ot_classifier.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
