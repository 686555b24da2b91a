"""Which samples did the network memorize? Epoch averages of scores, the baselines, and the stability reference."""

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
