"""The command: python -m experiments.transferability."""

from experiments.harness import runner
from experiments.transferability import PRESETS, main

runner.run(main, PRESETS)
