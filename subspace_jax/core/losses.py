"""Losses with one value per sample, of which per-sample scores are derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import (
    check_filled,
    check_labels,
    check_lengths,
    check_probabilities,
    check_real,
    is_known,
)
from subspace_jax.typing import ApplyFn, Array, Float, Int, LossFn, PyTree


def uphill(grads: PyTree) -> PyTree:
    """What `jax.grad` gives, as directions in which the loss grows: complex leaves are conjugated, others unchanged.

    An optimiser steps against them. Against JAX's gradient itself the imaginary parts would climb.
    """
    return jax.tree.map(lambda g: g.conj() if jnp.iscomplexobj(g) else g, grads)


def softmax_cross_entropy(
    logits: Float[Array | np.ndarray, "b classes"], y: Int[Array | np.ndarray, " b"]
) -> Float[Array, " b"]:
    """-log softmax(logits)[y], in nats, in float32 or wider.

    A label outside [0, classes) is refused where its value is known; under `jit` its loss and its gradient are NaN.

    Raises:
      ValueError: complex logits; labels that are not integers of shape (b,); a known label outside [0, classes).
    """
    classes = logits.shape[-1]
    check_real("cross-entropy", {"logits": logits.dtype})
    check_labels(y, classes)
    check_lengths(logits=logits, labels=y)
    logits, y = jnp.asarray(logits), jnp.asarray(y)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    chosen = jnp.take_along_axis(logits, jnp.clip(y, 0, classes - 1)[:, None], axis=-1)[:, 0]
    right = jnp.where((y >= 0) & (y < classes), 1.0, jnp.nan).astype(logits.dtype)
    return right * (jax.nn.logsumexp(logits, axis=-1) - chosen)  # a product, so that the gradient is NaN too


def soft_cross_entropy(
    logits: Float[Array | np.ndarray, "b classes"], targets: Float[Array | np.ndarray, "b classes"]
) -> Float[Array, " b"]:
    """-sum_k targets_k log softmax(logits)_k, in nats, in float32 or wider.

    One-hot targets give `softmax_cross_entropy`; a row of zeros gives zero. Rows that are no distribution are refused
    where their values are known, all-zero ones excepted: a sample without a label.

    Raises:
      ValueError: targets of another shape than the logits; complex ones; known rows that are no distribution.
    """
    if np.shape(targets) != np.shape(logits):
        raise ValueError(
            f"soft targets have the logits' shape, a share per class; got {np.shape(targets)} for {np.shape(logits)}."
        )
    check_real("cross-entropy", {"logits": jnp.result_type(logits), "targets": jnp.result_type(targets)})
    if is_known(targets):
        rows = np.asarray(targets)
        check_probabilities("targets", rows[rows.any(axis=1)])
    logits = jnp.asarray(logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


def class_rows(table: Float[Array | np.ndarray, "classes k"], y: Int[Array | np.ndarray, " b"]) -> Float[Array, "b k"]:
    """The row of a table for the class of every sample, such as a soft label; NaN under `jit` for what is no class.

    Raises:
      ValueError: labels that are not integers of shape (b,); a known label outside [0, classes).
    """
    check_labels(y, len(table))
    table, y = jnp.asarray(table), jnp.asarray(y)
    return jnp.where(((y >= 0) & (y < len(table)))[:, None], table[jnp.clip(y, 0, len(table) - 1)], jnp.nan)


def mean(each: Float[Array, " b"]) -> Float[Array, ""]:
    """The mean of one loss per sample, which a step descends.

    Raises:
      ValueError: no sample: the mean would be NaN, and all parameters after the step.
    """
    check_filled("the batch", each)
    return each.mean()


def cross_entropy(apply: ApplyFn) -> LossFn:
    """The loss(variables, x, y) -> (batch,) of a classifier apply(variables, x) -> logits, for integer labels."""

    def loss(variables, x, y):
        return softmax_cross_entropy(apply(variables, x), y)

    return loss
