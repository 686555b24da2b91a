"""How many channels of each layer a task needs, counted by the principal components of the layer's outputs (SPACE)."""

import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.continual.extract import Widths
from subspace_jax.core import checks
from subspace_jax.core import moments as _moments
from subspace_jax.core.moments import Moments
from subspace_jax.core.subspace import Square, significant_dims
from subspace_jax.typing import Array, Float, Int

NOISE = 1e-6  # share of the variance below which a direction is rounding; also the cut-off of the pseudo-inverse
DEAD = 1e-12  # share of a layer's variance that rounding alone may give to channels that do not vary
ROWS = 100  # rows per channel that the warning recommends
Share = float | int | Mapping[str, float | int]  # one for all layers, or by layer


@checks.on_host
def pca_count(cov: Square, *, v: float | int) -> int:
    """How many leading principal components together hold LESS than the share v: one fewer than reach it.

    Args:
      cov: covariance of a layer's outputs, (m, m), in any unit; not for `jit`.
      v: in (0, 1].

    Returns:
      0 ... m - 1; 0 where one component holds v, and where nothing varies.
    """
    check_share(v)
    checks.check_finite("the covariance", cov)
    values = np.linalg.eigvalsh(checks.as_real("the covariance", cov))
    return int(significant_dims(np.where(values > NOISE * values.sum(), values, 0.0), tau=v, rule="below"))


def residual_count(cov: Float[Array, "m m"], core: Int[Array, ""] | int, *, v: float | int) -> Int[Array, ""]:
    """How many directions must join the first `core` channels to explain the share v of the other channels' variance.

    With the blocks c (core) and r (rest) of the covariance, what the core cannot explain is the Schur complement
    S = C_rr - C_rc C_cc^+ C_cr with eigenvalues w; the count is the smallest k with tr(S) - w_1 - ... - w_k <= (1 - v)
    tr(C_rr). For `jit` and `vmap`, in the precision of cov; C_cc is often singular: better float64.

    Args:
      cov: covariance of the outputs of all m channels.
      core: channels of earlier tasks, 0 ... m.
      v: in (0, 1].

    Returns:
      0 ... m - core; 0 where the core explains enough and where the others do not vary.

    Raises:
      ValueError: v outside (0, 1].
    """
    check_share(v)
    checks.check_finite("the covariance", cov)
    old = jnp.arange(len(cov)) < core
    values, vectors = jnp.linalg.eigh(jnp.where(old[:, None] & old[None], cov, 0))
    kept = values > NOISE * values[-1]
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    across = jnp.matmul(vectors.T, cov, precision="highest")
    rest = cov - jnp.matmul(across.T, inverse[:, None] * across, precision="highest")
    values = jnp.linalg.eigvalsh(jnp.where(old[:, None] | old[None], 0, rest))
    total = jnp.where(old, 0, jnp.diag(cov)).sum()
    unexplained = jnp.cumsum(jnp.where(values > NOISE * total, values, 0))  # ascending: without the k largest
    return jnp.where(total > DEAD * jnp.trace(cov), (unexplained > (1 - v) * total).sum(), 0).astype(jnp.int32)


def task_widths(moments: Mapping[str, Moments], core: Widths, *, v: Share) -> dict[str, int]:
    """The channels of each layer that a task needs, the core's among them: between max(core, 1) and all.

    Args:
      moments: of the layer OUTPUTS on samples of the task, float64 (`capture.collect(..., of="outputs",
        dtype="float64")`).
      core: channels of earlier tasks; all 0 for the first task, which counts with `pca_count`, one fewer.
      v: share of the variance to explain, one or by layer.

    Warns:
      UserWarning: fewer rows than channels, which bounds the count; a layer whose outputs do not vary.
    """
    checks.check_real("SPACE", {path: own.gram.dtype for path, own in moments.items()})
    first, widths = not any(int(core[path]) for path in moments), {}
    shares = v if isinstance(v, Mapping) else dict.fromkeys(moments, v)
    for path, own in moments.items():
        cov, old = np.asarray(_moments.covariance(own), np.float64), int(core[path])
        dead = np.trace(cov) <= DEAD * np.trace(own.gram) / max(own.count, 1)
        if own.count < len(cov):
            warnings.warn(
                f"{path}: {int(own.count)} rows cannot count {len(cov)} channels; measure {ROWS * len(cov)} or more.",
                stacklevel=2,
            )
        if dead:
            warnings.warn(f"{path}: its outputs do not vary; at least 1 channel is kept.", stacklevel=2)
        with jax.enable_x64(True):
            cov, share = cov * (not dead), shares[path]
            count = pca_count(cov, v=share) if first else int(residual_count(jnp.asarray(cov), old, v=share))
        widths[path] = max(1, old + count)
    return widths


def check_share(v: float | int) -> None:
    """Refuse an invalid share of variance.

    Raises:
      ValueError: v outside (0, 1].
    """
    if not 0 < v <= 1:
        raise ValueError(f"v is the share of variance to explain, in (0, 1]; got {v}.")
