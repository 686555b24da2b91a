"""What does a privacy guarantee cost in accuracy, and is it kept? DP-SGD at several epsilons, each audited."""

from experiments.dp_training.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
