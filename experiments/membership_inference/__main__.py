"""The command: python -m experiments.membership_inference."""

from experiments.harness import runner
from experiments.membership_inference import PRESETS, main

runner.run(main, PRESETS)
