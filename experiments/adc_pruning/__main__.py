"""The command: python -m experiments.adc_pruning."""

from experiments.adc_pruning import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
