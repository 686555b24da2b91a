"""Curvature of the loss around a sample: quantities of H = d2L/dx2 (d, d), the Hessian in the INPUT of one sample.

| name | value for one sample; v is Rademacher, g = dL/dx, h the step | cost in forward passes |
|---|---|---|
| `fd_norm` | mean of ||g(x + h v) - g(x)||: the score of the authors' code | 2 + 2n |
| `fd_sqnorm` | mean of ||g(x + h v) - g(x)||^2: the formula in the paper | 2 + 2n |
| `fd_quad` | mean of v'(g(x + h v) - g(x)) / h | 2 + 2n |
| `hutchinson` | mean of v'Hv, unbiased for tr(H) | 1 + n (piecewise linear), 1 + 2n (smooth) |
| `hv_norm` | mean of ||Hv||: fd_norm / h without the finite step | 2 + 2n |
| `exact` | tr(H) from the dense matrix: the oracle | 2 + 2d |
| `ggn_exact` | tr(J'AJ), A = diag(p) - pp', J = dz/dx: tr(H) of piecewise-linear networks | 1 + C |
| `ggn_probe` | the same from n random directions among the logits | 1 + n |
| `ggn_spectrum` | all eigenvalues of J'AJ that can differ from 0 | 1 + C |

**Automatic differentiation and finite differences measure different things on ReLU networks.** H as autodiff sees it
is J'AJ, which does not depend on the label; a finite step also sees the kinks it crosses, and those carry the label.
fd_norm against hv_norm on ReLU networks: correlation .29 to .53 within an epoch, median .41, and .74 between averages
over epochs; 1.0 with GELU. Use `fd_norm` to reproduce published scores, the traces to speak about theory. The released
score is the norm, the paper prints its square: say which one you report.

Every function maps one batch to one batch and is pure; compile it with the variables as an argument:
`jax.jit(lambda keys, variables, x, y: fd_norm(keys, loss, variables, x, y).value)`. The network is in inference mode:
samples must not interact, since gradients are taken of the batch sum. Randomness comes from
`keys = sample_keys(key, index)`: batch size, order, padding and device count change nothing but rounding, 1e-4 of the
largest score. `training.score_dataset` is bit-equal on one CPU device in any order for all batches of 64 or more.

Args of all estimates (each function takes those that its signature names):
  keys: one per sample, from `sample_keys(key, index)`: the score belongs to the sample, whatever batch it is in.
  loss: (variables, x, y) -> (b,), in inference mode, such as `losses.cross_entropy(apply)`.
  variables: what the loss needs.
  x: float inputs, unaugmented and scaled as in training: an array (b, *d), or a tree of arrays, all with b samples. A
    tree counts as one vector of all entries of a sample.
  y: the labels the network was trained with, integers (b,).
  probes: random directions n, entries +-1, not normalised: ||h v|| = h sqrt(d).
  step: h, in units of x; scores with different input scaling are not comparable.
  chunk: probes evaluated together, as one batch `chunk` times larger; when None one at a time, with least memory.
  precision: of matrix products as `jax.default_matmul_precision` names it. "highest" does not depend on the hardware;
    "tensorfloat32" is about six times faster on a GPU and ranks the same on convolutional networks.

Returns an `Estimate`: mean and standard error over the probes, per sample.

Raises ValueError: x not floating, y not one integer per sample, keys not one per sample, step <= 0, probes or chunk <
1, a loss that is not one value per sample; with a step also x below float32, which does not resolve the step.

**Number formats.** Numbers do not depend on `jax_enable_x64`, apart from rounding. Parameters of 16 bits are taken as
float32 by the scores with a step: a network that computes in the format of its parameters rounds a step of 1e-3 away,
and fd_norm then measures rounding (median 4 to 6 times too large in bfloat16, correlation -.04 to .81; 1.1 to 1.4 times
in float16; on three small networks). The other quantities are computed in the parameters' own format: the median
changes by less than 1 %, hutchinson of single samples with GELU by up to 30 %. A network built to compute in bfloat16
whatever its parameters are is left as it is: a large one ranks nearly as in float32, a small one does not.

Garg, Ravikumar, Roy: Memorization Through the Lens of Curvature of Loss Function Around Samples, arXiv 2307.05831.
"""

from subspace_jax.core.curvature.checks import check_inputs, check_settings
from subspace_jax.core.curvature.estimate import Estimate
from subspace_jax.core.curvature.finite_difference import fd_norm, fd_quad, fd_sqnorm
from subspace_jax.core.curvature.gauss_newton import ggn_exact, ggn_probe, ggn_spectrum
from subspace_jax.core.curvature.hessian import exact, hutchinson, hv_norm, input_grad

__all__ = [
    "Estimate", "check_inputs", "check_settings", "exact", "fd_norm", "fd_quad", "fd_sqnorm", "ggn_exact",
    "ggn_probe", "ggn_spectrum", "hutchinson", "hv_norm", "input_grad",
]  # fmt: skip
