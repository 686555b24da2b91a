"""Private images rebuilt from an update of the weights: attacks for an audit of one's own uploads.

An attacker knows the loss, the weights and the gradient that a client uploads (an update of one local step is its
multiple; one of many steps is not, and none of these attacks unrolls the steps). What was rebuilt is scored by
`matching.best_match`, beside a `guess` that sees no update. That an attack fails says nothing of the next one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.federated.fedavg import distance
from subspace_jax.typing import Array, Float, Int, Key, PyTree

DECAYS = 3 / 8, 5 / 8, 7 / 8  # of the steps, after each of which the rate is a tenth
Images = Float[Array | np.ndarray, "_ h w c"]


class Rebuilt(NamedTuple):
    """What an attack ends at.

    Attributes:
      x: as many images as it was told to look for.
      objective: of its best start.
    """

    x: Float[Array, "n ..."]
    objective: Float[Array, ""]


def inverting_gradients(
    key: Key[Array, ""],
    loss: Callable,
    params: PyTree,
    gradient: PyTree,
    labels: Int[Array | np.ndarray, " n"],
    *,
    shape: tuple[int, ...],
    steps: int = 800,
    lr: float = 0.1,
    tv: float = 0.01,
    restarts: int = 2,
    low: float = 0.0,
    high: float = 1.0,
) -> Rebuilt:
    """min_x 1 - cos(grad mean_i loss(w, x_i, y_i), gradient) + tv TV(x), by Adam on the sign of the gradient.

    x starts uniform in the box [low, high] and is put back into it after every step; the rate is divided by ten after
    3/8, 5/8 and 7/8 of the steps. TV is the mean absolute difference of neighbouring pixels down plus that across. Of
    several starts the one with the smallest objective at its end counts (Geiping, Bauermeister, Droege and Moeller,
    Inverting gradients, NeurIPS 2020, arXiv 2003.14053; they take 24,000 steps). Works under `jit` and `vmap`.

    Args:
      key: of the starts.
      loss: loss(params, x, y) -> (n,).
      params: the weights at which the gradient was taken.
      gradient: a tree as `params`; its length does not matter.
      labels: of the images, which this attack is given.
      shape: of one image, (h, w, c).
      steps: of Adam.
      lr: its first rate, in pixels.
      tv: weight of the total variation; for rows of numbers 0.
      restarts: number of starts.
      low: smallest pixel.
      high: largest pixel.

    Raises:
      ValueError: fewer than 1 step, start or label; a rate that is not positive; an empty box; a negative tv, or one
        with samples that are no images; labels that are no integers.
    """
    checks.check_labels(labels)
    checks.check_shape("an image", shape)
    checks.check_finite("params", params)
    _check_numbers(steps=steps, restarts=restarts, labels=len(labels))
    if not (lr > 0 and tv >= 0 and low < high):
        raise ValueError(f"lr is above 0, tv at least 0, low below high; got {lr}, {tv}, {low} and {high}.")
    if tv and len(shape) != 3:
        raise ValueError(f"the total variation is of images (h, w, c); got samples of shape {shape}: set tv to 0.")
    starts = jax.random.uniform(
        as_key(key), (restarts, len(labels), *shape), jax.tree.leaves(params)[0].dtype, minval=low, maxval=high
    )
    return _inverted(params, gradient, jnp.asarray(labels), starts, loss=loss, numbers=(steps, lr, tv, low, high))


def dlg(
    key: Key[Array, ""],
    loss: Callable,
    params: PyTree,
    gradient: PyTree,
    *,
    images: int,
    shape: tuple[int, ...],
    classes: int,
    steps: int = 300,
) -> Rebuilt:
    """Min over x and z of ||grad mean_i loss(w, x_i, softmax(z_i)) - gradient||^2, by L-BFGS: labels are rebuilt too.

    Deep leakage from gradients (Zhu, Liu and Han, NeurIPS 2019, arXiv 1906.08935). x and z start normal, without a box.
    The length of the gradient matters: an update of one step is divided by its learning rate first. The best iterate
    is returned; from a bad start L-BFGS stays where it is: take the best of several keys.

    Args:
      key: of the start.
      loss: loss(params, x, y) -> (n,), for soft labels.
      params: the weights at which the gradient was taken.
      gradient: a tree as `params`.
      images: how many the batch held.
      shape: of one of them.
      classes: of a label.
      steps: of L-BFGS, each with its line search.

    Raises:
      ValueError: fewer than 1 image, step or class; weights or a gradient that are not finite.
    """
    _check_numbers(images=images, steps=steps, classes=classes)
    checks.check_shape("an image", shape)
    checks.check_finite("params", params)
    checks.check_finite("gradient", gradient)
    first, second = jax.random.split(as_key(key))
    dtype = jax.tree.leaves(params)[0].dtype
    start = jax.random.normal(first, (images, *shape), dtype), jax.random.normal(second, (images, classes), dtype)
    return _leaked(params, gradient, start, loss=loss, steps=steps)


def analytic(
    kernel: Float[Array | np.ndarray, "inputs units"], bias: Float[Array | np.ndarray, " units"]
) -> Float[Array, "units inputs"]:
    """The input that each unit of a dense first layer with bias tells: its row of dW over its db.

    Of a single sample every unit with a gradient tells x exactly, since dW = x d' and db = d; of several samples a
    mixture weighted by d, which is one sample's where no other activates the unit. Zero for a unit without gradient.

    Args:
      kernel: the part of an update or gradient that belongs to the layer's kernel.
      bias: that of its bias.

    Source: Phong et al., Privacy-preserving deep learning, IEEE TIFS 2018.
    """
    kernel, bias = jnp.asarray(kernel), jnp.asarray(bias)
    return jnp.where(bias != 0, kernel / jnp.where(bias != 0, bias, 1)[None], 0).T


def guess(images: Images, y: Int[Array | np.ndarray, " m"], labels: Int[Array | np.ndarray, " n"]) -> Images:
    """The mean image of each label, from images that are not private: what one knows without any update.

    Raises:
      ValueError: a label of which there is no image.
    """
    checks.check_lengths(images=images, y=y)
    y, images = np.asarray(y), np.asarray(images)
    if len(absent := np.setdiff1d(labels, y)):
        raise ValueError(f"there is no image of class {absent[0]}, to be guessed; give images of each label.")
    means = {label: images[y == label].mean(axis=0) for label in np.unique(labels)}
    return np.stack([means[label] for label in np.asarray(labels)])


@checks.on_host
def guess_random(key: Key[Array, ""], images: Images, *, count: int) -> Images:
    """Images at random, each at most once: a weaker guess, which matches well where images are alike.

    Raises:
      ValueError: more than there are, or fewer than 1.
    """
    if not 1 <= count <= len(images):
        raise ValueError(f"count is in [1, {len(images)}], the number of images; got {count}.")
    rows = jax.random.permutation(as_key(key), len(images))[:count]
    return np.asarray(images)[np.asarray(rows)]


def total_variation(x: Float[Array, "n h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbouring pixels, down plus across; 0 without neighbours.

    Raises:
      ValueError: no images, or not (n, h, w, c).
    """
    checks.check_axes("images (n, h, w, c)", x, 4)
    checks.check_filled("images", x)
    return jnp.abs(jnp.diff(x, axis=1)).mean() + jnp.abs(jnp.diff(x, axis=2)).mean()


@functools.partial(jax.jit, static_argnames=("loss", "numbers"))
def _inverted(
    params: PyTree, gradient: PyTree, labels: Array, starts: Array, *, loss: Callable, numbers: tuple
) -> Rebuilt:
    steps, lr, tv, low, high = numbers
    rate = optax.piecewise_constant_schedule(lr, _decays(steps))
    tx = optax.adam(rate)

    def objective(x):
        away = distance(jax.grad(lambda w: loss(w, x, labels).mean())(params), gradient)
        return away + tv * total_variation(x) if tv else away

    def one(carry, _):
        x, opt_state = carry
        updates, opt_state = tx.update(jnp.sign(jax.grad(objective)(x)), opt_state, x)
        return (jnp.clip(x + updates, low, high), opt_state), None

    def attempt(x):
        (x, _), _ = jax.lax.scan(one, (x, tx.init(x)), length=steps)
        return x, objective(x)

    found, reached = jax.vmap(attempt)(starts)
    best = jnp.argmin(reached)
    return Rebuilt(found[best], reached[best])


@functools.partial(jax.jit, static_argnames=("loss", "steps"))
def _leaked(params: PyTree, gradient: PyTree, start: tuple, *, loss: Callable, steps: int) -> Rebuilt:
    tx = optax.lbfgs()

    def objective(parts):
        x, z = parts
        own = jax.grad(lambda w: loss(w, x, jax.nn.softmax(z)).mean())(params)
        return optax.tree.norm(jax.tree.map(jnp.subtract, own, gradient), squared=True)

    value_and_grad = optax.value_and_grad_from_state(objective)

    def one(carry, _):
        parts, opt_state, best, found = carry
        value, grads = value_and_grad(parts, state=opt_state)
        found = jax.tree.map(lambda new, old: jnp.where(value < best, new, old), parts, found)
        more = {"value": value, "grad": grads, "value_fn": objective}
        updates, opt_state = tx.update(grads, opt_state, parts, **more)
        return (optax.apply_updates(parts, updates), opt_state, jnp.minimum(value, best), found), None

    begin = start, tx.init(start), jnp.asarray(jnp.inf, start[0].dtype), start
    (_, _, best, found), _ = jax.lax.scan(one, begin, length=steps + 1)
    return Rebuilt(found[0], best)


def _decays(steps: int) -> dict[int, float]:
    """Factors of the rate by step; decays of a short run that fall on one step come together."""
    found: dict[int, float] = {}
    for share in DECAYS:
        step = int(share * steps)
        found[step] = found.get(step, 1.0) * 0.1
    return found


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}: at least 1; got {value}.")
