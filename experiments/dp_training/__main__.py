"""The command: python -m experiments.dp_training."""

from experiments.dp_training import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
