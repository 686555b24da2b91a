"""The command: python -m experiments.federated_proxy."""

from experiments.federated_proxy import PRESETS, main
from experiments.harness import runner

runner.run(main, PRESETS)
