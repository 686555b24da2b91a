"""Does splitting the large dense layers over a group of devices save memory, and is the network still the same?"""

from experiments.hybrid_parallel.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
