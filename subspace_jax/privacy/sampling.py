"""Poisson batches: every sample enters every step with the same chance, independently; the accounting relies on it.

The number of samples in a step is random and may be 0. So that every step has one shape, sets are filled up with
padding, to the same width for all steps.
"""

from typing import NamedTuple

import jax
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Bool, Int, Key


class Sets(NamedTuple):
    """The samples of each step, one row a step.

    Attributes:
      index: sample numbers, ascending; -1 on padding.
      is_padding: where there is none.
    """

    index: Int[np.ndarray, "steps width"]
    is_padding: Bool[np.ndarray, "steps width"]


@checks.on_host
def poisson_sets(
    key: Key[Array, ""], samples: int, *, q: float, steps: int, pad_to: int = 32, max_batch: int | None = None,
    start: int = 0,
) -> Sets:  # fmt: skip
    """Draw the sets of the steps start .. start + steps - 1, on the host.

    A set depends on key, samples, q and the number of its step alone, so that a resumed run draws what the
    uninterrupted one would have drawn.

    Args:
      key: of the whole run.
      samples: in the data set.
      q: chance of a sample to enter a step, in (0, 1].
      steps: how many, at least 1.
      pad_to: the width is the least multiple of it that holds the largest set, at least one.
      max_batch: largest set that memory allows. A larger one is an error: cutting it would break the accounting.
      start: steps before the first.

    Raises:
      ValueError: a number outside its range; a set larger than max_batch, naming the step.
    """
    key = as_key(key)
    if samples < 1 or steps < 1 or pad_to < 1 or start < 0:
        raise ValueError(
            f"there are samples, steps and a width to fill, at least 1 each; got {samples}, {steps} and {pad_to}, "
            f"from step {start} on."
        )
    if not 0 < q <= 1:
        raise ValueError(f"q is the chance of a sample to enter a step, in (0, 1]; got {q}.")
    words = np.asarray(jax.random.key_data(key)).tolist()
    sets = [np.flatnonzero(np.random.default_rng([*words, start + i]).random(samples) < q) for i in range(steps)]
    sizes = np.array([len(found) for found in sets])
    if max_batch is not None and sizes.max() > max_batch:
        raise ValueError(
            f"step {start + int(sizes.argmax())} drew {sizes.max()} samples, {q * samples:.4g} are expected, and "
            f"max_batch is {max_batch}: raise it (gradients are held by micro-batches), or lower q."
        )
    width = max(1, -(-int(sizes.max()) // pad_to)) * pad_to
    index = np.full((steps, width), -1, np.int32)
    for row, found in zip(index, sets, strict=True):
        row[: len(found)] = found
    return Sets(index, index < 0)
