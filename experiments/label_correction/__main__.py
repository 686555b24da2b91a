"""The command: python -m experiments.label_correction."""

from experiments.harness import runner
from experiments.label_correction import PRESETS, main

runner.run(main, PRESETS)
