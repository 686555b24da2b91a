"""How accurate is a trained network inside an analog memory, chip by chip, and what does it cost there?"""

from experiments.in_memory.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
