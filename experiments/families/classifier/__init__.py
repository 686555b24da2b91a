"""One classifier, shared by its experiments: flags, data with planted wrong labels, a network trained or loaded.

`retrained` holds the baselines that train further networks on parts of the data.
"""

from experiments.families.classifier.data import (
    SCORE_KEY,
    TRAIN_KEY,
    Config,
    Setup,
    Task,
    checkpoint_config,
    network_arguments,
    noisy_labels,
    setup,
    task,
)
from experiments.families.classifier.network import Trained, adopt, create, epoch, save_edited, trained

__all__ = [
    "SCORE_KEY", "TRAIN_KEY", "Config", "Setup", "Task", "Trained", "adopt", "checkpoint_config", "create", "epoch",
    "network_arguments", "noisy_labels", "save_edited", "setup", "task", "trained",
]  # fmt: skip
