"""The command: python -m experiments.spiking_pruning."""

from experiments.harness import runner
from experiments.spiking_pruning import PRESETS, main

runner.run(main, PRESETS)
