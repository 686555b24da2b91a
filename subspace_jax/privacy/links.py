"""How differential privacy, memorization and input curvature bound one another; `trends` compares them in data.

Ravikumar, Soufleri, Hashemi and Roy, Unveiling privacy, memorization, and input curvature links, ICML 2024, arXiv
2402.18726. A is a randomised training on the set S of m samples z_i = (x_i, y_i), l a loss in [0, L]:

    mem_i = Pr[h_S(x_i) = y_i] - Pr[h_{S without i}(x_i) = y_i]                  memorization
    beta: |E l(h_S, z) - E l(h_{S without i}, z)| <= beta for all i              error stability
    link 1: |mem_i| <= E[curvature at z_i of networks trained without it] / L + c1
    link 2: E[curvature] <= L (m + 1) g(epsilon) + c2
    link 3: mem_i <= g(epsilon), and beta <= L g(epsilon)

c1 and c2 (`link1_constant`, `link2_constant`) hold quantities that nobody measures, times m: links 1 and 2 tell the
shape of a relation, and a constant that was chosen to go through data makes a curve a fit and no bound. Curvature
bounded by privacy says nothing of its direction: which epsilon has the larger curvature depends on the optimiser.

g bounds how much the distribution of the outcome of an (epsilon, delta)-private training moves with one sample:

| kind | g(epsilon), with delta | where from |
|---|---|---|
| "paper" | 1 - e^-epsilon + delta e^-epsilon | theorem 5.4, from p <= e^epsilon q + delta alone |
| "tight" | tanh(epsilon / 2) + 2 delta / (e^epsilon + 1) | OURS, not in the paper; see below |
| "earlier" | e^epsilon - 1 + delta | the constant that the paper improves |

Derivation of "tight". Let p and q be the chances of any event R after training on two neighbouring sets. Privacy in one
direction for R and in the other for its complement: p <= e^epsilon q + delta, 1 - q <= e^epsilon (1 - p) + delta. Their
sum, with t = p - q, is 1 + t <= e^epsilon (1 - t) + 2 delta, so that t <= (e^epsilon - 1 + 2 delta) / (e^epsilon + 1).
Randomised response attains it: no smaller bound holds for all mechanisms. The same t bounds the change of any mean of
values in [0, 1], such as the probability of a label or l / L.

Everything is float64 NumPy on the host.
"""

import warnings
from typing import Any, Literal

import numpy as np
from scipy.special import expit, ndtri

from subspace_jax.core import checks
from subspace_jax.typing import Bool, Float

Kind = Literal["paper", "tight", "earlier"]
Numbers = Float[np.ndarray, "..."] | float


@checks.on_host
def memorization_bound(epsilon: Any, *, delta: float = 0.0, kind: Kind = "paper") -> Numbers:
    """Link 3: the largest |mem| of any sample after (epsilon, delta)-private training, g(epsilon), at most 1.

    0 at epsilon = 0 without delta, 1 at epsilon = infinity; it rises with both.

    Raises:
      ValueError: an epsilon below 0 or NaN, delta outside [0, 1), an unknown kind.
    """
    epsilon = checks.as_real("epsilon", epsilon)
    if not (epsilon >= 0).all():
        raise ValueError(f"epsilon is at least 0, infinite without privacy; got {epsilon.tolist()}.")
    if not 0 <= delta < 1:
        raise ValueError(f"delta is the chance of no guarantee, in [0, 1); got {delta}.")
    if kind not in ("paper", "tight", "earlier"):
        raise ValueError(f'kind is "paper", "tight" or "earlier"; got {kind!r}.')
    if kind == "paper":
        return np.minimum(-np.expm1(-epsilon) + delta * np.exp(-epsilon), 1)
    if kind == "tight":
        return np.minimum(np.tanh(epsilon / 2) + 2 * delta * expit(-epsilon), 1)
    return np.expm1(np.minimum(epsilon, 1)).clip(max=1 - delta) + delta  # e - 1 > 1: no larger epsilon matters


@checks.on_host
def stability_bound(epsilon: Any, *, loss_limit: float, delta: float = 0.0, kind: Kind = "paper") -> Numbers:
    """Lemma 5.2: the error stability beta = L g(epsilon) of private training with a loss in [0, L].

    Cross-entropy has no such L; see `check_losses`.

    Raises:
      ValueError: loss_limit not above 0; as `memorization_bound`.
    """
    _check_loss_limit(loss_limit)
    return loss_limit * memorization_bound(epsilon, delta=delta, kind=kind)


@checks.on_host
def curvature_bound(
    epsilon: Any, *, samples: int, constant: float, loss_limit: float, delta: float = 0.0, kind: Kind = "paper"
) -> Numbers:
    """Link 2: the largest mean curvature L (m + 1) g(epsilon) + c2 of private training on m samples.

    Raises:
      ValueError: fewer than 2 samples; as `stability_bound`.
    """
    _check_samples(samples)
    return (samples + 1) * stability_bound(epsilon, loss_limit=loss_limit, delta=delta, kind=kind) + constant


@checks.on_host
def memorization_from_curvature(curvature: Any, *, constant: float, loss_limit: float = 1.0) -> Numbers:
    """Link 1: the largest |mem| of samples with this curvature, curvature / L + c1, at most 1.

    For cross-entropy L = 1, as long as every network gives every label a chance in (0, 1). Curvature is the trace of
    the input Hessian under training without the sample; estimates of it may be negative, which is warned of.

    Raises:
      ValueError: loss_limit not above 0; curvatures that are not finite.
    """
    _check_loss_limit(loss_limit)
    curvature = checks.as_real("curvature", curvature)
    checks.check_finite("curvature", curvature)
    if (curvature < 0).any():
        warnings.warn(
            f"{(curvature < 0).sum()} of {curvature.size} curvatures are negative, as traces of smooth networks can "
            "be: link 1 is about sizes.",
            stacklevel=2,
        )
    return np.minimum(curvature / loss_limit + constant, 1)


def link1_constant(
    *, rho: float, alpha3: float, beta: float, gamma: float, bias: float, samples: int, loss_limit: float = 1.0
) -> float:
    """The c1 of link 1: ((rho / 6) E||alpha||^3 + m beta + (4 m - 1) gamma + 2 (m - 1) Delta) / L.

    Args:
      rho: Lipschitz constant of the Hessian of the loss.
      alpha3: E||alpha||^3, of the offset between a sample and its neighbour in the set.
      beta: error stability.
      gamma: largest difference of empirical and expected risk.
      bias: Delta, by which the expected risk misses the best one, uniformly over sets.
      samples: m.
      loss_limit: L.

    Raises:
      ValueError: a constant below 0 or not finite; fewer than 2 samples; loss_limit not above 0.
    """
    _check_loss_limit(loss_limit)
    rest = link2_constant(rho=rho, alpha3=alpha3, gamma=gamma, bias=bias, samples=samples)
    _check_constants(beta=beta)
    return (rest + samples * beta) / loss_limit


def link2_constant(*, rho: float, alpha3: float, gamma: float, bias: float, samples: int) -> float:
    """The c2 of link 2: (rho / 6) E||alpha||^3 + (4 m - 1) gamma + 2 (m - 1) Delta; see `link1_constant`.

    Raises:
      ValueError: a constant below 0 or not finite; fewer than 2 samples.
    """
    _check_constants(rho=rho, alpha3=alpha3, gamma=gamma, bias=bias)
    _check_samples(samples)
    return rho * alpha3 / 6 + (4 * samples - 1) * gamma + 2 * (samples - 1) * bias


@checks.on_host
def check_losses(losses: Any, *, loss_limit: float) -> None:
    """Refuse a limit L that losses exceed, such as one for cross-entropy: the bounds with this L would not hold.

    Raises:
      ValueError: losses above the limit, below 0 or not finite; loss_limit not above 0.
    """
    _check_loss_limit(loss_limit)
    losses = checks.as_real("losses", losses)
    checks.check_finite("losses", losses)
    above = int((losses > loss_limit).sum())
    if above or (losses < 0).any():
        raise ValueError(
            f"loss exceeds L at {above} samples: losses of {losses.min():.4g} to {losses.max():.4g} do not lie in "
            f"[0, {loss_limit:g}]: raise loss_limit, or clip the loss."
        )


@checks.on_host
def sampling_error(outcome: Float[Any, "models n"], keep: Bool[Any, "models n"]) -> Float[np.ndarray, " n"]:
    """Standard error of each sample's memorization, from the spread of the outcomes on either side.

    sqrt(var_in / T_in + var_out / T_out) with sample variances: for probabilities, which vary less than 0/1 outcomes
    with the same mean, for which `memorization.stability` has a closed form.

    Args:
      outcome: probabilities of the label, or 0 and 1, in [0, 1].
      keep: True where a model was trained on a sample.

    Raises:
      ValueError: other shapes; outcomes outside [0, 1]; samples with fewer than two models on a side, by position.
    """
    outcome, keep = checks.as_real("outcome", outcome), np.asarray(keep)
    if outcome.shape != keep.shape or keep.dtype != bool or keep.ndim != 2:
        raise ValueError(
            f"outcome and keep are (models, n), keep boolean; got {outcome.shape} and {keep.dtype} {keep.shape}."
        )
    if not ((outcome >= 0) & (outcome <= 1)).all():  # nor NaN
        raise ValueError(f"outcomes lie in [0, 1]; got {outcome.min():g} to {outcome.max():g}: take probabilities.")
    few = np.flatnonzero((keep.sum(axis=0) < 2) | ((~keep).sum(axis=0) < 2))
    if len(few):
        raise ValueError(
            f"{len(few)} of {keep.shape[1]} samples are in, or out of, fewer than 2 models: {few[:5].tolist()}; train "
            "more models."
        )
    sides = [outcome.var(axis=0, ddof=1, where=mask) / mask.sum(axis=0) for mask in (keep, ~keep)]
    return np.sqrt(sides[0] + sides[1])


@checks.on_host
def violations(
    value: Float[Any, " n"], stderr: Float[Any, " n"], bound: float, *, significance: float = 0.05
) -> Bool[np.ndarray, " n"]:
    """Samples whose |mem| lies further above the bound than chance explains.

    |value| - bound > z stderr, with z such that all n samples of a training that keeps the bound pass with a chance of
    1 - significance (Bonferroni, normal errors). Without this allowance half of the samples at the bound would count.

    Raises:
      ValueError: other lengths, values that are not finite, significance outside (0, 1).
    """
    if not 0 < significance < 1:
        raise ValueError(f"significance is a chance, in (0, 1); got {significance}.")
    checks.check_lengths(value=value, stderr=stderr)
    value, stderr = checks.as_real("value", value), checks.as_real("stderr", stderr)
    checks.check_finite("value", value)
    checks.check_finite("stderr", stderr)
    if np.isnan(bound).any():
        raise ValueError("bound is NaN: with what no guarantee holds it is infinite, and nothing violates it.")
    z = -ndtri(significance / max(len(value), 1))
    return np.abs(value) - bound > z * stderr


@checks.on_host
def root_mean_square(value: Float[Any, " n"], stderr: Float[Any, " n"]) -> float:
    """Size of a typical mem without what sampling adds: sqrt(mean(value^2 - stderr^2)), at least 0.

    The mean of |value|, as the released scripts take it, is as large as stderr where nothing is memorized at all.
    """
    checks.check_lengths(value=value, stderr=stderr)
    excess = np.square(checks.as_real("value", value)) - np.square(checks.as_real("stderr", stderr))
    return float(np.sqrt(max(excess.mean(), 0)))


def _check_loss_limit(loss_limit: float) -> None:
    if not 0 < loss_limit < np.inf:
        raise ValueError(f"loss_limit, the largest loss L, is above 0 and finite; got {loss_limit}.")


def _check_samples(samples: int) -> None:
    if samples < 2:
        raise ValueError(f"samples, m, are at least 2; got {samples}.")


def _check_constants(**constants: float) -> None:
    for name, value in constants.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is at least 0 and finite; got {value}.")
