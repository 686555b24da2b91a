"""A classifier turned into spiking networks, shared by its experiments: flags, encoders, tuning, counts, pictures."""

from experiments.families.spiking import report
from experiments.families.spiking.methods import ENCODERS, Setting, encoded
from experiments.families.spiking.protocol import (
    CALL,
    DRAWS,
    ENCODE_KEY,
    TUNE_KEY,
    Config,
    Run,
    adopt,
    balanced,
    check,
    classic,
    evaluated,
    measured,
    noisy,
    scaled,
    setting,
    tune,
    volts,
)

__all__ = [
    "CALL", "DRAWS", "ENCODERS", "ENCODE_KEY", "TUNE_KEY", "Config", "Run", "Setting", "adopt", "balanced", "check",
    "classic", "encoded", "evaluated", "measured", "noisy", "report", "scaled", "setting", "tune", "volts",
]  # fmt: skip
