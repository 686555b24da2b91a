"""The command: python -m experiments.ood_detection."""

from experiments.harness import runner
from experiments.ood_detection import PRESETS, main

runner.run(main, PRESETS)
