"""The command: python -m experiments.spiking_dct."""

from experiments.harness import runner
from experiments.spiking_dct import PRESETS, main

runner.run(main, PRESETS)
