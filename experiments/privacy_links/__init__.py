"""Does a privacy budget cap memorization and curvature, and does curvature stand in for memorization?"""

from experiments.privacy_links.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
