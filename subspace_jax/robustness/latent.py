"""The distribution of codes: how far it lies from a prior by kernels, sorted projections or a game, and its moments.

The distances are differentiable in both samples; `mmd` is zero in expectation where they come from one distribution,
`sliced_w2` falls to zero with more samples. Both need no training; the game needs a discriminator, whose positive
logits say "prior".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.typing import Array, Float, Int, Key

SCALES = 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0  # of the kernel's width, around the mean squared distance of the prior

Codes = Float[Array | np.ndarray, "n d"]
Others = Float[Array | np.ndarray, "m d"]
Value = Float[Array, ""]


def mmd(codes: Codes, prior: Others, *, prior_std: float = 1.0, biased: bool = False) -> Value:
    """Squared maximum mean discrepancy under the inverse multiquadratic kernel.

    k(a, b) = sum_c C / (C + ||a - b||^2), C = 2 d prior_std^2 c for c from .1 to 10. The estimate is
    mean_(i != j) k(z_i, z_j) + mean_(i != j) k(p_i, p_j) - 2 mean_(i, j) k(z_i, p_j): unbiased, and so below zero at
    times. With `biased` the means are over all pairs, and it is never negative.

    Args:
      codes: z, (n, d).
      prior: p, (m, d), a sample of the prior.
      prior_std: its deviation, which sets the kernel's width.
      biased: over all pairs.

    Raises:
      ValueError: fewer than 2 samples; prior_std that is not positive; codes and prior of other widths.

    Gretton et al., A kernel two-sample test, JMLR 2012; Tolstikhin et al., Wasserstein auto-encoders, ICLR 2018.
    """
    check_prior(prior_std)
    _check_widths(codes, prior)
    if min(len(codes), len(prior)) < 2:
        raise ValueError(f"an unbiased discrepancy takes 2 samples or more; got {len(codes)} and {len(prior)}.")
    base = 2 * codes.shape[1] * prior_std**2

    def within(sample):
        kernel, count = _kernel(sample, sample, base), len(sample)
        return kernel.mean() if biased else (kernel.sum() - jnp.trace(kernel)) / (count * (count - 1))

    return within(codes) + within(prior) - 2 * _kernel(codes, prior, base).mean()


def sliced_w2(key: Key[Array, ""], codes: Codes, prior: Codes, *, directions: int = 50) -> Value:
    """Squared 2-Wasserstein distance of projections, a mean over random unit directions.

    Along one direction the best transport of n points to n others pairs them in their order. N(0, I) against N(m, I)
    gives ||m||^2 / d. In one dimension it is the squared distance itself.

    Args:
      key: of the directions.
      codes: (n, d).
      prior: as many points.
      directions: how many.

    Raises:
      ValueError: other numbers or widths of the two samples; no direction.

    Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, JMIV 2015.
    """
    key = as_key(key)
    _check_widths(codes, prior)
    if len(codes) != len(prior) or directions < 1:
        raise ValueError(
            f"points are paired one by one along 1 direction or more; got {len(codes)} and {len(prior)} points and "
            f"{directions} directions."
        )
    ways = jax.random.normal(key, (codes.shape[1], directions), codes.dtype)
    ways /= jnp.linalg.norm(ways, axis=0, keepdims=True)
    sorted_ = [jnp.sort(jnp.matmul(sample, ways, precision="highest"), axis=0) for sample in (codes, prior)]
    return ((sorted_[0] - sorted_[1]) ** 2).mean()


def discriminator_loss(on_codes: Float[Array, " n"], on_prior: Float[Array, " m"]) -> Value:
    """-mean log(1 - D(z)) - mean log D(p), D the sigmoid of the logits given; 2 log 2 where they are zero.

    The best logits are log p(z) - log q(z), prior over codes: of N(0, 1) over N(m, 1) m^2 / 2 - m z.
    """
    checks.check_filled("on_codes", on_codes)
    checks.check_filled("on_prior", on_prior)
    return jax.nn.softplus(on_codes).mean() + jax.nn.softplus(-on_prior).mean()


def encoder_loss(on_codes: Float[Array, " n"]) -> Value:
    """-mean log D(z), which an encoder descends to be taken for the prior; its gradient does not vanish."""
    checks.check_filled("on_codes", on_codes)
    return jax.nn.softplus(-on_codes).mean()


def check_prior(prior_std: float) -> None:
    """Refuse a prior without a width.

    Raises:
      ValueError: names the value.
    """
    if not prior_std > 0:
        raise ValueError(f"prior_std is the deviation of the prior, above 0; got {prior_std}.")


class LatentReport(NamedTuple):
    """How codes are distributed.

    Attributes:
      mean, std: of each coordinate, (d,).
      cov: (d, d), over n.
      sliced_w2: squared sliced distance to as many points of the prior, ().
      class_means: (classes, d), NaN of a class without samples.
      within, between: mean squared distance to the own class mean, and of that to the mean; their sum is tr(cov).
    """

    mean: Float[Array, " d"]
    std: Float[Array, " d"]
    cov: Float[Array, "d d"]
    sliced_w2: Float[Array, ""]
    class_means: Float[Array, "classes d"]
    within: Float[Array, ""]
    between: Float[Array, ""]


def latent_report(
    key: Key[Array, ""], codes: Float[Any, "n d"], labels: Int[Any, " n"], *, classes: int, prior_std: float = 1.0,
    directions: int = 200,
) -> LatentReport:  # fmt: skip
    """Moments of codes over all samples and by class, and their distance to the prior.

    A few clusters, one a class, are never one Gaussian: judge all codes together.

    Args:
      key: of the sample of the prior and the directions.
      codes: of a whole set.
      labels: their classes.
      classes: how many.
      prior_std: deviation of the prior.
      directions: of the sliced distance.

    Raises:
      ValueError: codes that are not finite, labels that are no classes, a prior_std that is not positive.
    """
    key = as_key(key)
    checks.check_data(codes, labels, classes)
    check_prior(prior_std)
    codes, labels = jnp.asarray(codes), jnp.asarray(labels)
    first, second = jax.random.split(key)
    prior = prior_std * jax.random.normal(first, codes.shape, codes.dtype)
    mean, one_hot = codes.mean(0), jax.nn.one_hot(labels, classes, dtype=codes.dtype)
    off = codes - mean[None]
    cov = jnp.matmul(off.T, off, precision="highest") / len(codes)
    class_means = jnp.matmul(one_hot.T, codes, precision="highest") / one_hot.sum(0)[:, None]
    own = class_means[labels]
    within, between = (((a - b) ** 2).sum(1).mean() for a, b in ((codes, own), (own, mean[None])))
    far = sliced_w2(second, codes, prior, directions=directions)
    return LatentReport(mean, jnp.sqrt(jnp.diag(cov)), cov, far, class_means, within, between)


def _kernel(a: Codes, b: Others, base: float) -> Float[Array, "n m"]:
    products = jnp.matmul(a, b.T, precision="highest")
    far = jnp.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * products, 0)
    return sum((base * c / (base * c + far) for c in SCALES), jnp.zeros_like(far))


def _check_widths(codes: Codes, prior: Others) -> None:
    if codes.ndim != 2 or prior.ndim != 2 or codes.shape[1] != prior.shape[1]:
        raise ValueError(f"codes and prior are points (n, d) of one width; got {codes.shape} and {prior.shape}.")
