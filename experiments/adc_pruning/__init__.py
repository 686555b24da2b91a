"""How many bits of its converters can pruning save in a crossbar, and how many are saved without any pruning?"""

from experiments.adc_pruning.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
