"""How many filters and layers does a network need? Counted in one pass, trained once, beside uniform scaling."""

from experiments.pca_design.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
