"""One classifier, shared by its experiments: flags, data with planted wrong labels, a network trained or loaded.

`scored` scores its training samples while it trains, `retrained` holds the baselines that train further networks on
parts of the data, `brought` takes published weights instead of training, `attacked` and `withstood` are for networks of
images in [0, 1] under attack.
"""

from experiments.families.classifier.attacked import (
    Case,
    along,
    case,
    fallen,
    normalised,
    on_pixels,
    pixels,
    smoothness,
    with_images,
)
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
from experiments.families.classifier.study import STUDY

__all__ = [
    "SCORE_KEY", "STUDY", "TRAIN_KEY", "BroughtConfig", "Case", "Config", "Setup", "Task", "Trained", "adopt",
    "along", "bring", "case", "checkpoint_config", "chosen", "create", "epoch", "fallen", "given", "measure",
    "network_arguments", "noisy_labels", "normalised", "on_pixels", "own", "part", "penultimate", "pixels",
    "save_edited", "save_network", "setup", "smoothness", "subset", "task", "trained", "with_images",
]  # fmt: skip
