"""Does a layer that looks up its neighbours make a network robust, and more than plain controls do?"""

from experiments.robust_layer.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
