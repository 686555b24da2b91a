"""What does training gain without barriers? NOTIFY-ACK, bounded staleness and free running beside synchronous SGD."""

from experiments.asynchronous.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
