"""The command: python -m experiments.mixed_precision."""

from experiments.harness import runner
from experiments.mixed_precision import PRESETS, main

runner.run(main, PRESETS)
