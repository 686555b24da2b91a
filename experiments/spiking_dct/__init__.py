"""What do spikes cost, and does an image arrive better by frequencies, by chance, or as it is? Accuracy and energy."""

from experiments.spiking_dct.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
