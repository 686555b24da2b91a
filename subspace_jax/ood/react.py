"""Rectified activations: Sun, Guo and Li, ReAct, NeurIPS 2021.

s = logsumexp(min(h, c) W + b), the energy of features cut off at c, the 90th percentile of all units on training data:
unknown inputs often drive single units far higher.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.ood.detectors import Cost, Detector, Outputs, State, check, feature, rows, together, wide
from subspace_jax.ood.vim import check_width, checked_head
from subspace_jax.typing import Array, Float


@checks.on_host
def react(head: tuple[Any, Any], *, percentile: float = 0.9) -> Detector:
    """The score above; percentile 1 cuts nothing that training data shows.

    Args:
      head: (W (d, classes), b (classes,)), the network's last layer.
      percentile: share of the training activations that stay as they are.

    Raises:
      ValueError: a percentile outside (0, 1]; a head of another shape, or that does not fit the features.
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile is a share of the activations, in (0, 1]; got {percentile}.")
    kernel, bias = checked_head(head)

    def finish(sums: tuple) -> State:
        features, _ = together(sums)
        check_width(features, kernel)
        return {"cut": np.quantile(features, percentile).astype(np.float32), "kernel": kernel, "bias": bias}

    return Detector(rows(), finish, _score, lambda sizes: Cost(2 * sizes.width * sizes.classes + sizes.width, 1))


def _score(state: State, outputs: Outputs) -> Float[Array, " n"]:
    check(outputs)
    cut = jnp.minimum(wide(feature(outputs)), state["cut"])
    logits = jnp.matmul(cut, state["kernel"], precision="highest") + jnp.asarray(state["bias"])[None]
    return jax.nn.logsumexp(logits, axis=1)
