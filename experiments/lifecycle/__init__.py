"""One network through every pipeline: trained, scored, attacked, corrected, unlearned, taught; one report."""

from experiments.lifecycle.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
