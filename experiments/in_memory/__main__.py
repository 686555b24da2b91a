"""The command: python -m experiments.in_memory."""

from experiments.harness import runner
from experiments.in_memory import PRESETS, main

runner.run(main, PRESETS)
