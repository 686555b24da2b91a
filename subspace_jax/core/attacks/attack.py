"""What an attack is, and how it is carried out: one program of all steps, or one a step where a loop is slow."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from subspace_jax.core import checks, closures
from subspace_jax.core.attacks import balls
from subspace_jax.core.keys import as_keys
from subspace_jax.typing import Array, Bool, Float, Int, Key

Images = Float[Array | np.ndarray, "b *image"]
Labels = Int[Array | np.ndarray, " b"]
Keys = Key[Array, " b"]
RESTART = 1 << 20  # beyond every step: keys of a restart are no keys of a step
LEAST_CLASSES = 2


class Problem(NamedTuple):
    """What an attack works on, inside a program.

    Attributes:
      ask: (x, i) -> logits (draws, b, classes) of step i; one draw of a network that is not random.
      fn: the attacked function, a `jax.tree_util.Partial`.
      keys: one an image.
      x: images (b, ...) in [0, 1].
      y: their labels (b,).
      eps: largest change, ().
    """

    ask: Callable
    fn: Callable
    keys: Any
    x: Any
    y: Any
    eps: Any


class Attack(NamedTuple):
    """An attack with its settings; the same settings give the same functions, and so one compilation.

    Attributes:
      init: (problem) -> state, a pytree of arrays.
      step: (problem, i, state) -> state.
      result: (problem, state) -> images, within eps of x.
      steps: how many.
      norm: of the change that eps bounds.
      restarts: repetitions with other keys, joined: the first image that changes the answer counts.
      classes: how many the objective needs.
    """

    init: Callable
    step: Callable
    result: Callable
    steps: int
    norm: Literal["linf", "l2"] = "linf"
    restarts: int = 1
    classes: int = LEAST_CLASSES


def run(
    keys: Keys, attack: Attack, logits_fn: Callable, x: Images, y: Labels, *, eps: Any, draws: int | None = None
) -> Float[Array, "b *image"]:
    """Images within eps of x, in [0, 1], that the attack found; for eps = 0 x itself.

    Args:
      keys: one an image, such as `core.keys.sample_keys(key, index)`.
      attack: from one of the functions beside this one, or an own one.
      logits_fn: images (b, ...) -> logits (b, classes), in inference mode, normalisation inside. With `draws`, a
        random network: (x, key) -> logits.
      x: images in [0, 1].
      y: their true labels.
      eps: largest change in the attack's norm, in pixels of [0, 1].
      draws: of a random network at each step; gradients and scores are means over them.

    Raises:
      ValueError: images outside [0, 1]; eps outside [0, 1] (for l2, [0, sqrt(pixels)]); labels that are not one class
        number an image; too few classes for the objective; a random network without draws.
    """
    check_draws(logits_fn, draws)
    keys, fn = as_keys(keys), bound(logits_fn)
    check(keys, attack, fn, x, y, eps, draws)
    x, y = jnp.asarray(x), jnp.asarray(y)
    eps = jnp.asarray(eps, x.dtype)
    found = _searched(attack, draws, fn, keys, x, y, eps)
    if attack.restarts == 1:
        return found
    kept = right(keys, fn, found, y, draws=draws)
    for number in range(1, attack.restarts):
        others = jax.vmap(jax.random.fold_in, (0, None))(keys, RESTART + number)
        again = _searched(attack, draws, fn, others, x, y, eps)
        found = jnp.where(balls.lift(kept, x), again, found)
        kept &= right(keys, fn, again, y, draws=draws)
    return found


def right(keys: Keys, logits_fn: Callable, x: Images, y: Labels, *, draws: int | None = None) -> Bool[Array, " b"]:
    """Whether the largest logit is the label's; of a random network the largest mean probability over the draws.

    Raises:
      ValueError: images that are not finite, where they are known.
    """
    checks.check_finite("images", x)
    return _right(draws, bound(logits_fn), as_keys(keys), jnp.asarray(x), jnp.asarray(y))


def bound(logits_fn: Callable) -> Callable:
    """The function as a pytree, whose arguments are traced and which is otherwise compared as `closures.current` does.

    A vote of networks is a Partial of them, `Partial(vote, (Partial(apply, variables), ...))`.
    """
    if isinstance(logits_fn, jax.tree_util.Partial):
        return logits_fn
    return jax.tree_util.Partial(closures.current(logits_fn))


def asking(fn: Callable, draws: int | None, keys: Keys) -> Callable:
    """(x, i) -> logits (draws, b, classes); every image of a random network has its own keys."""
    if draws is None:
        return lambda x, i: fn(x)[None]

    def ask(x, i):
        def one(key, image):
            return fn(image[None], key)[0]

        def draw(number):
            own = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, i), number))(keys)
            return jax.vmap(one)(own, x)

        return jax.vmap(draw)(jnp.arange(draws))

    return ask


def check(keys: Keys, attack: Attack, fn: Callable, x: Any, y: Any, eps: Any, draws: int | None) -> None:
    """Refuse what cannot be attacked, before anything is compiled; under `jit` shapes alone are looked at.

    Raises:
      ValueError: as `run` says.
    """
    check_images(x)
    shape = _traced(fn, draws, keys, x).out_info.shape[1:]
    if len(shape) != 2 or shape[0] != len(x):
        raise ValueError(f"logits_fn gives logits (b, classes); got shape {shape} for {len(x)} images.")
    checks.check_labels(y, shape[1])
    checks.check_lengths(x=x, labels=y, keys=keys)
    if shape[1] < attack.classes:
        raise ValueError(f"this objective compares {attack.classes} classes at least; got {shape[1]}: use ce.")
    check_eps(eps, attack.norm, int(np.prod(np.shape(x)[1:])))


def check_draws(logits_fn: Callable, draws: int | None) -> None:
    """Refuse a random network without a number of draws.

    Raises:
      ValueError: names the argument that asks for a key; draws below 1.
    """
    takes = [p for p in inspect.signature(logits_fn).parameters.values() if p.default is p.empty and p.kind in (0, 1)]
    if draws is None and len(takes) > 1:
        raise ValueError(f"logits_fn takes {takes[1].name!r} beside the images: a random network needs draws=8, say.")
    if draws is not None and draws < 1:
        raise ValueError(f"draws of a random network are at least 1; got {draws}.")


def check_images(x: Any) -> None:
    """Refuse images that are not floats in [0, 1].

    Raises:
      ValueError: names the range found.
    """
    x = x if hasattr(x, "dtype") else np.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [0, 1]; got {x.dtype}: divide raw pixels by 255.")
    checks.check_finite("images", x)
    if checks.is_known(x) and x.size and (np.min(x) < 0 or np.max(x) > 1):
        raise ValueError(
            f"images must lie in [0, 1]; got {np.min(x):.4g} to {np.max(x):.4g}: pass pixels in [0, 1], normalisation "
            "belongs inside logits_fn."
        )


def check_eps(eps: Any, norm: str, pixels: int) -> None:
    """Refuse a strength outside the range of its norm, where it is known.

    Raises:
      ValueError: names the bound.
    """
    most = 1.0 if norm == "linf" else pixels**0.5
    if checks.is_known(eps) and not 0 <= float(eps) <= most * (1 + 1e-6):
        raise ValueError(f"eps is in pixels of [0, 1], at most {most:.4g} in {norm}; got {eps}: 8 instead of 8/255?")


@functools.partial(jax.jit, static_argnums=0)
def _right(draws: int | None, fn: Callable, keys: Keys, x: Any, y: Any) -> Bool[Array, " b"]:
    logits = asking(fn, draws, keys)(x, 0)
    answer = logits[0] if draws is None else jax.nn.softmax(logits).mean(0)
    return (answer.argmax(1) == y) & ~jnp.isnan(answer).any(1)


def _searched(attack: Attack, draws: int | None, *arguments: Any) -> Any:
    """All steps: in one program, or, for convolutions on a CPU, whose gradients are slow inside loops, one a step."""
    parts = attack.init, attack.step, attack.result
    fn, keys, x = arguments[:3]
    if not checks.is_known(x) or not _is_slow_in_loops(fn, draws, keys, x):
        return _whole(parts, draws, attack.steps, *arguments)
    state = _one(parts, draws, 0, None, *arguments)
    for i in range(attack.steps):
        state = _one(parts, draws, 1, (i, state), *arguments)
    return _one(parts, draws, 2, state, *arguments)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _whole(parts, draws, steps, fn, keys, x, y, eps):
    problem = Problem(asking(fn, draws, keys), fn, keys, x, y, eps)
    init, step, result = parts
    return result(problem, jax.lax.fori_loop(0, steps, lambda i, state: step(problem, i, state), init(problem)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _one(parts, draws, which, given, fn, keys, x, y, eps):
    problem = Problem(asking(fn, draws, keys), fn, keys, x, y, eps)
    init, step, result = parts
    return (lambda _: init(problem), lambda g: step(problem, *g), lambda s: result(problem, s))[which](given)


def _is_slow_in_loops(fn: Callable, draws: int | None, keys: Keys, x: Any) -> bool:
    return jax.default_backend() == "cpu" and _convolves(_traced(fn, draws, keys, x).jaxpr.jaxpr)


def _traced(fn: Callable, draws: int | None, keys: Keys, x: Any) -> Any:
    """The network as a program: traced once for all calls on images of one shape."""
    types = jax.tree.map(jax.typeof, (fn, keys, x))
    shapes = jax.tree.map(lambda found: jax.ShapeDtypeStruct(found.shape, found.dtype), types)
    return _answers.trace(draws, *shapes)


@functools.partial(jax.jit, static_argnums=0)
def _answers(draws: int | None, fn: Callable, keys: Keys, x: Any) -> Float[Array, "draws b classes"]:
    return asking(fn, draws, keys)(x, 0)


def _convolves(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name == "conv_general_dilated" or any(map(_convolves, jex.jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )
