"""The command: python -m experiments.asynchronous."""

from experiments.asynchronous import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
