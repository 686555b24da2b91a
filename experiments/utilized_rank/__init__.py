"""How much of each layer does a network use, and what does it lose without the rest?"""

from experiments.utilized_rank.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
