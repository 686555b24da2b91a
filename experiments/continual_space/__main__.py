"""The command: python -m experiments.continual_space."""

from experiments.continual_space import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
