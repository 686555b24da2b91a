"""Which layers of a binary network deserve more than one bit? Chosen by counting, beside other layers."""

from experiments.mixed_precision.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
