"""The command: python -m experiments.continual_learning."""

from experiments.continual_learning import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
