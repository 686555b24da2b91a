"""What does a proxy of an update save, and whom does it hide? TOFU beside compressors of equal bytes, and attacked."""

from experiments.federated_proxy.experiment import PRESETS, Config, main

__all__ = ["PRESETS", "Config", "main"]
