"""The command: python -m experiments.privacy_links."""

from experiments.harness import runner
from experiments.privacy_links import PRESETS, main

runner.run(main, PRESETS)
