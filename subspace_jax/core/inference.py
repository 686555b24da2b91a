"""Check that a function is in inference mode, where samples do not interact: each row belongs to one sample."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.moments import wide
from subspace_jax.typing import Params

INTERACTION = 1e-3  # relative change of one sample's output between two batches; rounding stays below 1e-5


@checks.on_host
def check_inference(fn: Callable, params: Params, x: Any) -> None:
    """Refuse a function in which the output of a sample changes with the rest of its batch.

    Detects batch statistics of training mode, and dropout with a fixed key where its mask differs between samples. Runs
    fn twice: on x, and on x with its samples moved by one position, the one that wraps around replaced.

    Args:
      fn: fn(params, x) -> any pytree of arrays (n, ...).
      params: its parameters.
      x: at least 2 samples, (n, ...), not all equal.

    Raises:
      ValueError: an output that changes or is not finite; samples that are not finite, all equal, or fewer than 2.
    """
    if len(x) < 2:
        raise ValueError(f"two samples at least show whether they interact; got {len(x)}.")
    x = np.asarray(x)
    checks.check_finite("x", x)
    checks.check_varied("samples", x)
    moved = np.concatenate([x[1:], x[:1] + x[1:2]])  # another last sample: every batch statistic changes
    out, again = (jax.jit(fn)(params, batch) for batch in (x, moved))
    checks.check_finite("the output", out, remedy="the network diverged, or its parameters are not finite")
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(again), strict=True):
        a, b = wide(a)[1:], wide(b)[:-1]
        change = np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)
        if not change <= INTERACTION:
            raise ValueError(
                f"the output of a sample changes by {change:.0%} with the rest of its batch: put the network in "
                "inference mode (running statistics of BatchNorm, no dropout)."
            )
