"""The command: python -m experiments.pca_design."""

from experiments.harness import runner
from experiments.pca_design import PRESETS, main

runner.run(main, PRESETS)
