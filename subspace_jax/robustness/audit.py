"""A robust accuracy that can be believed: several attacks joined image by image, and the signs of masked gradients.

An image counts as withstood only if it is right under ALL attacks. Gradients that vanish or mislead make a network look
robust to PGD alone (Athalye, Carlini and Wagner, ICML 2018); five observations tell: a search without gradients beats
PGD, accuracy does not fall in eps, more steps or restarts are weaker, unbounded changes do not fool every image, and,
the other way round, the search itself must be strong enough to say something.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.attacks import Attack, apgd, bound, noise, pgd, right, run, square
from subspace_jax.core.attacks.attack import check_draws, check_images
from subspace_jax.core.inference import check_inference
from subspace_jax.core.keys import as_keys
from subspace_jax.robustness import trend
from subspace_jax.typing import Array, Bool, Float, Int, Key

MASKED = 0.02  # accuracy by which a comparison must differ to be more than a few images
POWER = 0.8  # share of PGD's success on an undefended network that a black box must reach to prove anything
TRIED = 8  # images on which the function itself is checked
ROUNDED = 1e-6  # by which examples of one's own may leave the ball


class Audit(NamedTuple):
    """What an audit found.

    Attributes:
      clean: whether each image is right without an attack, (n,).
      right: by attack, whether each image is right before and after it, (n,).
      worst: whether it is right under all of them, (n,).
      examples: of every image that fell the first attack's that it fell to, else the image itself, (n, ...).
      curve: accuracy under "pgd" by strength.
      power: of the black box on the reference, NaN without one: (clean - square) / (clean - pgd).
      classes: of the logits.
    """

    clean: Bool[np.ndarray, " n"]
    right: dict[str, Bool[np.ndarray, " n"]]
    worst: Bool[np.ndarray, " n"]
    examples: Float[np.ndarray, "n *image"]
    curve: dict[float, float]
    power: float
    classes: int

    @property
    def accuracy(self) -> dict[str, float]:
        """Accuracies: clean, under each attack, and under all of them: "min"."""
        each = {"clean": self.clean, **self.right, "min": self.worst}
        return {name: float(values.mean()) for name, values in each.items()}

    @property
    def masked(self) -> float:
        """Accuracy under PGD less accuracy under Square; positive: the search without gradients is the stronger one."""
        return float(self.right["pgd"].mean() - self.right["square"].mean())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the figure, one sentence each; empty where nothing does."""
        return tuple(_warnings(self))

    def __str__(self) -> str:
        """A table of accuracies and the warnings."""
        rows = [f"{name:>10} {value:.3f}" for name, value in self.accuracy.items()]
        return "\n".join([*rows, *(self.warnings or ("no sign of masked gradients",))])


def battery(classes: int, *, steps: int = 20, restarts: int = 5, queries: int = 1000) -> dict[str, Attack]:
    """The usual attacks in linf: PGD of three objectives, longer, with restarts, adaptive; Square; noise.

    Args:
      classes: of the network; with two there is no "dlr".
      steps: of PGD, each eps / 8; "long" takes five times as many.
      restarts: of "restarts", on the margin, twice the steps each.
      queries: of Square.
    """
    dlr = {"dlr": pgd(steps=steps, objective="dlr")} if classes > 2 else {}
    return {
        "pgd": pgd(steps=steps),
        "margin": pgd(steps=steps, objective="margin"),
        **dlr,
        "long": pgd(steps=5 * steps),
        "restarts": pgd(steps=2 * steps, objective="margin", restarts=restarts),
        "apgd": apgd(steps=5 * steps, objective="dlr" if classes > 2 else "ce"),
        "square": square(queries=queries),
        "noise": noise(tries=steps),
    }


def audit(
    keys: Key[Array, " n"],
    logits_fn: Callable,
    x: Float[Array | np.ndarray, "n *image"],
    y: Int[Array | np.ndarray, " n"],
    *,
    eps: float,
    attacks: Mapping[str, Attack] | None = None,
    reference: Callable | None = None,
    extra: Mapping[str, Any] | tuple[()] = (),
    draws: int | None = None,
    batch: int = 512,
) -> Audit:
    """Attack a function from images to logits in all ways, and judge whether the result can be believed.

    Args:
      keys: one an image: `core.keys.sample_keys(key, index)`; the result then depends on no batch.
      logits_fn: images in [0, 1] -> logits, in inference mode, normalisation inside; see `core.attacks.run`.
      x: images in [0, 1].
      y: true labels.
      eps: largest change of a pixel.
      attacks: by name, "pgd" and "square" among them, which the verdict compares; `battery` when None.
      reference: an undefended network, on which the black box shows its power.
      extra: further attacks by name, such as one that knows the defence, or images (n, ...) made elsewhere.
      draws: of a random network at each step.
      batch: images attacked at a time.

    Raises:
      ValueError: as `core.attacks.run`; a function whose answer changes from call to call or with the batch; logits
        that are not finite; no "pgd" or "square"; images made elsewhere that are outside the ball.
    """
    target = _target(keys, logits_fn, x, y, draws, batch)
    x = target.x
    check_function(target.fn, x, draws)
    classes = target.classes()
    named = dict(battery(classes) if attacks is None else attacks) | dict(extra)
    check_named(named, x, eps)
    clean = target.right(x)
    made = {name: target.attacked(a, eps) if isinstance(a, Attack) else np.asarray(a) for name, a in named.items()}
    found = {name: clean & target.right(images) for name, images in made.items()}
    worst, examples = joined(x, clean, found, made)
    curve = {
        s: float((found["pgd"] if s == eps else clean & target.right(target.attacked(named["pgd"], s))).mean())
        for s in strengths(eps)
    }
    power = float("nan")
    if reference is not None:
        plain = target._replace(fn=bound(reference), draws=None)
        power = power_of(plain.right(x), *(plain.right(plain.attacked(named[a], eps)) for a in ("square", "pgd")))
    return Audit(clean, found, worst, examples, curve, power, classes)


def over_strengths(
    keys: Key[Array, " n"], logits_fn: Callable, x: Float[Array | np.ndarray, "n *image"],
    y: Int[Array | np.ndarray, " n"], *, strengths: Sequence[float], attacks: Mapping[str, Attack],
    draws: int | None = None, batch: int = 512,
) -> dict[str, Bool[np.ndarray, "strengths n"]]:  # fmt: skip
    """By attack, whether each image is right before and after it at each strength: what `audit` finds at one eps.

    Args:
      keys: as for `audit`, like logits_fn, x, y, draws and batch.
      logits_fn: see keys.
      x: see keys.
      y: see keys.
      strengths: largest changes of a pixel.
      attacks: by name.
      draws: see keys.
      batch: see keys.

    Raises:
      ValueError: as `core.attacks.run`.
    """
    target = _target(keys, logits_fn, x, y, draws, batch)
    clean = target.right(target.x)
    return {
        name: np.stack([clean & target.right(target.attacked(attack, eps)) for eps in strengths])
        for name, attack in attacks.items()
    }


def joined(
    x: np.ndarray, clean: np.ndarray, right: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What is right under all attacks, and of every image that is not the first attack's that it fell to."""
    worst, examples = clean.copy(), np.array(x)
    for name, withstood in right.items():
        fell = worst & ~withstood
        examples[fell] = made[name][fell]
        worst &= withstood
    return worst, examples


def strengths(eps: float) -> tuple[float, ...]:
    """At which PGD is tried: half of eps, eps, twice eps, and 1, where any image can become any other."""
    return tuple(sorted({eps / 2, eps, min(2 * eps, 1.0), 1.0}))


def power_of(clean: np.ndarray, by_square: np.ndarray, by_pgd: np.ndarray) -> float:
    """(clean - square) / (clean - pgd) of the shares of images that are right; NaN where PGD has no success."""
    fell, fooled = (float((clean & ~withstood).mean()) for withstood in (by_square, by_pgd))
    return fell / fooled if fooled > 0 else float("nan")


def check_function(fn: Callable, x: np.ndarray, draws: int | None) -> None:
    """Refuse a function that is random from call to call, or whose answers depend on the rest of the batch.

    Raises:
      ValueError: says which; of a vote also the number of the member.
    """
    members = trend.voters(fn)
    for number, member in enumerate(members if draws is None else ()):
        try:
            _check_one(member, jnp.asarray(x[:TRIED]))
        except ValueError as error:
            raise ValueError(f"member {number} of the vote: {error}" if len(members) > 1 else str(error)) from error


def _check_one(fn: Callable, few: Array) -> None:
    first, again = (np.asarray(fn(few)) for _ in range(2))
    checks.check_finite("logits", first, remedy="the network diverged, or its parameters are not finite")
    if not np.array_equal(first, again):
        raise ValueError("logits_fn gives other logits in a second call: give (x, key) -> logits, and draws=8, say.")
    if len(few) > 1 and bool((few != few[:1]).any()):
        check_inference(lambda fn, x: fn(x), fn, few)


def check_named(named: Mapping[str, Any], x: np.ndarray, eps: float) -> None:
    """Refuse attacks without the two that are compared, and images outside the ball.

    Raises:
      ValueError: names the attack.
    """
    if missing := [name for name in ("pgd", "square") if not isinstance(named.get(name), Attack)]:
        raise ValueError(f"an audit compares the attacks pgd and square; {missing[0]} is not among {', '.join(named)}.")
    for name, made in named.items():
        if isinstance(made, Attack):
            continue
        if np.shape(made) != x.shape:
            raise ValueError(f"{name} is an attack, or images {x.shape}; got shape {np.shape(made)}.")
        check_images(made)
        far = np.abs(np.asarray(made) - x).max(initial=0)
        if far > eps + ROUNDED:
            raise ValueError(f"the images of {name} change a pixel by {far:.4g}, more than eps = {eps}: clip them.")


def _warnings(found: Audit):
    accuracy, chance = found.accuracy, 1 / found.classes
    if found.masked >= MASKED:
        yield f"masked: Square, without gradients, is stronger than PGD by {found.masked:.3f}."
    values = list(found.curve.values())
    if any(later >= earlier + MASKED for k, earlier in enumerate(values) for later in values[k + 1 :]):
        yield "accuracy rises with eps: PGD does not find what a smaller eps allows."
    for name in ("long", "restarts"):
        if accuracy.get(name, 0) >= accuracy["pgd"] + MASKED:
            yield f"more {'steps' if name == 'long' else 'restarts'} are weaker: {accuracy[name]:.3f} against pgd."
    if values[-1] > chance:
        yield f"at eps = 1 the accuracy is {values[-1]:.3f}, above chance: PGD does not see the network."
    if found.power < POWER:
        yield f"Square reaches {found.power:.2f} of PGD on the reference: it proves nothing; raise its queries."


def _target(keys: Any, logits_fn: Callable, x: Any, y: Any, draws: int | None, batch: int) -> "_Target":
    check_draws(logits_fn, draws)
    check_images(x)
    checks.check_lengths(x=x, labels=y, keys=keys)
    return _Target(as_keys(keys), bound(logits_fn), np.asarray(x), np.asarray(y), draws, batch)


class _Target(NamedTuple):
    """A function under attack, on all images a batch at a time."""

    keys: Any
    fn: Callable
    x: np.ndarray
    y: np.ndarray
    draws: int | None
    batch: int

    def classes(self) -> int:
        more = () if self.draws is None else (self.keys[0],)
        return jax.eval_shape(self.fn, self.x[:1], *more).shape[-1]

    def attacked(self, attack: Attack, eps: float) -> np.ndarray:
        return self._over(
            lambda rows: run(self.keys[rows], attack, self.fn, self.x[rows], self.y[rows], eps=eps, draws=self.draws)
        )

    def right(self, x: np.ndarray) -> np.ndarray:
        return self._over(lambda rows: right(self.keys[rows], self.fn, x[rows], self.y[rows], draws=self.draws))

    def _over(self, compute: Callable) -> np.ndarray:
        """The last batch is filled up by image 0, so that all have one shape."""
        count = len(self.x)
        size, parts = min(self.batch, count), []
        for start in range(0, count, size):
            rows = np.arange(start, start + size)
            parts.append(np.asarray(compute(np.where(rows < count, rows, 0)))[: count - start])
        return np.concatenate(parts)
