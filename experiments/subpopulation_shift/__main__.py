"""The command: python -m experiments.subpopulation_shift."""

from experiments.harness import runner
from experiments.subpopulation_shift import PRESETS, main

runner.run(main, PRESETS)
