"""Which samples each of many models is trained on: random halves, equal or independent, in complementary pairs."""

import jax
import numpy as np

from subspace_jax.core.checks import check_count, on_host
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Bool, Key


@on_host
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
    _check_pairs(models)
    check_count("the number of samples", samples, 0)
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


@on_host
def independent_masks(key: Key[Array, ""], models: int, samples: int) -> Bool[np.ndarray, "models n"]:
    """Row 2j holds each sample with chance 1/2, independently of all others; row 2j + 1 holds the others.

    Whether one sample is IN says nothing of the others: models with and without it differ, on average over the others,
    by one sample added or removed, the neighbours of differential privacy. With equal halves (`shadow_masks`) they
    would differ by one sample in exchange for another. Sizes vary by sqrt(n) / 2. Each sample is IN for half of the
    models.

    Args:
      key: decides all of them.
      models: M, even.
      samples: n, at least 1.

    Returns:
      True where a model is trained on a sample.

    Raises:
      ValueError: fewer than 2 models or an odd number; no sample.
    """
    key = as_key(key)
    _check_pairs(models)
    if samples < 1:
        raise ValueError(f"masks are over at least 1 sample; got {samples}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    first = rng.random((models // 2, samples)) < 0.5
    return np.stack([first, ~first], axis=1).reshape(models, samples)


def _check_pairs(models: int) -> None:
    if models < 2 or models % 2:
        raise ValueError(f"models come in complementary pairs, an even number from 2 on; got {models}.")
