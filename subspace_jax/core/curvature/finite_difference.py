"""Finite differences of the input gradient: the scores of the authors' code and of the formula in the paper."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from subspace_jax.core.curvature.checks import check_inputs, check_probes, check_step
from subspace_jax.core.curvature.estimate import Estimate, estimate, gradient
from subspace_jax.core.curvature.inputs import Inputs, Keys, Labels, arrays, dot, sqnorm
from subspace_jax.core.meshes import by_sample
from subspace_jax.typing import LossFn, Variables


@by_sample
def fd_norm(
    keys: Keys, loss: LossFn, variables: Variables, x: Inputs, y: Labels,
    *, probes: int = 10, step: float = 1e-3, chunk: int | None = None, precision: str = "highest",
) -> Estimate:  # fmt: skip
    """The score of the authors' code, mean over v of ||g(x + h v) - g(x)||_2 with g = dL/dx and v Rademacher.

    About h sqrt(tr(H^2)) on smooth networks, where fd_norm / h tends to `hv_norm`. On ReLU networks it also sees the
    kinks between x and x + h v, which no derivative sees and which carry the label: it reproduces the published
    ranking, the traces do not. The paper (arXiv 2307.05831) prints the square: `fd_sqnorm`. On ReLU networks near
    interpolation, averages over the epochs of a run rank far better than the last epoch; with GELU the last epoch was
    as good (.945 against .936). Zero where the gradient does not change, as for a linear loss.

    Cost 2 + 2n forwards: the gradient at x is computed once. Doubling the loss doubles the score. Arguments and errors:
    see `subspace_jax.core.curvature`.
    """
    return _average(
        lambda v, change: jnp.sqrt(sqnorm(change)),
        keys, loss, variables, x, y, probes=probes, step=step, chunk=chunk, precision=precision,
    )  # fmt: skip


@by_sample
def fd_sqnorm(
    keys: Keys, loss: LossFn, variables: Variables, x: Inputs, y: Labels,
    *, probes: int = 10, step: float = 1e-3, chunk: int | None = None, precision: str = "highest",
) -> Estimate:  # fmt: skip
    """The paper's printed formula, mean over v of ||g(x + h v) - g(x)||_2^2: about h^2 tr(H^2) on smooth networks.

    Per probe it ranks as `fd_norm` does, but means over probes and epochs weigh large values more. Doubling the loss
    quadruples it. Cost as `fd_norm`.
    """
    return _average(
        lambda v, change: sqnorm(change),
        keys, loss, variables, x, y, probes=probes, step=step, chunk=chunk, precision=precision,
    )  # fmt: skip


@by_sample
def fd_quad(
    keys: Keys, loss: LossFn, variables: Variables, x: Inputs, y: Labels,
    *, probes: int = 10, step: float = 1e-3, chunk: int | None = None, precision: str = "highest",
) -> Estimate:  # fmt: skip
    """Finite-difference Hutchinson trace, mean over v of v'(g(x + h v) - g(x)) / h: tends to tr(H) on smooth networks.

    Equals v'Av for every h where L = x'Ax/2; may be negative. On ReLU networks it adds the kinks that `hutchinson` does
    not see. Cost as `fd_norm`.
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
    x, y = arrays(x), jnp.asarray(y)
    with jax.default_matmul_precision(precision):
        grad = gradient(loss, _at_least_float32(variables), y)
        base = grad(x)

        def change(v):
            moved = grad(jax.tree.map(lambda a, b: a + step * b, x, v))
            return measure(v, jax.tree.map(jnp.subtract, moved, base))

        return estimate(change, keys, x, probes=probes, chunk=chunk)


def _at_least_float32(variables: Variables) -> Variables:
    """16-bit parameters as float32: a network that computes in their format would round a step of 1e-3 away."""

    def widen(leaf):
        dtype = getattr(leaf, "dtype", None)
        narrow = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return leaf.astype(jnp.float32) if narrow else leaf

    return jax.tree.map(widen, variables)
