"""Vicinal risk minimisation: training on mixtures, and an auxiliary class for inputs that belong to none.

Ravikumar, Kodge, Garg and Roy, arXiv 2012.08398; intra-class mixup: Ravikumar and Roy, IEEE Access 2023. The abstracts
name the ingredients; their exact form here is a reconstruction.

  mixup:      x~ = l x + (1 - l) x', x' any sample of the batch, the labels mixed alike
  intra:      x' of the same class, so that the label stays
  auxiliary:  intra for the known half; for the unknown half x^ = m x + (1 - m) n with noise n like the inputs, whose
              target is m of the class and 1 - m of the auxiliary class (soft), or the auxiliary class alone (hard)

The network of the last has one output more, read by the detectors of `auxiliary_class`. l and m are drawn for every
sample, l ~ Beta(alpha, alpha), m uniform in [0, share_max).
"""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, losses
from subspace_jax.core.keys import as_key
from subspace_jax.ood.auxiliary_class import check_outputs
from subspace_jax.typing import Array, Float, Int, Key

Noise = tuple[tuple[float, ...], tuple[float, ...]]


def partners(key: Key[Array, ""], y: Int[Array | np.ndarray, " b"]) -> Int[Array, " b"]:
    """For every sample the position of one of its class, drawn at random: a permutation within every class.

    A class with one sample gives that sample itself. No loop: the i-th of a class in one random order is paired with
    the i-th in another.
    """
    orders = [jnp.lexsort((u, jnp.asarray(y))) for u in jax.random.uniform(as_key(key), (2, len(y)))]
    return jnp.zeros(len(y), orders[0].dtype).at[orders[0]].set(orders[1])


def blend(share: Float[Array, " b"], x: Float[Any, "b ..."], other: Float[Any, "b ..."]) -> Float[Array, "b ..."]:
    """The mixture share x + (1 - share) other, sample by sample.

    Raises:
      ValueError: inputs that are not floats.
    """
    _check_floats(x)
    share = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return share * x + (1 - share) * other


@checks.on_host
def noise_like(x: Float[Any, "n ..."]) -> Noise:
    """Mean and deviation of every channel of training inputs as the network sees them: those of the noise.

    Raises:
      ValueError: inputs that are not floats, or not finite.
    """
    x = np.asarray(x)
    _check_floats(x)
    checks.check_filled("x", x)
    checks.check_finite("x", x)
    flat = x.reshape(-1, x.shape[-1]) if x.ndim > 2 else x.reshape(-1, 1)
    return tuple(flat.mean(axis=0, dtype=np.float64).tolist()), tuple(flat.std(axis=0, dtype=np.float64).tolist())


def noise_vicinity(
    key: Key[Array, ""],
    x: Float[Any, "b ..."],
    y: Int[Any, " b"],
    *,
    classes: int,
    noise: Noise,
    target: str = "soft",
    share_max: float = 1.0,
) -> tuple[Float[Array, "b ..."], Float[Array, "b outputs"]]:
    """Mixtures of samples and noise, with their targets over classes + 1; not clipped to the range of pixels.

    Args:
      key: for noise and shares.
      x: inputs as the network sees them.
      y: their classes, in [0, classes).
      classes: known ones; the auxiliary class has this number.
      noise: mean and deviation of every channel, see `noise_like`.
      target: "soft" or "hard".
      share_max: the shares of x are uniform in [0, share_max).

    Raises:
      ValueError: another target, a share_max outside (0, 1], inputs that are not floats, labels that are no classes.
    """
    if target not in ("soft", "hard"):
        raise ValueError(f"target is soft or hard; got {target!r}.")
    check_settings(share_max=share_max)
    _check_floats(x)
    checks.check_labels(y, classes)
    noise_key, share_key = jax.random.split(as_key(key))
    share = share_max * jax.random.uniform(share_key, (len(y),))
    mean, std = (jnp.asarray(part, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) for part in noise)
    mixed = blend(share, x, mean + std * jax.random.normal(noise_key, x.shape, x.dtype))
    known = losses.class_rows(jnp.eye(classes, classes + 1), y)
    unknown = jax.nn.one_hot(jnp.full(len(y), classes), classes + 1)
    part = share[:, None] if target == "soft" else jnp.zeros((len(y), 1))
    return mixed, part * known + (1 - part) * unknown


@lru_cache(maxsize=64)  # one function object a network, and so one compilation of what uses it
def mixup(train_apply: Callable, *, alpha: float = 1.0) -> Callable:
    """The objective of mixup between any two samples of a batch, for `training.train_epoch` and `training.minimise`.

    Args:
      train_apply: (variables, x, key) -> (logits, new batch_stats), as `nn.Model` has it.
      alpha: of the Beta distribution.

    Raises:
      ValueError: an alpha that is not positive and finite.
    """
    check_settings(alpha=alpha)

    def objective(params, batch_stats, batches, constants, key):
        x, y = _batch(batches)
        share_key, order_key, model_key = jax.random.split(key, 3)
        share = shares_of(share_key, alpha, len(y))
        other = jax.random.permutation(order_key, len(y))
        mixed = blend(share, x, x[other])
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, mixed, model_key)
        own, theirs = (losses.softmax_cross_entropy(logits, labels) for labels in (y, y[other]))
        return losses.mean(share * own + (1 - share) * theirs), batch_stats

    return objective


@lru_cache(maxsize=64)
def intra(train_apply: Callable, *, alpha: float = 1.0) -> Callable:
    """The objective of mixup within classes; arguments as for `mixup`."""
    check_settings(alpha=alpha)

    def objective(params, batch_stats, batches, constants, key):
        x, y = _batch(batches)
        mix_key, model_key = jax.random.split(key)
        mixed = within_class(mix_key, x, y, alpha=alpha)
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, mixed, model_key)
        return losses.mean(losses.softmax_cross_entropy(logits, y)), batch_stats

    return objective


def within_class(key: Key[Array, ""], x: Float[Any, "b ..."], y: Int[Any, " b"], *, alpha: float = 1.0) -> Array:
    """L x + (1 - l) x' with x' of the same class: the class means stay, the covariance within classes shrinks.

    By E[l^2 + (1 - l)^2], which is 2/3 at alpha = 1, where x' is another sample.
    """
    x, y = _batch(((x, y),))
    share_key, partner_key = jax.random.split(as_key(key))
    return blend(shares_of(share_key, alpha, len(y)), x, x[partners(partner_key, y)])


def shares_of(key: Key[Array, ""], alpha: float, count: int) -> Float[Array, " b"]:
    """Shares l ~ Beta(alpha, alpha), one a sample; uniform at alpha = 1.

    Raises:
      ValueError: an alpha that is not positive and finite, a negative count.
    """
    check_settings(alpha=alpha)
    checks.check_count("the number of samples", count, 0)
    if alpha == 1:
        return jax.random.uniform(as_key(key), (count,))  # the general sampler rejects and repeats, and is slow
    return jax.random.beta(as_key(key), alpha, alpha, (count,))


@lru_cache(maxsize=64)
def auxiliary(
    train_apply: Callable,
    *,
    classes: int,
    noise: Noise,
    target: str = "soft",
    alpha: float = 1.0,
    weight: float = 1.0,
    share_max: float = 1.0,
) -> Callable:
    """The objective of a network with classes + 1 outputs: CE of within-class mixtures + weight x CE of noise mixtures.

    Both halves go through the network together, so that a BatchNorm sees the mixture.

    Args:
      train_apply: as for `mixup`, like alpha.
      classes: known ones.
      noise: see `noise_like`.
      target: see `noise_vicinity`, like share_max.
      alpha: see train_apply.
      weight: of the unknown half.
      share_max: see target.

    Raises:
      ValueError: an alpha that is not positive and finite, a weight that is negative, no class, noise that is not
        finite; raised by the objective: a network without the output more,
        inputs that are not floats.
    """
    check_settings(alpha=alpha, share_max=share_max)
    checks.check_count("classes", classes)
    checks.check_finite("noise", np.asarray(noise, np.float64), remedy="measure it by noise_like")
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight of the unknown half is finite and not negative; got {weight}.")

    def objective(params, batch_stats, batches, constants, key):
        x, y = _batch(batches)
        _warn_if_few(len(y), classes)
        mix_key, noise_key, model_key = jax.random.split(key, 3)
        known = within_class(mix_key, x, y, alpha=alpha)
        unknown, targets = noise_vicinity(
            noise_key, x, y, classes=classes, noise=noise, target=target, share_max=share_max
        )
        both = jnp.concatenate([known, unknown])
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, both, model_key)
        check_outputs(logits.shape[1], classes)
        loss = losses.mean(losses.softmax_cross_entropy(logits[: len(y)], y))
        return loss + weight * losses.mean(losses.soft_cross_entropy(logits[len(y) :], targets)), batch_stats

    return objective


def _batch(batches: Any) -> tuple[Array, Array]:
    """Inputs and labels of the one set, checked, as arrays that a traced permutation may index: NumPy's refuse it."""
    ((x, y),) = batches
    checks.check_labels(y)
    checks.check_lengths(x=x, y=y)
    return jnp.asarray(x), jnp.asarray(y)


def _check_floats(x: Any) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"noise and mixtures are of inputs as the network sees them; got {x.dtype}: scale the pixels.")


def check_settings(*, alpha: float = 1.0, share_max: float = 1.0) -> None:
    """Refuse settings of mixtures that there are not.

    Raises:
      ValueError: an alpha that is not positive and finite, a share_max outside (0, 1].
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha of the Beta distribution is positive and finite; got {alpha}.")
    if not 0 < share_max <= 1:
        raise ValueError(f"share_max is the largest share of a sample in a noise mixture, in (0, 1]; got {share_max}.")


def _warn_if_few(batch: int, classes: int) -> None:
    if batch < 2 * classes:
        warnings.warn(
            f"a batch of {batch} has fewer than 2 samples for each of {classes} classes: many mix with themselves.",
            stacklevel=2,
        )
