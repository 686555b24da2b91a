"""Do adversarial examples carry over between networks, and is an ensemble stronger than its best member?"""

from experiments.transferability.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
