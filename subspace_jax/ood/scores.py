"""Detectors that look at logits alone: nothing is fitted, nothing stored."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from subspace_jax.core.checks import is_known
from subspace_jax.ood.detectors import Cost, Detector, Outputs, State, check, wide
from subspace_jax.typing import Array, Float, PyTree


def of_logits(score: Callable[[Any], Float[Array, " n"]], flops: Callable[[int], float]) -> Detector:
    """A detector without a fit: score(logits), of about flops(classes) operations."""

    def update(sums: Any, outputs: Outputs, labels: Any) -> dict:
        check(outputs, labels)
        return {}

    return Detector(update, lambda sums: {}, _alone(score), lambda sizes: Cost(flops(sizes.classes), 0))


def msp(*, temperature: float = 1.0) -> Detector:
    """Maximum softmax probability p, as its log-odds above those of chance: log(p / (1 - p)) + log(classes - 1).

    It ranks as p does and is 0 where all classes are alike, but does not round to a tie where p is near 1, nor at high
    temperatures, where p is near 1 / classes (`core.metrics.msp` is p itself).

    Raises:
      ValueError: a temperature that is not positive and finite.

    Source: Hendrycks and Gimpel, ICLR 2017.
    """
    check_temperature(temperature)
    return of_logits(_kept(log_odds, temperature), lambda classes: 17 * classes)


def maxlogit() -> Detector:
    """max_k z_k (Hendrycks et al., ICML 2022)."""
    return of_logits(_largest, lambda classes: classes)


def energy(*, temperature: float = 1.0) -> Detector:
    """T logsumexp(z / T), the negative free energy; max_k z_k as T goes to 0 (Liu et al., NeurIPS 2020).

    Raises:
      ValueError: a temperature that is not positive and finite.
    """
    check_temperature(temperature)
    return of_logits(_kept(free_energy, temperature), lambda classes: 4 * classes)


def entropy() -> Detector:
    """-H(softmax z), in nats, at most 0."""
    return of_logits(_neg_entropy, lambda classes: 7 * classes)


def gen(*, gamma: float = 0.1, top: int = 100) -> Detector:
    """Generalised entropy -sum of p^g (1 - p)^g over the `top` largest probabilities.

    Raises:
      ValueError: gamma outside (0, 1], or top below 1.

    Source: Liu, Lochman and Zach, GEN, CVPR 2023.
    """
    if not 0 < gamma <= 1 or not top >= 1:
        raise ValueError(f"gen takes gamma in (0, 1] and at least 1 class; got {gamma} and {top}.")
    return of_logits(_generalised(gamma, top), lambda classes: 50 * classes)


def check_temperature(temperature: float) -> None:
    """Refuse what logits cannot be divided by.

    Raises:
      ValueError: a temperature that is not positive and finite.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature divides the logits, in (0, inf); got {temperature}.")


def log_odds(logits: Float[Array, "n classes"], temperature: Any = 1.0) -> Float[Array, " n"]:
    """The score of `msp`: accurate for p near 1 and near 1 / classes, in float32.

    With d_k = (z_k - max z) / T of the other classes it is -log mean_k exp(d_k).
    """
    _check_known(temperature)
    gaps, is_top = (logits - logits.max(axis=1, keepdims=True)) / temperature, _is_top(logits)
    count = logits.shape[1] - 1
    above = jnp.expm1(gaps).sum(axis=1) / count  # the top's own gap is 0
    far = jnp.log(count) - jax.nn.logsumexp(jnp.where(is_top, -jnp.inf, gaps), axis=1)
    return jnp.where(above > -0.5, -jnp.log1p(jnp.maximum(above, -0.5)), far)


def free_energy(logits: Float[Array, "n classes"], temperature: Any = 1.0) -> Float[Array, " n"]:
    """The score of `energy`."""
    _check_known(temperature)
    return temperature * jax.nn.logsumexp(logits / temperature, axis=1)


def _check_known(temperature: Any) -> None:
    if is_known(temperature):
        check_temperature(float(temperature))


def _largest(logits: Any) -> Float[Array, " n"]:
    return logits.max(axis=1)


def _neg_entropy(logits: Any) -> Float[Array, " n"]:
    logp = jax.nn.log_softmax(logits, axis=1)
    return (jnp.exp(logp) * logp).sum(axis=1)


@lru_cache
def _generalised(gamma: float, top: int) -> Callable:
    def score(logits: Any) -> Float[Array, " n"]:
        logp, is_top = jax.nn.log_softmax(logits, axis=1), _is_top(logits)
        others = jax.nn.logsumexp(jnp.where(is_top, -jnp.inf, logp), axis=1, keepdims=True)
        rest = jnp.where(is_top, others, jnp.log1p(-jnp.where(is_top, 0.5, jnp.exp(logp))))  # log(1 - p), exact near 1
        order = jax.lax.top_k(logp, min(top, logits.shape[1]))[1]
        most = jnp.take_along_axis(gamma * (logp + rest), order, axis=1)
        return -jnp.exp(most).sum(axis=1)

    return score


@lru_cache
def _kept(function: Callable, temperature: float) -> Callable:
    """The same object for the same temperature."""
    return partial(function, temperature=temperature)


@lru_cache
def _alone(function: Callable) -> Callable:
    def score(state: State, outputs: Outputs) -> Float[Array, " n"]:
        check(outputs)
        return function(wide(outputs.logits))

    return score


def _is_top(logits: Any) -> PyTree:
    """One True a row, at the first of its largest entries."""
    return jnp.arange(logits.shape[1])[None] == logits.argmax(axis=1)[:, None]
