"""Which inputs belong to none of the classes? Detectors near and far, their cost, what two methods really add."""

from experiments.ood_detection.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
