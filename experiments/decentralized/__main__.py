"""The command: python -m experiments.decentralized."""

from experiments.decentralized import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
