"""Mahalanobis distance to the nearest class mean: Lee, Lee, Lee and Shin, NeurIPS 2018, last layer.

s = -min_k (h - m_k)' P (h - m_k), with the class means m_k and the pseudo-inverse P of ONE covariance around them,
S = sum_i (h_i - m_yi)(h_i - m_yi)' / n. Fitted from sums: nothing grows with the training set.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.ood.detectors import Cost, Detector, Outputs, Sizes, State, check, feature, wide
from subspace_jax.typing import Array, Float

FLOOR = 1e-6  # of the largest eigenvalue; below it lies rounding, and units that are dead on training data


class Sums(NamedTuple):
    """Sums over training samples, in float64; those of two sets add."""

    count: Float[np.ndarray, " classes"]
    total: Float[np.ndarray, "classes d"]
    gram: Float[np.ndarray, "d d"]


def mahalanobis() -> Detector:
    """Minus the squared distance to the nearest class mean, at most 0.

    Any invertible affine map of the features leaves it as it is, up to rounding. Directions in which the training
    features do not vary within classes are dropped, so that it may not see an input that differs there alone.

    Raises:
      ValueError: by `finish`, a class without a training sample, or features that do not vary.
    """
    return Detector(_update, _finish, _score, _cost)


def _update(sums: Sums | None, outputs: Outputs, labels: Any) -> Sums:
    check(outputs, labels)
    h = checks.as_real("penultimate", feature(outputs))
    checks.check_finite("penultimate", h)
    member = np.eye(np.shape(outputs.logits)[1])[np.asarray(labels)]
    new = Sums(member.sum(axis=0), member.T @ h, h.T @ h)
    return new if sums is None else Sums(*(a + b for a, b in zip(sums, new, strict=True)))


def _finish(sums: Sums) -> State:
    if len(absent := np.flatnonzero(sums.count == 0)):
        raise ValueError(f"class {absent[0]} has no training sample ({len(absent)} classes): its mean is unknown.")
    means = sums.total / sums.count[:, None]
    covariance = (sums.gram - (sums.count[:, None] * means).T @ means) / sums.count.sum()
    values, vectors = np.linalg.eigh(covariance)
    kept = values > FLOOR * max(values[-1], 0)
    if not kept.any():
        raise ValueError("the features do not vary within any class: there is no covariance to measure distances by.")
    whiten = vectors * np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)
    centre = means.mean(axis=0) @ whiten  # keeps the squares below small
    state = {"whiten": whiten, "centre": centre, "means": means @ whiten - centre}
    return {name: values.astype(np.float32) for name, values in state.items()}


def _score(state: State, outputs: Outputs) -> Float[Array, " n"]:
    check(outputs)
    z = jnp.matmul(wide(feature(outputs)), state["whiten"], precision="highest") - jnp.asarray(state["centre"])[None]
    means = jnp.asarray(state["means"])
    cross = jnp.matmul(z, means.T, precision="highest")
    square = jnp.square(z).sum(axis=1)[:, None] - 2 * cross + jnp.square(means).sum(axis=1)[None]
    return -jnp.maximum(square, 0).min(axis=1)


def _cost(sizes: Sizes) -> Cost:
    d, k = sizes.width, sizes.classes
    return Cost(2 * d * d + 2 * k * d, d * d + k * d + d)
