"""The command: python -m experiments.hybrid_parallel."""

from experiments.harness import runner
from experiments.hybrid_parallel import PRESETS, main

runner.run(main, PRESETS)
