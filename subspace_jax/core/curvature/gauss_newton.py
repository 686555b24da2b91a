"""The softmax part of the input Hessian, J'AJ with J = dz/dx (C, d) and A = diag(p) - pp', from backward passes.

It is the whole Hessian, almost everywhere, of cross-entropy on piecewise-linear networks (ReLU, leaky ReLU,
max-pooling, BatchNorm at inference); for smooth activations it is the Gauss-Newton part. It does not depend on the
label, is positive semi-definite and of rank at most C - 1. With R = diag(sqrt p) - p sqrt(p)' we have A = RR', so that
everything follows from rows J'R u: C of them, u = e_k, are exact; random signs u give an estimate.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from subspace_jax.core.curvature.checks import check_inputs, check_probes
from subspace_jax.core.curvature.estimate import Estimate, estimate, evaluate
from subspace_jax.core.curvature.inputs import Inputs, Keys, arrays, flat, samples, sqnorm
from subspace_jax.core.meshes import by_sample
from subspace_jax.typing import ApplyFn, Array, Float, Variables


@by_sample
def ggn_exact(apply: ApplyFn, variables: Variables, x: Inputs, *, precision: str = "highest") -> Float[Array, " b"]:
    """Exact trace of the input Hessian of softmax cross-entropy on a piecewise-linear network, per sample.

    tr(J'AJ) = sum_k p_k ||J'(e_k - p)||^2: one forward and C backward passes, no variance. For smooth activations this
    is the Gauss-Newton part of the trace. Zero where the softmax is saturated.

    Args:
      apply: (variables, x) -> logits (b, C), in inference mode.
      variables: what `apply` needs.
      x: float inputs, an array or a tree of arrays, scaled as in training; bfloat16 is fine.
      precision: of matrix products; the trace tolerates "tensorfloat32" and bfloat16 networks (1 %).

    Raises:
      ValueError: x not floating or without samples, logits not (b, C).
    """
    with jax.default_matmul_precision(precision):
        row, classes = _rows(apply, variables, x)
        return evaluate(lambda k: sqnorm(row(_basis(k, classes))), classes).sum(axis=0)


@by_sample
def ggn_probe(
    keys: Keys, apply: ApplyFn, variables: Variables, x: Inputs, *, probes: int = 10, precision: str = "highest"
) -> Estimate:
    """Unbiased estimate of `ggn_exact` for many classes: mean of ||J'R u||^2 over Rademacher u in R^C; 1 + n forwards.

    About 20 % error per sample at n = 10, like `hutchinson`; never negative. With n >= C take `ggn_exact`.

    Raises:
      ValueError: x not floating, logits not (b, C), keys not one per sample, probes < 1.
    """
    check_inputs(x)
    check_probes(keys, x, probes, None)
    with jax.default_matmul_precision(precision):
        row, classes = _rows(apply, variables, x)
        logits = jax.ShapeDtypeStruct((*samples(x), classes), jnp.float32)
        return estimate(lambda u: sqnorm(row(u)), keys, logits, probes=probes, chunk=None)


@by_sample
def ggn_spectrum(
    apply: ApplyFn, variables: Variables, x: Inputs, *, precision: str = "highest"
) -> Float[Array, "b classes"]:
    """All eigenvalues of J'AJ that can differ from zero, descending, per sample; C backward passes, b C d numbers kept.

    They are those of the Gram matrix R'KR with K = JJ' (C, C), as are those of KS with S = diag(p) - pp'. Their sum is
    `ggn_exact`, the sum of their squares ||H||_F^2, the first the sharpest input direction. The last is zero (R sqrt p
    = 0), and so are all beyond d; rounding below zero is cut. Arguments and errors as `ggn_exact`.
    """
    with jax.default_matmul_precision(precision):
        row, classes = _rows(apply, variables, x)
        rows = evaluate(lambda k: flat(row(_basis(k, classes))), classes)
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    gram = jnp.einsum("kbd,lbd->bkl", rows, rows, precision="highest")  # lower precision destroys small eigenvalues
    return jnp.maximum(jnp.linalg.eigvalsh(gram)[:, ::-1], 0)


def _basis(k: int | Array, classes: int) -> Float[Array, "1 classes"]:
    return jax.nn.one_hot(k, classes, dtype=jnp.float32)[None]


def _rows(apply: ApplyFn, variables: Variables, x: Inputs) -> tuple[Callable, int]:
    """The function u (b or 1, C) -> J'R u (b, *d), from one forward pass, and C."""
    check_inputs(x)
    (count,) = samples(x)
    if not count:
        raise ValueError("x holds no sample: give at least one.")

    def logits(x):
        z = apply(variables, x)
        if z.ndim != 2 or len(z) != count:
            raise ValueError(f"apply must return logits of shape ({count}, classes); got {z.shape}.")
        return z.astype(jnp.promote_types(z.dtype, jnp.float32))

    z, pull = jax.vjp(logits, arrays(x))
    p = jax.nn.softmax(z)
    roots = jnp.sqrt(p)

    def row(u):
        weighted = roots * u
        return pull(weighted - p * weighted.sum(axis=1, keepdims=True))[0]

    return row, z.shape[1]
