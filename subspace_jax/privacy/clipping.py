"""The sum of clipped per-sample gradients: what bounds the influence of one sample on a step.

G = sum_i g_i min(1, clip / ||g_i||), with g_i the gradient of the loss of sample i in ALL parameters and ||.|| their
common Euclidean norm. Adding or removing a sample moves G by at most `clip`, whatever the sample is.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax import trees
from subspace_jax.core import checks
from subspace_jax.training.fit import likes_scan
from subspace_jax.typing import Array, Bool, Float, Int, LossFn, Params, PyTree, Variables


class ClipMetrics(NamedTuple):
    """Means over the samples of a step, 0 where there are none. NOT private: the guarantee does not cover them."""

    loss: Float[Array, ""]
    norm: Float[Array, ""]
    """Of the gradients before clipping."""
    clip_fraction: Float[Array, ""]
    """Share of the samples whose gradient was longer than clip."""
    samples: Int[Array, ""]
    """How many, padding left out."""


def clipped_sum(
    loss: LossFn,
    params: Params,
    x: PyTree,
    y: PyTree,
    is_padding: Bool[Any, " b"],
    *,
    clip: float | Float[Array, ""],
    microbatch: int | None = None,
) -> tuple[PyTree, ClipMetrics]:
    """Sum of the clipped per-sample gradients of a batch, and metrics that are not private.

    Norms and sums are float32, float64 under x64, whatever the parameters are. Entries of a gradient that are NaN or
    infinite count as 0, before clipping. A zero gradient stays zero; clip = inf clips nothing. An empty batch, or one
    of padding alone, gives exact zeros.

    Args:
      loss: (params, x, y) -> one loss per sample (b,); it is called with one sample at a time, (1, ...), so that
        samples cannot interact. No dropout.
      params: a pytree of floating-point arrays; gradients are taken in all of them.
      x: inputs (b, ...), an array or a tree of them; those of padding may be anything.
      y: labels (b, ...), likewise.
      is_padding: rows that only fill the batch up and contribute exactly 0.
      clip: largest norm of a contribution, above 0; a traced number compiles once for all values.
      microbatch: samples whose gradients are held at a time, each as large as the parameters; all when None. It does
        not change the result, up to rounding.

    Returns:
      The sum, a tree as params; `ClipMetrics`.

    Raises:
      ValueError: clip or microbatch not above 0; other lengths; a loss without one value per sample.
    """
    _check(loss, params, x, y, is_padding, clip, microbatch)
    rows = jax.tree.map(jnp.asarray, (x, y, is_padding))
    count = len(rows[2])
    size = min(microbatch or count, count)
    if size == count:
        total, sums = _sum(loss, params, rows, clip)
    else:
        filled = -count % size
        parts = jax.tree.map(lambda leaf: _fill(leaf, filled).reshape(-1, size, *leaf.shape[1:]), rows[:2])
        padding = jnp.pad(rows[2], (0, filled), constant_values=True).reshape(-1, size)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(
            lambda: _sum(loss, params, jax.tree.map(lambda leaf: leaf[0], (*parts, padding)), clip)
        ))  # fmt: skip
        (total, sums), _ = jax.lax.scan(
            lambda carry, part: (jax.tree.map(jnp.add, carry, _sum(loss, params, part, clip)), None),
            blank, (*parts, padding), unroll=not likes_scan(params),
        )  # fmt: skip
    at_least_one = jnp.maximum(sums.samples, 1)
    return total, jax.tree.map(lambda part: part / at_least_one, sums)._replace(samples=sums.samples)


@lru_cache(maxsize=64)  # one function object, and so one compilation
def of_params(loss: LossFn) -> Callable:
    """A loss of {"params": ..., "batch_stats": {}} as one of the parameters alone."""

    def own(params, x, y):
        return loss({"params": params, "batch_stats": {}}, x, y)

    return own


def check_network(variables: Variables) -> None:
    """Refuse a network that keeps statistics of its batches: through them a sample reaches others, past the clipping.

    Raises:
      ValueError: names the layers.
    """
    if stats := trees.flatten(variables.get("batch_stats", {})):
        layers = ", ".join(dict.fromkeys(path.rpartition("/")[0] or path for path in stats))
        raise ValueError(
            f"BatchNorm is not differentially private, it couples the samples of a batch: {layers} keep statistics; "
            'use GroupNorm (nn.build(..., norm="group")).'
        )


def _sum(loss: LossFn, params: Params, rows: tuple[Any, Any, Any], clip: Any) -> tuple[PyTree, ClipMetrics]:
    """Sums over the samples of one micro-batch: of clipped gradients, and of what the metrics are means of."""
    *samples, is_padding = rows
    wide = jnp.result_type(float)

    def gradient(x, y):
        value, vjp = jax.vjp(lambda p: loss(p, *jax.tree.map(lambda leaf: leaf[None], (x, y)))[0], params)
        return value, vjp(jnp.ones_like(value))[0]

    values, grads = jax.vmap(gradient)(*samples)
    grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0).astype(wide), grads)
    norm = global_norms(grads)
    real = ~is_padding
    scale = jnp.where(real, jnp.where(norm > clip, clip / norm, 1), 0).astype(wide)
    total = jax.tree.map(lambda g: jnp.einsum("b,b...->...", scale, g, precision="highest"), grads)
    values = jnp.where(real, values.astype(wide), 0)
    clipped = real & (norm > clip)
    return total, ClipMetrics(
        values.sum(), jnp.where(real, norm, 0).sum(), clipped.sum().astype(wide), real.sum().astype(jnp.int32)
    )


def global_norms(grads: PyTree) -> Float[Array, " b"]:
    """Euclidean norm of each of b gradients, leaves (b, ...); without overflow of the squares."""
    leaves = [g.reshape(len(g), math.prod(g.shape[1:])) for g in jax.tree.leaves(grads)]
    largest = jnp.stack([jnp.abs(g).max(axis=1, initial=0) for g in leaves]).max(axis=0)
    unit = jnp.where(largest >= jnp.finfo(largest.dtype).tiny, largest, 1)
    return unit * jnp.sqrt(sum(jnp.square(g / unit[:, None]).sum(axis=1) for g in leaves))


def _fill(leaf: Array, count: int) -> Array:
    """`count` further rows, copies of the first: padding is then valid input."""
    return jnp.concatenate([leaf, jnp.broadcast_to(leaf[:1], (count, *leaf.shape[1:]))]) if count else leaf


def _check(loss: LossFn, params: Params, x: Any, y: Any, is_padding: Any, clip: Any, microbatch: int | None) -> None:
    if checks.is_known(clip) and not clip > 0:
        raise ValueError(f"clip is the largest norm of a gradient, above 0 (infinite: no clipping); got {clip}.")
    if microbatch is not None and microbatch < 1:
        raise ValueError(f"microbatch, samples whose gradients are held at a time, is at least 1; got {microbatch}.")
    leaves = trees.flatten({"x": x, "y": y})
    checks.check_lengths(is_padding=is_padding, **leaves)
    shape = jax.eval_shape(loss, params, x, y).shape
    if shape != (len(is_padding),):
        raise ValueError(
            f"the loss gives one value per sample, shape ({len(is_padding)},); got shape {shape}: clipping is sample "
            "by sample, so do not take a mean."
        )
    for path, leaf in trees.flatten(params).items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating) or math.prod(jnp.shape(leaf)) == 0:
            raise ValueError(
                f"parameters are real floating-point numbers, at least one; {path} is {jnp.result_type(leaf)}."
            )
