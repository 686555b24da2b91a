"""The command: python -m experiments.low_precision."""

from experiments.harness import runner
from experiments.low_precision import PRESETS, main

runner.run(main, PRESETS)
