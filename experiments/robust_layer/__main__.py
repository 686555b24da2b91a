"""The command: python -m experiments.robust_layer."""

from experiments.harness import runner
from experiments.robust_layer import PRESETS, main

runner.run(main, PRESETS)
