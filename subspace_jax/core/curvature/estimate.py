"""The loop over probes, with the mean and standard error over them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.core.curvature.inputs import Inputs, Keys, directions, samples
from subspace_jax.typing import Array, Float, Int, LossFn, PyTree, Shaped, Variables


class Estimate(NamedTuple):
    """Mean over the probes and its standard error, per sample, in float32 or wider; one probe has stderr NaN."""

    value: Float[Array, " b"]
    stderr: Float[Array, " b"]


def per_sample(loss: LossFn, variables: Variables, x: Inputs, y: Array) -> Float[Array, " b"]:
    """The losses; ValueError unless there is one per sample."""
    losses = loss(variables, x, y)
    if jnp.shape(losses) != samples(x):
        raise ValueError(
            f"loss(variables, x, y) must return one value a sample, shape {samples(x)}; got {jnp.shape(losses)}: "
            "do not average over the batch (losses.cross_entropy(apply) is such a loss)."
        )
    return losses


def gradient(loss: LossFn, variables: Variables, y: Array) -> Callable:
    """The function x -> dL/dx: the gradient of the batch SUM, which is per sample because samples do not interact.

    A mean would scale the scores by 1/B, and those of the short last batch by more.
    """
    return jax.grad(lambda x: per_sample(loss, variables, x, y).sum())


def evaluate(fn: Callable, count: int, chunk: int | None = None) -> Shaped[Array, "count ..."]:
    """Stack fn(0) ... fn(count - 1), `chunk` of them at a time by `vmap`."""
    numbers, chunk = jnp.arange(count), min(chunk or 1, count)
    if chunk == 1:
        return _in_turn(fn, numbers)
    many, whole = jax.vmap(fn), count - count % chunk
    stacked = _in_turn(many, numbers[:whole].reshape(-1, chunk))
    stacked = stacked.reshape(whole, *stacked.shape[2:])
    return stacked if whole == count else jnp.concatenate([stacked, many(numbers[whole:])])


def _in_turn(fn: Callable, numbers: Int[Array, "n ..."]) -> Shaped[Array, "n ..."]:
    """Stack fn(number), one after the other, so that the memory is that of one.

    A compiled loop, except on CPU, where XLA runs convolution gradients inside a loop 30 times slower. There it is
    unrolled, and each turn depends on the value before it, since XLA would otherwise evaluate all at once.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.map(fn, numbers)

    def step(last, number):
        value = fn(jnp.minimum(number, number + (last != 0)))  # equals `number`, but the compiler cannot know that
        return value.ravel()[0].astype(jnp.float32), value

    return jax.lax.scan(step, _start(fn, numbers[0]), numbers, unroll=True)[1]


def _start(fn: Callable, number: Int[Array, "..."]) -> Float[Array, ""]:
    """The zero a loop over fn starts from; inside `shard_map` it varies over the mesh axes over which its values do."""
    zero = jnp.float32(0)
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return zero
    (value,) = jax.make_jaxpr(fn)(number).out_avals
    return jax.lax.pcast(zero, tuple(value.manual_axis_type.varying), to="varying")


def estimate(fn: Callable, keys: Keys, like: PyTree, *, probes: int, chunk: int | None) -> Estimate:
    """Average fn(v) -> (b,) over Rademacher v shaped as `like`; probe k of a sample depends on its key and k alone."""
    values = evaluate(lambda number: fn(directions(keys, number, like)), probes, chunk)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / probes**0.5)
