"""The data set of a run: both splits, the training samples cut to --samples."""

import warnings

import numpy as np

from experiments.harness.flags import Config
from subspace_jax import data


def load(config: Config, samples: int | None, *, test: bool = True, pixels: bool = False) -> data.DataSet:
    """The data set named by the flags.

    Args:
      config: --data, --data-dir and --image-size.
      samples: number of training samples, the first ones; all when None.
      test: whether the question measures on a test split, which a set may lack.
      pixels: whether it needs images, which a set of rows of numbers has not.

    Raises:
      ValueError: a data set that lacks the test split or the images asked for.
    """
    found = data.load_splits(config.data, config.data_dir or None, image_size=config.image_size or None)
    if test and not len(found.test["label"]):
        raise ValueError(f"{config.data} has no test split, on which this experiment measures: put one beside train.")
    if pixels and "image" not in found.train:
        raise ValueError(f"{config.data} has rows of numbers (x), and these flags need images.")
    return found._replace(train=cut(found, samples))


def cut(found: data.DataSet, samples: int | None) -> dict[str, np.ndarray]:
    """The first `samples` training samples, with a warning if a class is left without any."""
    train = {name: column[:samples] for name, column in found.train.items()}
    lost = np.setdiff1d(found.train["label"], train["label"])
    if len(lost):
        named = ", ".join(found.names[i] if found.names else str(i) for i in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        warnings.warn(f"--samples {samples} leaves no training sample of class {named}{more}.", stacklevel=2)
    return train
