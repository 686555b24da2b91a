"""Gaussian noise on the sum of clipped gradients, divided by the EXPECTED batch: the first link of an optax chain."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Float, Int, Key

Number = float | Float[Array, ""]


class NoiseState(NamedTuple):
    """The key of all noise, and the steps that have been taken: each folds its number in."""

    key: Key[Array, ""]
    step: Int[Array, ""]


def gaussian_noise(
    key: Key[Array, ""], *, sigma: Number, clip: Number, expected_batch: Number
) -> optax.GradientTransformation:
    """Turn the sum of clipped gradients into the released one: (sum + N(0, (sigma clip)^2)) / expected_batch.

    First in a chain, everything that follows is post-processing. Noise is float32, float64 under x64; none where sigma
    is 0, whatever clip. The numbers may be traced, so that one program serves all noises.

    Args:
      key: of all noise of the run; use it for nothing else.
      sigma: noise multiplier, at least 0.
      clip: norm to which the summed gradients were clipped, above 0.
      expected_batch: samples times chance, the same at every step: never the number that was drawn.

    Raises:
      ValueError: a number outside its range; noise of infinite size; at `update`, a complex gradient.
    """
    key = as_key(key)
    if checks.is_known(sigma) and checks.is_known(clip):
        check_noise(float(sigma), float(clip))
    if checks.is_known(expected_batch) and not 0 < expected_batch < math.inf:
        raise ValueError(f"expected_batch, samples times chance, is above 0 and finite; got {expected_batch}.")
    stddev = jnp.where(jnp.asarray(sigma) > 0, jnp.asarray(sigma, float) * clip, 0.0)

    def init(params: Any) -> NoiseState:
        del params
        return NoiseState(key, jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, NoiseState]:
        checks.check_updates(updates, params)
        leaves, tree = jax.tree.flatten(updates)
        if any(map(jnp.iscomplexobj, leaves)):
            raise ValueError(
                "noise is real, and would leave the imaginary parts of complex gradients as they are: make the real "
                "and the imaginary part of each weight leaves of their own."
            )
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), len(leaves))
        noisy = [
            (leaf + stddev * jax.random.normal(k, leaf.shape, float)) / expected_batch
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return tree.unflatten(noisy), NoiseState(state.key, state.step + 1)

    return optax.GradientTransformation(init, update)


def check_noise(sigma: float, clip: float) -> None:
    """Refuse a noise multiplier or a clip norm that guarantees nothing.

    Raises:
      ValueError: a number outside its range; noise of infinite size.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma, the noise multiplier, is at least 0 and finite; got {sigma}.")
    if not clip > 0:
        raise ValueError(f"clip is the largest norm of a gradient, above 0; got {clip}.")
    if sigma > 0 and clip == math.inf:
        raise ValueError(f"without clipping no noise suffices: give a finite clip, or sigma = 0; got sigma = {sigma}.")
