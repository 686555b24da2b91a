"""Outputs of models that never were trained: Gaussian logits, higher at the label where a model has seen the sample."""

import jax
import numpy as np

from subspace_jax.privacy import statistics


def outputs(seed, *, models=14, n=40, queries=2, classes=4, gap=2.0, keep=None):
    """Statistics of all models, and which samples each has seen: complementary pairs of random halves."""
    rng = np.random.default_rng(seed)
    if keep is None:
        half = np.array([rng.permutation(n) < n // 2 for _ in range(models // 2)])
        keep = np.stack([half, ~half], axis=1).reshape(models, n)
    y = rng.integers(0, classes, n)
    logits = rng.normal(size=(models, queries, n, classes)) + rng.normal(size=(n, classes))
    logits[:, :, np.arange(n), y] += gap * keep[:, None, :]
    curvature = np.exp(rng.normal(size=(models, queries, n)) + rng.normal(size=n) - keep[:, None, :])
    return statistics.from_logits(logits, y, curvature=curvature), keep


def population(seed, *, models=14, z=60, **shape):
    """Statistics of the same number of models on samples that none has seen."""
    return outputs(seed, models=models, n=z, keep=np.zeros((models, z), bool), **shape)[0]


def take(of, rows):
    """Statistics of the selected models."""
    return jax.tree.map(lambda values: values[rows], of)
