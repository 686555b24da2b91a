"""Finite differences of the input gradient: the scores that the authors' scripts store and the paper prints."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.curvature.checks import check_inputs, check_probes, check_step
from subspace_jax.core.curvature.estimate import Estimate, dot, estimate, gradient, sqnorm
from subspace_jax.typing import Array, Float, Int, Key, LossFn, Variables


def fd_norm(
    keys: Key[Array, " b"],
    loss: LossFn,
    variables: Variables,
    x: Float[Array | np.ndarray, "b *d"],
    y: Int[Array | np.ndarray, " b"],
    *,
    probes: int = 10,
    step: float = 1e-3,
    chunk: int | None = None,
    precision: str = "highest",
) -> Estimate:
    """The released curvature score, mean over v of ||g(x + h v) - g(x)||_2 with g = dL/dx and v Rademacher.

    About h sqrt(tr(H^2)) on smooth networks, where fd_norm / h tends to `hv_norm`. On ReLU networks it also sees the
    kinks between x and x + h v, which no derivative sees and which carry the label: it reproduces the published
    ranking, the traces do not. The paper (arXiv 2307.05831) prints the square: `fd_sqnorm`. Averages over the epochs of
    a run rank far better than the last epoch. Zero where the gradient does not change, as for a linear loss.

    Cost 2 + 2n forwards: the gradient at x is computed once. Doubling the loss doubles the score.

    Args:
      keys: one a sample, from `sample_keys(key, index)`: the score belongs to the sample, whatever batch it is in.
      loss: (variables, x, y) -> (b,), in inference mode, such as `losses.cross_entropy(apply)`.
      variables: what the loss needs.
      x: float inputs, unaugmented and scaled as in training.
      y: the labels the network was trained with.
      probes: random directions n, entries +-1, not normalised: ||h v|| = h sqrt(d).
      step: h, in units of x; scores with different input scaling are not comparable.
      chunk: probes evaluated together as one batch so many times larger; one at a time, the least memory, when None.
      precision: of matrix products as `jax.default_matmul_precision` names it. "highest" does not depend on the
        hardware; "tensorfloat32" is about six times faster on a GPU and ranks the same on convolutional networks.

    Returns:
      Mean and standard error over the probes, per sample.

    Raises:
      ValueError: x not floating or below float32 (h is under its resolution), y not integer, keys not one a sample,
        step <= 0, probes or chunk < 1, a loss that is not one value a sample.
    """
    return _average(
        lambda v, change: jnp.sqrt(sqnorm(change)),
        keys, loss, variables, x, y, probes=probes, step=step, chunk=chunk, precision=precision,
    )  # fmt: skip


def fd_sqnorm(
    keys: Key[Array, " b"],
    loss: LossFn,
    variables: Variables,
    x: Float[Array | np.ndarray, "b *d"],
    y: Int[Array | np.ndarray, " b"],
    *,
    probes: int = 10,
    step: float = 1e-3,
    chunk: int | None = None,
    precision: str = "highest",
) -> Estimate:
    """The paper's printed formula, mean over v of ||g(x + h v) - g(x)||_2^2: about h^2 tr(H^2) on smooth networks.

    Per probe it ranks as `fd_norm` does, but means over probes and epochs weigh large values more. Doubling the loss
    quadruples it. Cost, arguments and errors as `fd_norm`.
    """
    return _average(
        lambda v, change: sqnorm(change),
        keys, loss, variables, x, y, probes=probes, step=step, chunk=chunk, precision=precision,
    )  # fmt: skip


def fd_quad(
    keys: Key[Array, " b"],
    loss: LossFn,
    variables: Variables,
    x: Float[Array | np.ndarray, "b *d"],
    y: Int[Array | np.ndarray, " b"],
    *,
    probes: int = 10,
    step: float = 1e-3,
    chunk: int | None = None,
    precision: str = "highest",
) -> Estimate:
    """Finite-difference Hutchinson trace, mean over v of v'(g(x + h v) - g(x)) / h: tends to tr(H) on smooth networks.

    Equals v'Av for every h where L = x'Ax/2; may be negative. On ReLU networks it adds the kinks that `hutchinson` does
    not see. Cost, arguments and errors as `fd_norm`.
    """
    return _average(
        lambda v, change: dot(v, change) / step,
        keys, loss, variables, x, y, probes=probes, step=step, chunk=chunk, precision=precision,
    )  # fmt: skip


def _average(measure: Callable, keys, loss, variables, x, y, *, probes, step, chunk, precision) -> Estimate:
    """Mean of measure(v, g(x + h v) - g(x)); g(x) is shared by all probes."""
    check_inputs(x, y)
    check_probes(keys, x, probes, chunk)
    check_step(x, step)
    x, y = jnp.asarray(x), jnp.asarray(y)
    with jax.default_matmul_precision(precision):
        grad = gradient(loss, variables, y)
        base = grad(x)
        return estimate(
            lambda v: measure(v, grad(x + step * v) - base), keys, x.shape[1:], x.dtype, probes=probes, chunk=chunk
        )
