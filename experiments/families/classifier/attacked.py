"""Images in [0, 1] and networks that see them so: what the questions about attacks share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.families.classifier import data as classifier
from subspace_jax import data, nn
from subspace_jax.core import keys
from subspace_jax.core.attacks import bound, objectives
from subspace_jax.core.attacks.attack import check_eps

ATTACK_KEY = 12  # beside those of the classifier family
SHOWN = 6
FARTHEST = 1.0  # no change of a pixel in [0, 1] is larger


class Case(NamedTuple):
    """The images that are attacked."""

    keys: Any
    x: np.ndarray
    y: np.ndarray


def with_images(config: classifier.Config) -> classifier.Setup:
    """What all seeds share.

    Raises:
      ValueError: a data set of rows of numbers.
    """
    shared = classifier.setup(config)
    if "image" not in shared.columns:
        raise ValueError(f"{config.data} has rows of numbers (x): networks here see images.")
    return shared


def along(strengths: tuple[float, ...], eps: float) -> tuple[float, ...]:
    """The strengths of curves in ascending order, that of the headline figures among them.

    Raises:
      ValueError: one outside (0, 1]; none beside eps.
    """
    for strength in (eps, *strengths):
        check_eps(strength, "linf", 1)
    if min(eps, *strengths) <= 0:
        raise ValueError(f"--eps and --strengths are above 0; got {eps} and {strengths}.")
    if set(strengths) <= {eps}:
        raise ValueError(f"--strengths are those of curves, one beside --eps {eps} at least; got {strengths}.")
    return tuple(sorted({eps, *strengths}))


def pixels(scaling: data.Scaling) -> data.Scaling:
    """Raw pixels to [0, 1]: the rest of the scaling is inside the networks."""
    return data.Scaling(scaling.divisor, (0.0,) * len(scaling.mean), (1.0,) * len(scaling.std))


def normalised(x: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """(x - mean) / std per channel."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    mean_, std_ = (np.reshape(np.asarray(part, np.float32), shape) for part in (mean, std))
    return (x - mean_) / std_


@functools.lru_cache  # one function object a network, and so one compilation
def on_pixels(network: nn.Model, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Model:
    """A network of scaled images as one of images in [0, 1]."""

    def seen(x):
        return normalised(x, mean, std)

    return nn.Model(
        lambda key, x: network.init(key, seen(x)),
        lambda variables, x: network.apply(variables, seen(x)),
        lambda variables, x, key: network.train_apply(variables, seen(x), key),
        lambda variables, x: network.features(variables, seen(x)),
    )


def case(shared: classifier.Setup, seed: int, images: int | None) -> Case:
    """The first test images in [0, 1], a key each."""
    raw, rows = data.inputs(shared.test), slice(images)
    key = jax.random.fold_in(jax.random.key(seed), ATTACK_KEY)
    own_keys = keys.sample_keys(key, shared.test["index"][rows])
    return Case(own_keys, np.asarray(data.scale(raw[rows], pixels(shared.scaling))), shared.test["label"][rows])


def smoothness(fn: Any, x: np.ndarray, y: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Median length of the loss gradient, and of margin over the l1 norm of its gradient, where the answer is right.

    That ratio is the change of all pixels that overturns a linear function, and at most 1, the range of a pixel: a vote
    without a dissenter has no gradient, or one so small that it says nothing.
    """
    parts = {}
    for kind in ("ce", "margin"):
        found = _sloped(kind, bound(fn), jnp.asarray(x), jnp.asarray(y))
        values, slope = (np.asarray(part, np.float64) for part in found)
        parts[kind] = values, slope.reshape(len(x), -1)
    length = np.linalg.norm(parts["ce"][1], axis=1)
    value, slope = parts["margin"]
    steep = np.abs(slope).sum(1)
    reach = np.where(-value < FARTHEST * steep, -value / np.where(steep > 0, steep, 1), FARTHEST)
    return {"gradient_norm": np.median(length), "margin_ratio": np.median(reach[clean]) if clean.any() else 0.0}


def fallen(fn: Any, seen: Case, examples: np.ndarray) -> dict[str, np.ndarray]:
    """Some images before and after, those that fell first, and what is said of them."""
    changed = np.abs(examples - seen.x).reshape(len(seen.x), -1).max(1)
    rows = np.argsort(changed == 0, kind="stable")[:SHOWN]
    said = [np.asarray(fn(jnp.asarray(part[rows]))).argmax(1) for part in (seen.x, examples)]
    return {"shown": rows, "images": seen.x[rows], "made": examples[rows], "label": seen.y[rows],
            "said": np.stack(said)}  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _sloped(kind: str, fn: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """An objective of every image and its gradient."""

    def total(x):
        values = objectives.OBJECTIVES[kind](fn(x), y)
        return values.sum(), values

    (_, values), slope = jax.value_and_grad(total, has_aux=True)(x)
    return values, slope
