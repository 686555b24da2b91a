"""One classifier, shared by its experiments: flags, data with planted wrong labels, a network trained or loaded.

`scored` scores its training samples while it trains, `retrained` holds the baselines that train further networks on
parts of the data, `brought` takes published weights instead of training.
"""

from experiments.families.classifier.brought import BroughtConfig, bring, given
from experiments.families.classifier.data import (
    SCORE_KEY,
    TRAIN_KEY,
    Config,
    Setup,
    Task,
    checkpoint_config,
    chosen,
    network_arguments,
    noisy_labels,
    part,
    setup,
    task,
)
from experiments.families.classifier.network import (
    Trained,
    adopt,
    create,
    epoch,
    measure,
    own,
    penultimate,
    save_edited,
    save_network,
    subset,
    trained,
)

__all__ = [
    "SCORE_KEY", "TRAIN_KEY", "BroughtConfig", "Config", "Setup", "Task", "Trained", "adopt", "bring",
    "checkpoint_config", "chosen", "create", "epoch", "given", "measure", "network_arguments", "noisy_labels", "own",
    "part", "penultimate", "save_edited", "save_network", "setup", "subset", "task", "trained",
]  # fmt: skip
