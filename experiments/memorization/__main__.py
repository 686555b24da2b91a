"""The command: python -m experiments.memorization."""

from experiments.harness import runner
from experiments.memorization import PRESETS, main

runner.run(main, PRESETS)
