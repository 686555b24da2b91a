"""The command: python -m experiments.stability_memorization."""

from experiments.harness import runner
from experiments.stability_memorization import PRESETS, main

runner.run(main, PRESETS)
