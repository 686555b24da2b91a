"""Curvature of the loss around a sample: quantities of H = d2L/dx2 (d, d), the Hessian in the INPUT of one sample.

| name | value for one sample; v is Rademacher, g = dL/dx, h the step | cost in forwards F |
|---|---|---|
| `fd_norm` | mean of ||g(x + h v) - g(x)||: the released curvature score | 2 + 2n |
| `fd_sqnorm` | mean of ||g(x + h v) - g(x)||^2: the formula the paper prints | 2 + 2n |
| `fd_quad` | mean of v'(g(x + h v) - g(x)) / h | 2 + 2n |
| `hutchinson` | mean of v'Hv, unbiased for tr(H) | 1 + n (piecewise linear), 1 + 2n (smooth) |
| `hv_norm` | mean of ||Hv||: fd_norm / h without the finite step | 2 + 2n |
| `exact` | tr(H) from the dense matrix: the oracle | 2 + 2d |
| `ggn_exact` | tr(J'AJ), A = diag(p) - pp', J = dz/dx: tr(H) of piecewise-linear networks | 1 + C |
| `ggn_probe` | the same from n random directions among the logits | 1 + n |
| `ggn_spectrum` | all eigenvalues of J'AJ that can differ from 0 | 1 + C |

**Automatic differentiation and finite differences measure different things on ReLU networks.** H as autodiff sees it
is J'AJ, which does not depend on the label; a finite step also sees the kinks it crosses, and those carry the label
(fd_norm against hv_norm: correlation .33 to .43 on ReLU, .99999 on GELU). Use `fd_norm` to reproduce published scores,
the traces to speak about theory. The released score is the norm, the paper prints its square: say which one you report.

Every function maps one batch to one batch and is pure; compile it with the variables as an argument:
`jax.jit(lambda keys, variables, x, y: fd_norm(keys, loss, variables, x, y).value)`. The network is in inference mode:
samples must not interact, since gradients are taken of the batch sum. Randomness comes from
`keys = sample_keys(key, index)`: batch size, order, padding and device count change nothing but rounding, 1e-4 of the
largest score. `training.score_dataset` is bit-equal on one CPU device in any order for all batches of 64 or more.

Garg, Ravikumar, Roy: Memorization Through the Lens of Curvature of Loss Function Around Samples, arXiv 2307.05831.
"""

from subspace_jax.core.curvature.checks import check_settings
from subspace_jax.core.curvature.estimate import Estimate
from subspace_jax.core.curvature.finite_difference import fd_norm, fd_quad, fd_sqnorm
from subspace_jax.core.curvature.gauss_newton import ggn_exact, ggn_probe, ggn_spectrum
from subspace_jax.core.curvature.hessian import exact, hutchinson, hv_norm, input_grad

__all__ = [
    "Estimate", "check_settings", "exact", "fd_norm", "fd_quad", "fd_sqnorm", "ggn_exact", "ggn_probe",
    "ggn_spectrum", "hutchinson", "hv_norm", "input_grad",
]  # fmt: skip
