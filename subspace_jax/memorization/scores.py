"""Score one's own network: every quantity by name, checked before anything is traced, over a whole data set."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import curvature, losses
from subspace_jax.training.scoring import score_dataset
from subspace_jax.typing import ApplyFn, Array, Float, Int, Key, Variables

PROBED = ("fd_norm", "fd_sqnorm", "fd_quad", "hutchinson", "hv_norm")
FINITE = ("fd_norm", "fd_sqnorm", "fd_quad")
NAMES = (*PROBED, "ggn_exact", "ggn_probe", "exact", "input_grad", "loss")


@lru_cache(maxsize=64)  # the same arguments give the same function object, which is compiled once
def scorer(
    name: str, apply: ApplyFn, *, probes: int = 10, step: float = 1e-3, precision: str = "highest"
) -> Callable[..., Float[Array, " b"]]:
    """fn(keys, variables, x, y) -> (b,), the form that `training.score_dataset` takes; NaN where the loss is.

    Args:
      name: one of NAMES; `input_grad` is ||dL/dx||_2.
      apply: (variables, x) -> logits, in inference mode.
      probes: random directions of the probed scores.
      step: finite-difference step of the fd scores, in units of x.
      precision: of matrix products; "highest" makes a score independent of the hardware.

    Raises:
      ValueError: unknown name, probes < 1, step <= 0.
    """
    if name not in NAMES:
        raise ValueError(f"no score {name!r}; there are {', '.join(NAMES)}.")
    curvature.check_settings(probes=probes, step=step)
    loss = losses.cross_entropy(apply)
    options: dict[str, Any] = {"probes": probes, "precision": precision} | ({"step": step} if name in FINITE else {})

    def fn(keys, variables, x, y):
        with jax.default_matmul_precision(precision):  # one for both, so that XLA merges their forward passes
            value, lost = quantity(keys, variables, x, y), loss(variables, x, y)
        return jnp.where(jnp.isnan(lost), jnp.nan, value)  # the derivative of ReLU would turn NaN into 0

    def quantity(keys, variables, x, y):
        if name in PROBED:
            return getattr(curvature, name)(keys, loss, variables, x, y, **options).value
        if name == "ggn_exact":
            return curvature.ggn_exact(apply, variables, x, precision=precision)
        if name == "ggn_probe":
            return curvature.ggn_probe(keys, apply, variables, x, **options).value
        if name == "exact":
            return curvature.exact(loss, variables, x, y)
        if name == "loss":
            return loss(variables, x, y)
        grads = curvature.input_grad(loss, variables, x, y, precision=precision)
        return jnp.linalg.norm(grads.reshape(len(grads), -1), axis=1)

    return fn


def score(
    key: Key[Array, ""],
    apply: ApplyFn,
    variables: Variables,
    x: Float[Any, "n *d"],
    y: Int[Any, " n"],
    *,
    name: str = "fd_norm",
    probes: int = 10,
    step: float = 1e-3,
    precision: str = "highest",
    index: Int[Any, " n"] | None = None,
    batch: int = 512,
) -> Float[Array, " n"]:
    """One score for every sample, high = memorized, by a network in inference mode.

    `fd_norm` is what the released scripts store as curvature (arXiv 2307.05831): average it over the epochs of a run
    where you can, a network at the end of an over-fit run separates far worse.

    Args:
      key: base of the random directions; sample i uses fold_in(key, index[i]).
      apply: (variables, x) -> logits (n, classes).
      variables: whatever `apply` takes.
      x: float inputs as the network sees them, unaugmented; `step` is in their units.
      y: the labels the network was trained on.
      name: see NAMES.
      probes: see `scorer`.
      step: see `scorer`.
      precision: see `scorer`.
      index: stable sample numbers; 0..n-1 when None.
      batch: samples per call.

    Raises:
      ValueError: inputs that are not floats, labels outside [0, classes), lengths that differ, an unknown name, fewer
        than 1 probe, a step that is not positive, a score that is NaN.
    """
    x, y = np.asarray(x), np.asarray(y)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"inputs must be float, got {x.dtype}; normalise first, as in training.")
    logits = jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype))
    losses.check_labels(y, logits.shape[-1])
    fn = scorer(name, apply, probes=probes, step=step, precision=precision)
    scores = score_dataset(key, fn, variables, (x, y), index=index, batch=batch, label=name)
    return refuse_nan(scores, name=name)


def refuse_nan(scores: Float[Array, " n"], *, name: str, epoch: int | None = None) -> Float[Array, " n"]:
    """Return the scores; ValueError names the first sample that has none, and the epoch."""
    bad = np.flatnonzero(np.isnan(np.asarray(scores)))
    if len(bad):
        when = "" if epoch is None else f" after epoch {epoch}"
        raise ValueError(
            f"{name} is NaN for {len(bad)} of {len(scores)} samples, first at position {bad[0]}{when}: "
            "the network diverged (lower lr) or that sample's pixels are not finite."
        )
    return scores
