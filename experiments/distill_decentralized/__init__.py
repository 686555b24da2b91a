"""Do agents with other labels learn more from what their neighbours make of common images? IDKD and its controls."""

from experiments.distill_decentralized.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
