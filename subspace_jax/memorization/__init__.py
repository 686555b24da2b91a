"""Which samples did the network memorize? Scores, their epoch averages, baselines, and stability-based memorization."""

from subspace_jax.memorization import (
    confident_learning,
    duplicates,
    dynamics,
    epoch_average,
    scores,
    second_split,
    stability,
)

__all__ = ["confident_learning", "duplicates", "dynamics", "epoch_average", "scores", "second_split", "stability"]
