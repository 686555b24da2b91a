"""Norm-scaling: every class's logit on its own scale, then a usual score. Ravikumar and Roy, arXiv 2205.03493.

The logit of one class is spread otherwise than that of another, so that one threshold asks less of one class than of
another. From the own-class logits of training samples, z_k over the samples of class k:

  std:    (z_k - mean) / deviation          norm:  z_k / root mean square
  minmax: (z_k - q05) / (q95 - q05)         weight: z_k / ||W_k||, which needs no data

The abstract names the method and no formula; "norm" is the literal reading, "std" the one that makes a value mean the
same in every class. The class decision stays that of the raw logits. MSP and energy depend on the temperature, which
scaling changes too: compare with `matched` and `matched_raw`, where only the scaling differs, or only the temperature.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.ood.detectors import Cost, Detector, Outputs, Sizes, State, check, wide
from subspace_jax.ood.scores import check_temperature, free_energy, log_odds
from subspace_jax.ood.vim import checked_head
from subspace_jax.typing import Array, Float, Int

MODES = "std", "norm", "minmax"
KINDS = "msp", "maxlogit", "energy"
FEW = 10  # correct samples of a class that suffice; with fewer all its samples count
QUANTILES = 0.05, 0.95
COLDEST, HOTTEST = 1e-4, 1e4  # temperatures looked for


class NormStats(NamedTuple):
    """Statistics of the own-class logits, per class; count is the number of samples they are of."""

    mean: Float[np.ndarray, " classes"]
    std: Float[np.ndarray, " classes"]
    rms: Float[np.ndarray, " classes"]
    low: Float[np.ndarray, " classes"]
    high: Float[np.ndarray, " classes"]
    count: Int[np.ndarray, " classes"]


@checks.on_host
def statistics(
    logits: Float[Any, "n classes"], labels: Int[Any, " n"], *, correct_only: bool = True, missing: str = "refuse"
) -> NormStats:
    """Mean, deviation, root mean square, 5 and 95 % quantile of z_k over the samples of each class k, in float64.

    Args:
      logits: of training data, or better of held-out known data, in inference mode; not probabilities.
      labels: their classes.
      correct_only: leave out samples that are classified wrongly, where at least 10 of the class remain.
      missing: "refuse" a class without samples, or give it "identity": mean 0 and scale 1.

    Raises:
      ValueError: a class without samples, by its number; logits and labels as `detectors.check` refuses them.
    """
    check(Outputs(logits), labels)
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if missing not in ("refuse", "identity"):
        raise ValueError(f"missing is refuse or identity; got {missing!r}.")
    own, right = logits[np.arange(len(labels)), labels], logits.argmax(axis=1) == labels
    rows = []
    for k in range(logits.shape[1]):
        mine = labels == k
        best = mine & right
        values = own[best if correct_only and best.sum() >= FEW else mine]
        if len(values):
            rows.append((values.mean(), values.std(), np.sqrt((values**2).mean()), *np.quantile(values, QUANTILES)))
        elif missing == "refuse":
            raise ValueError(f'class {k} has no sample to be scaled by: add some, or take missing="identity".')
        else:
            rows.append((0.0, 1.0, 1.0, 0.0, 1.0))
    mean, std, rms, low, high = np.array(rows).T
    return NormStats(mean, std, rms, low, high, np.bincount(labels, minlength=logits.shape[1]))


@checks.on_host
def transform(stats: NormStats, mode: str = "std") -> tuple[np.ndarray, np.ndarray]:
    """(shift, scale) of every class, for (z - shift) / scale; a spread of 0 counts as 1e-6 max(1, |mean|).

    Raises:
      ValueError: another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}; got {mode!r}.")
    floor = 1e-6 * np.maximum(1, np.abs(stats.mean))
    if mode == "minmax":
        return stats.low, np.maximum(stats.high - stats.low, floor)
    return (
        (stats.mean, np.maximum(stats.std, floor)) if mode == "std" else (0 * stats.mean, np.maximum(stats.rms, floor))
    )


def scaled(state: State, logits: Float[Any, "n classes"]) -> Float[Array, "n classes"]:
    """(z - shift) / scale with the shift and scale of a fitted state.

    Raises:
      ValueError: logits of another number of classes, or not (n, classes).
    """
    checks.check_axes("logits (n, classes)", logits, 2)
    classes = len(state["scale"])
    if np.shape(logits)[1] != classes:
        raise ValueError(f"the scaling is of {classes} classes; got logits of {np.shape(logits)[1]}.")
    return (wide(logits) - jnp.asarray(state["shift"])[None]) / jnp.asarray(state["scale"])[None]


def norm_scaling(
    mode: str = "std", *, kind: str = "msp", temperature: float = 1.0, correct_only: bool = True,
    missing: str = "refuse",
) -> Detector:  # fmt: skip
    """A score of scaled logits.

    Args:
      mode: "std", "norm" or "minmax".
      kind: "msp", "maxlogit" or "energy" of the scaled logits.
      temperature: by which they are divided; maxlogit does not depend on it.
      correct_only: as for `statistics`, as is missing.
      missing: see correct_only.

    Raises:
      ValueError: another mode or kind, a temperature that is not positive and finite.
    """
    _check(mode, kind, temperature)

    def finish(sums: tuple) -> State:
        shift, scale = transform(statistics(*_all(sums), correct_only=correct_only, missing=missing), mode)
        return _state(shift, scale, temperature)

    return Detector(_update, finish, _score(kind), _cost)


def matched(mode: str = "norm", *, correct_only: bool = True) -> Detector:
    """MSP of scaled logits, at the temperature where the mean largest probability on training data is the raw one."""
    _check(mode, "msp", 1.0)

    def finish(sums: tuple) -> State:
        logits, labels = _all(sums)
        shift, scale = transform(statistics(logits, labels, correct_only=correct_only), mode)
        return _state(shift, scale, matching_temperature((logits - shift) / scale, mean_confidence(logits, 1.0)))

    return Detector(_update, finish, _score("msp"), _cost)


def matched_raw(mode: str = "norm", *, correct_only: bool = True) -> Detector:
    """MSP of raw logits, at the temperature where the mean largest probability on training data is the scaled one's."""
    _check(mode, "msp", 1.0)

    def finish(sums: tuple) -> State:
        logits, labels = _all(sums)
        shift, scale = transform(statistics(logits, labels, correct_only=correct_only), mode)
        wanted = mean_confidence((logits - shift) / scale, 1.0)
        return _state(0 * shift, 1 + 0 * scale, matching_temperature(logits, wanted))

    return Detector(_update, finish, _score("msp"), _cost)


@checks.on_host
def weight(head: tuple[Any, Any], *, kind: str = "msp") -> Detector:
    """A score of z_k / ||W_k||, which looks at no data: W (d, classes) is the kernel of the network's last layer."""
    _check("std", kind, 1.0)
    kernel, _ = checked_head(head)
    lengths = np.maximum(np.linalg.norm(kernel.astype(np.float64), axis=0), 1e-6)
    return Detector(_update, lambda sums: _state(0 * lengths, lengths, 1.0), _score(kind), _cost)


@checks.on_host
def mean_confidence(logits: Float[np.ndarray, "n classes"], temperature: float) -> float:
    """Mean of max softmax(z / T), in float64.

    Raises:
      ValueError: a temperature that is not positive and finite, no logits, logits that are not finite.
    """
    check_temperature(temperature)
    checks.check_filled("logits", logits)
    checks.check_finite("logits", logits)
    logits = checks.as_real("logits", logits)
    shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    return float((1 / np.exp(shifted).sum(axis=1)).mean())


@checks.on_host
def matching_temperature(logits: Float[np.ndarray, "n classes"], wanted: float) -> float:
    """T at which the mean largest probability is `wanted`, by bisection in log T; the nearest end where none has it.

    Raises:
      ValueError: as `mean_confidence`; `wanted` outside [0, 1].
    """
    if not 0 <= wanted <= 1:
        raise ValueError(f"wanted is a mean probability, in [0, 1]; got {wanted}.")
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_confidence(logits, float(np.exp(middle))) > wanted else (low, middle)
    return float(np.exp((low + high) / 2))


def _check(mode: str, kind: str, temperature: float) -> None:
    check_temperature(temperature)
    for name, value, known in (("mode", mode, MODES), ("kind", kind, KINDS)):
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}; got {value!r}.")


def _update(sums: tuple | None, outputs: Outputs, labels: Any) -> tuple:
    check(outputs, labels)
    return (*(sums or ()), (np.asarray(outputs.logits, np.float32), np.asarray(labels)))


def _all(sums: tuple) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    return logits.astype(np.float64), labels


def _state(shift: Any, scale: Any, temperature: float) -> State:
    found = {"shift": shift, "scale": scale, "temperature": temperature}
    checks.check_finite("the scaling", found)
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


@lru_cache
def _score(kind: str):
    def score(state: State, outputs: Outputs) -> Float[Array, " n"]:
        check(outputs)
        z, temperature = scaled(state, outputs.logits), jnp.asarray(state["temperature"])
        if kind == "maxlogit":
            return z.max(axis=1)
        return log_odds(z, temperature) if kind == "msp" else free_energy(z, temperature)

    return score


def _cost(sizes: Sizes) -> Cost:
    return Cost(25 * sizes.classes, 2 * sizes.classes + 1)
