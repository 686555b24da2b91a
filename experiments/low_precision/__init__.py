"""What do eight bits, forward, backward and in messages, cost agents that train without a server?"""

from experiments.low_precision.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
