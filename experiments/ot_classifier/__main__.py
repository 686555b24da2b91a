"""The command: python -m experiments.ot_classifier."""

from experiments.harness import runner
from experiments.ot_classifier import PRESETS, main

runner.run(main, PRESETS)
