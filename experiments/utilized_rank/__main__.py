"""The command: python -m experiments.utilized_rank."""

from experiments.harness import runner
from experiments.utilized_rank import PRESETS, main

runner.run(main, PRESETS)
