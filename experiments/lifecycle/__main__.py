"""The command: python -m experiments.lifecycle."""

from experiments.harness import runner
from experiments.lifecycle import PRESETS, main

runner.run(main, PRESETS)
