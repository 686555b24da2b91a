"""The command: python -m experiments.class_unlearning."""

from experiments.class_unlearning import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
