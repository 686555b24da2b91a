"""Losses with one value per sample, of which per-sample scores are derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_labels, check_lengths
from subspace_jax.typing import ApplyFn, Array, Float, Int, LossFn


def softmax_cross_entropy(
    logits: Float[Array | np.ndarray, "b classes"], y: Int[Array | np.ndarray, " b"]
) -> Float[Array, " b"]:
    """-log softmax(logits)[y], in nats, in float32 or wider.

    A label outside [0, classes) is refused where its value is known, and gives NaN under `jit`.

    Raises:
      ValueError: labels that are not integers of shape (b,); a known label outside [0, classes).
    """
    classes = logits.shape[-1]
    check_labels(y, classes)
    check_lengths(logits=logits, labels=y)
    logits, y = jnp.asarray(logits), jnp.asarray(y)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    chosen = jnp.take_along_axis(logits, jnp.clip(y, 0, classes - 1)[:, None], axis=-1)[:, 0]
    return jnp.where((y >= 0) & (y < classes), jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.nan)


def cross_entropy(apply: ApplyFn) -> LossFn:
    """The loss(variables, x, y) -> (batch,) of a classifier apply(variables, x) -> logits, for integer labels."""

    def loss(variables, x, y):
        return softmax_cross_entropy(apply(variables, x), y)

    return loss
