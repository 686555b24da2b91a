"""The command: python -m experiments.distill_decentralized."""

from experiments.distill_decentralized import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
