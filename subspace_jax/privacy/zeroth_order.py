"""Black-box curvature of the loss around one sample: from losses alone, at points one step away.

| kind | value for one sample; u, v are Rademacher, h the step, L the loss | queries |
|---|---|---|
| `cross` | mean of |D| / (4 h), D = L(x+hv+hu) - L(x-hv+hu) - L(x+hv-hu) + L(x-hv-hu) | 4n |
| `trace` | mean of (L(x+hv) + L(x-hv) - 2 L(x)) / h^2 | 2n + 1 |

D = 4 h^2 u'Hv + O(h^4) with H = d2L/dx2, so that `cross` is h times the size of u'Hv, whose mean square is ||H||_F^2:
not the trace. It is the released membership score; a positive factor drops out of its logarithm. `trace` is an unbiased
estimate of tr(H) where L is quadratic, and often negative. On ReLU networks both see the kinks that a step crosses.

Adding an affine function to the loss changes neither. Randomness belongs to the sample: directions depend on the key,
the sample's index and the number of the probe, so that neither batch nor order matters, and all models are asked at the
same points.

**Number formats.** D is about h^2 times the curvature, below the rounding of a float32 loss where a network is sure.
Losses are therefore computed in float64 on the host, from float32 logits, and h is 1e-2: on digits this equals float64
throughout, where float32 losses lose .004 of AUROC at h = 1e-2 and .05 at the published 1e-3.

Ravikumar, Soufleri, Roy: Curvature Clues: Decoding Deep Learning Privacy with Input Loss Curvature, NeurIPS 2024.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, curvature, likelihood
from subspace_jax.core.keys import as_key, rademacher, sample_keys
from subspace_jax.training import score_dataset
from subspace_jax.typing import ApplyFn, Array, Float, Int, Key, Variables

Kind = Literal["cross", "trace"]
Offsets = tuple[tuple[int, int], ...]  # (a, b) stands for the point x + h (a v + b u)
POINTS: dict[str, Offsets] = {"cross": ((1, 1), (-1, 1), (1, -1), (-1, -1)), "trace": ((1, 0), (-1, 0))}


@checks.on_host
def zeroth_order(
    key: Key[Array, ""],
    apply: ApplyFn,
    variables: Variables,
    x: Float[Array | np.ndarray, "n *d"],
    y: Int[Array | np.ndarray, " n"],
    *,
    kind: Kind = "cross",
    probes: int = 10,
    step: float = 1e-2,
    index: Int[Array | np.ndarray, " n"] | None = None,
    batch: int = 512,
) -> Float[np.ndarray, "*models n"]:
    """Curvature of every sample, of one network or of several at once, by one compiled program of forward passes.

    Args:
      key: of the directions.
      apply: (variables, x) -> logits (b, classes), in inference mode; of several networks (b, models, classes).
      variables: what `apply` needs.
      x: inputs scaled as in training.
      y: the labels the networks were trained with.
      kind: see the table of this module.
      probes: random directions n, or pairs of them.
      step: h, in units of x.
      index: positions in the original data set, with which the keys are folded; 0..n-1 when None.
      batch: samples per call, each with 4 or 2 points; see `training.score_dataset`.

    Returns:
      float64 (n,), or (models, n).

    Raises:
      ValueError: x not floating, y no class numbers, or another number of them; an unknown kind, probes < 1, step <= 0;
        logits that are not finite.
    """
    key = as_key(key)
    _check(x, y, kind, probes, step)
    index = np.arange(len(x)) if index is None else np.asarray(index)
    x, y = jnp.asarray(x), np.asarray(y)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def losses(offsets: Offsets, number: int) -> np.ndarray:
        asked = variables, jnp.int32(number), jnp.asarray(step, x.dtype)
        name = f"{kind} curvature, probe {number + 1} of {probes}"
        logits = score_dataset(key, _moved(apply, offsets), asked, (x,), index=index, batch=batch, label=name)
        return _log_losses(np.moveaxis(np.asarray(logits), 0, -2), y)

    return _curvature(losses, kind, probes, step)


@checks.on_host
def black_box(
    key: Key[Array, ""],
    loss_fn: Callable[[np.ndarray, np.ndarray], Any],
    x: Float[Array | np.ndarray, "n *d"],
    y: Int[Array | np.ndarray, " n"],
    *,
    kind: Kind = "cross",
    probes: int = 10,
    step: float = 1e-2,
    index: Int[Array | np.ndarray, " n"] | None = None,
    batch: int = 512,
) -> Float[np.ndarray, " n"]:
    """Curvature of every sample by any function on the host, such as a model behind a web address.

    Args:
      key: see `zeroth_order`, like the arguments that are not named here.
      loss_fn: (x, y) -> losses (b,), NumPy arrays; float64 losses keep what the step leaves of them. It gets x in its
        own number format, 4 points a sample one after the other, or 2.
      x: see key.
      y: see key.
      kind: see key.
      probes: see key.
      step: see key.
      index: see key.
      batch: samples per call.

    Returns:
      float64 (n,).

    Raises:
      ValueError: as `zeroth_order`; losses that are not one a point, or not finite.
    """
    key = as_key(key)
    _check(x, y, kind, probes, step)
    if batch < 1:
        raise ValueError(f"batch, samples per call, must be at least 1; got {batch}.")
    x, y = np.asarray(x), np.asarray(y)
    keys = sample_keys(key, np.arange(len(x)) if index is None else np.asarray(index))

    def ask(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
        losses = checks.as_real("losses", loss_fn(points, labels))
        if losses.shape != (len(points),):
            raise ValueError(f"loss_fn must return one loss a point, shape ({len(points)},); got {losses.shape}.")
        checks.check_finite("losses", losses, remedy="what the model returns has no logarithm: clip its probabilities")
        return losses

    def losses(offsets: Offsets, number: int) -> np.ndarray:
        parts = []
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            v, u = (np.asarray(signs, x.dtype) for signs in _directions(keys[rows], number, x.shape[1:]))
            points = np.stack([x[rows] + shift for shift in _shifts(v, u, step, offsets)])
            asked = ask(points.reshape(-1, *x.shape[1:]), np.tile(y[rows], len(offsets)))
            parts.append(asked.reshape(len(offsets), -1))
        return np.concatenate(parts, axis=1)

    return _curvature(losses, kind, probes, step)


def _check(x: Any, y: Any, kind: str, probes: int, step: float) -> None:
    if kind not in POINTS:
        raise ValueError(f"there is no kind {kind!r}; there are {', '.join(POINTS)}.")
    curvature.check_inputs(x, y)
    curvature.check_settings(probes=probes, step=step)
    checks.check_finite("x", x)


def _curvature(losses: Callable, kind: str, probes: int, step: float) -> np.ndarray:
    """Mean over the probes; losses(offsets, number of the probe) is (len(offsets), ..., n)."""
    centre = losses(((0, 0),), 0)[0] if kind == "trace" else 0.0
    total: Any = 0.0
    for number in range(probes):
        at = losses(POINTS[kind], number)
        if kind == "trace":
            total += (at[0] + at[1] - 2 * centre) / step**2
        else:
            total += np.abs(at[0] - at[1] - at[2] + at[3]) / (4 * step)
    return total / probes


@lru_cache(maxsize=64)  # one function object, and so one compilation, per network
def _moved(apply: ApplyFn, offsets: Offsets) -> Callable:
    """fn(keys, (variables, number, step), x) -> logits (b, points, ..., classes) one step away from x."""

    def fn(keys, asked, x):
        variables, number, step = asked
        v, u = _directions(keys, number, x.shape[1:])
        points = jnp.stack([x + shift.astype(x.dtype) for shift in _shifts(v, u, step, offsets)])
        with jax.default_matmul_precision("highest"):
            logits = apply(variables, points.reshape(-1, *x.shape[1:]))
        return jnp.moveaxis(logits.reshape(len(offsets), len(x), *logits.shape[1:]), 0, 1)

    return fn


@partial(jax.jit, static_argnums=2)
def _directions(keys: Array, number: int | Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The signs (v, u) of one probe."""
    return rademacher(keys, 2 * number, shape), rademacher(keys, 2 * number + 1, shape)


def _shifts(v: Any, u: Any, step: Any, offsets: Offsets) -> list[Any]:
    return [step * (a * v + b * u) for a, b in offsets]


def _log_losses(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[y] in float64, of rows (..., n): log(1 + exp(-label logit)) keeps digits of small losses."""
    checks.check_labels(y, logits.shape[-1])
    checks.check_finite("logits", logits, remedy="a network diverged")
    return np.logaddexp(0, -likelihood.label_logit(checks.as_real("logits", logits), y))
