"""The loop over probes, and the mean and standard error that it leaves."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.core.keys import rademacher
from subspace_jax.typing import Array, Float, Int, Key, LossFn, Shaped, Variables


class Estimate(NamedTuple):
    """Mean over the probes and its standard error, per sample, in float32 or wider; one probe has stderr NaN."""

    value: Float[Array, " b"]
    stderr: Float[Array, " b"]


def per_sample(loss: LossFn, variables: Variables, x: Float[Array, "b *d"], y: Array) -> Float[Array, " b"]:
    """The losses, refused unless there is one a sample."""
    losses = loss(variables, x, y)
    if losses.shape != x.shape[:1]:
        raise ValueError(
            f"loss(variables, x, y) must return one value a sample, shape {x.shape[:1]}; got {losses.shape}: "
            "do not average over the batch (losses.cross_entropy(apply) is such a loss)."
        )
    return losses


def gradient(loss: LossFn, variables: Variables, y: Array) -> Callable:
    """The function x -> dL/dx: the gradient of the batch SUM, which is per sample because samples do not interact.

    A mean would scale the scores by 1/B, and those of the short last batch by more.
    """
    return jax.grad(lambda x: per_sample(loss, variables, x, y).sum())


def sqnorm(a: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """||a||^2 of every sample, summed in float32 or wider."""
    return dot(a, a)


def dot(a: Float[Array, "b *d"], b: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Inner product of every sample, in float32 or wider; no matrix product, so no device lowers its precision."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return (a.astype(wide) * b.astype(wide)).reshape(len(a), -1).sum(axis=1)


def evaluate(fn: Callable, count: int, chunk: int | None = None) -> Shaped[Array, "count ..."]:
    """Stack fn(0) ... fn(count - 1), `chunk` of them at a time as one batch so many times larger.

    A compiled loop, except on CPU: there XLA runs convolution gradients inside a loop 10 to 100 times slower, so the
    loop is unrolled.
    """
    numbers = jnp.arange(count)
    if chunk is None or chunk == 1:
        return _loop(fn, numbers)
    many, whole = jax.vmap(fn), count - count % chunk
    stacked = _loop(many, numbers[:whole].reshape(-1, chunk))
    return jnp.concatenate([stacked.reshape(whole, *stacked.shape[2:]), many(numbers[whole:])])


def _loop(fn: Callable, numbers: Int[Array, "n ..."]) -> Shaped[Array, "n ..."]:
    unroll = True if jax.default_backend() == "cpu" else 1
    return jax.lax.scan(lambda _, number: (None, fn(number)), None, numbers, unroll=unroll)[1]


def estimate(
    fn: Callable, keys: Key[Array, " b"], shape: tuple[int, ...], dtype, *, probes: int, chunk: int | None
) -> Estimate:
    """Average fn(v) -> (b,) over Rademacher v (b, *shape); probe k of a sample depends on its key and k alone."""
    values = evaluate(lambda number: fn(rademacher(keys, number, shape, dtype)), probes, chunk)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / probes**0.5)
