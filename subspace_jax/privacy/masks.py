"""Which samples each shadow model is trained on: random halves in complementary pairs."""

import jax
import numpy as np

from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Bool, Key


def shadow_masks(key: Key[Array, ""], models: int, samples: int) -> Bool[np.ndarray, "models n"]:
    """Row 2j is a random half of the samples, row 2j + 1 the other half: each sample is IN for half of the models.

    With an odd number of samples each pair leaves another one out of both, so that all models train on the same number;
    the pairs go through all samples before one is left out again. The first pairs do not depend on `models`: more of
    them can be added to a study later.

    Keep both models of a pair on one side, shadows or targets: the mask of one tells that of the other.

    Args:
      key: decides all of them.
      models: M, even.
      samples: n, at least 2.

    Returns:
      True where a model is trained on a sample.

    Raises:
      ValueError: fewer than 2 models or an odd number; fewer than 2 samples.
    """
    key = as_key(key)
    if models < 2 or models % 2:
        raise ValueError(f"models come in complementary pairs, an even number from 2 on; got {models}.")
    if samples < 2:
        raise ValueError(f"halves need at least 2 samples; got {samples}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    left_out = rng.permutation(samples)
    masks = np.zeros((models, samples), bool)
    for pair in range(models // 2):
        order = rng.permutation(samples)
        if samples % 2:
            order = order[order != left_out[pair % samples]]
        half = len(order) // 2
        masks[2 * pair, order[:half]] = True
        masks[2 * pair + 1, order[half:]] = True
    return masks
