"""Detectors of a network with an auxiliary class for unknown inputs, its last output (`vrm.auxiliary` trains it).

They find FAR inputs, for one unit and no second pass; near the classes they are worse than MSP. All other detectors
take the `known_logits` of such a network, and gain from its training too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.ood.detectors import Cost, Detector, Outputs, State, check, wide
from subspace_jax.typing import Array, Float


def known_logits(logits: Float[Any, "n outputs"], *, classes: int) -> Float[Any, "n classes"]:
    """The logits of the known classes alone, for any other detector.

    Raises:
      ValueError: logits without the auxiliary class.
    """
    checks.check_axes("logits (n, outputs)", logits, 2)
    check_outputs(logits.shape[1], classes)
    return logits[:, :classes]


def flagged(logits: Float[Any, "n outputs"]) -> Any:
    """Whether the auxiliary class, the last, is the largest: the decision without a threshold."""
    checks.check_axes("logits (n, outputs)", logits, 2)
    checks.check_finite("logits", logits)
    return logits.argmax(axis=1) == logits.shape[1] - 1


def aux() -> Detector:
    """Log-odds against the auxiliary class, the last of the logits: log((1 - p) / p), which ranks as 1 - p.

    1 - p itself is 0 or 1 in float32 for most samples, and such ties make an AUROC wrong.
    """
    return Detector(_update, lambda sums: {}, _aux, lambda sizes: Cost(2 * sizes.width, sizes.width + 1))


def aux_max() -> Detector:
    """max_k p_k over the known classes, of a softmax over all outputs, as its log-odds above those of chance.

    Unlike `aux` it also sees doubt between known classes: better near them, as good far away.
    """
    return Detector(_update, lambda sums: {}, _aux_max, lambda sizes: Cost(2 * sizes.width, sizes.width + 1))


def _update(sums: Any, outputs: Outputs, labels: Any) -> State:
    check(outputs, labels)
    checks.check_labels(labels, np.shape(outputs.logits)[1] - 1)
    return {}


def _aux(state: State, outputs: Outputs) -> Float[Array, " n"]:
    check(outputs)
    logits = wide(outputs.logits)
    return jax.nn.logsumexp(logits[:, :-1], axis=1) - logits[:, -1]


def _aux_max(state: State, outputs: Outputs) -> Float[Array, " n"]:
    check(outputs)
    logits = wide(outputs.logits)
    known = logits[:, :-1]
    is_top = jnp.arange(known.shape[1])[None] == known.argmax(axis=1)[:, None]
    others = jnp.concatenate([jnp.where(is_top, -jnp.inf, known), logits[:, -1:]], axis=1)
    return known.max(axis=1) - jax.nn.logsumexp(others, axis=1) + jnp.log(known.shape[1])


def check_outputs(outputs: int, classes: int) -> None:
    """Refuse a network without the output more.

    Raises:
      ValueError: names both numbers.
    """
    if outputs != classes + 1:
        raise ValueError(
            f"an auxiliary class takes a network of {classes + 1} outputs for {classes} classes; it has {outputs}: "
            f"build it with classes={classes + 1}."
        )
