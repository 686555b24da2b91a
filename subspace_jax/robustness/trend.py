"""How adversarial examples carry over between networks, ensembles designed by it, attacks on all members at once.

N_st counts images that source s and target t get right, and both get wrong once they are attacked on s. The raw ratio
N_st / N_ss says what share of the source's successes carry over; N_st / N_tt how much of the target's own count they
reach: a target that is hard to break has a small raw ratio whether or not anything carries over. Ravikumar, Kodge, Garg
and Roy, TREND: transferability based robust ensemble design, IEEE Trans. AI 2023, arXiv 2008.01524.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, losses
from subspace_jax.core.attacks import Attack, steps_of
from subspace_jax.core.attacks.attack import bound, check_eps, check_images
from subspace_jax.core.keys import as_keys
from subspace_jax.core.quantize import quantize_input
from subspace_jax.typing import Array, Bool, Float, Int, Key, Num

Rule = Literal["dag", "agd", "ugd"]
RULES = "dag", "agd", "ugd"
SECOND = 0.01  # weight of the summed probabilities beside a vote: they decide ties alone
MOST_MEMBERS = 99  # with more, summed probabilities could outweigh a vote
EXHAUSTIVE = 20_000  # subsets that are all tried
FLAT = -0.1  # b eps above it: counts do not saturate, and the fitted form says nothing
GRID, ZOOMS = 61, 12


class Fit(NamedTuple):
    """Counts a (1 - exp(b eps)) by strength.

    Attributes:
      a, b: (sources, targets); b <= 0, both 0 where no count is positive.
      rmse: root of the mean squared error over the strengths.
      weak: whether the strengths are too weak: the counts do not saturate.
    """

    a: np.ndarray
    b: np.ndarray
    rmse: np.ndarray
    weak: np.ndarray


@checks.on_host
def transfer_counts(
    clean: Bool[np.ndarray, "models n"], attacked: Bool[np.ndarray, "sources models n"]
) -> tuple[Int[np.ndarray, "sources models"], Int[np.ndarray, "sources models"]]:
    """N_st and G_st: successes that carry over, and the source's successes among images that the target gets right.

    N <= G <= N_ss = G_ss.

    Args:
      clean: whether each network is right on each image.
      attacked: whether network t is right on the examples made on network s; the sources are the first networks.

    Raises:
      ValueError: shapes that do not fit; answers in place of whether they are right.
    """
    if clean.dtype != bool or attacked.dtype != bool:
        raise ValueError(f"counts take whether answers are right, answers == y; got {clean.dtype}, {attacked.dtype}.")
    if attacked.ndim != 3 or attacked.shape[1:] != clean.shape or len(attacked) > len(clean):
        raise ValueError(
            f"there is one answer a source, network and image; got {attacked.shape} beside networks {clean.shape}."
        )
    own = np.stack([clean[s] & ~attacked[s, s] for s in range(len(attacked))])
    both = own[:, None] & clean[None]
    return (both & ~attacked).sum(2), both.sum(2)


@checks.on_host
def raw_ratio(counts: Int[np.ndarray, "sources models"], names: Sequence[str] = ()) -> Float[np.ndarray, "s m"]:
    """N_st / N_ss; NaN, with a warning that names it, for a source without a success."""
    own = np.diagonal(counts).astype(float)
    _warn(own, names, "source")
    with np.errstate(invalid="ignore"):
        return np.where(own[:, None] > 0, counts / np.maximum(own, 1)[:, None], np.nan)


@checks.on_host
def share(counts: Int[np.ndarray, "models models"], names: Sequence[str] = ()) -> Float[np.ndarray, "m m"]:
    """N_st / N_tt: how much of a target's own count is reached; NaN, with a warning, for a target without one."""
    own = np.diagonal(counts).astype(float)
    _warn(own, names, "target")
    return np.where(own[None] > 0, counts / np.maximum(own, 1)[None], np.nan)


@checks.on_host
def fit_strength(eps: Sequence[float], counts: Num[np.ndarray, "sources models strengths"]) -> Fit:
    """The least-squares fit of N(eps) ~ a (1 - exp(b eps)), a >= 0, b <= 0, for every pair.

    For a given b the best a is <N, g> / <g, g>, g = 1 - exp(b eps): only b is searched, on a grid that narrows.

    Args:
      eps: at least 3 different strengths, positive, in pixels of [0, 1].
      counts: of every pair at every strength.

    Raises:
      ValueError: too few strengths, one that is not positive or above 1.
    """
    strengths, counts = checks.as_real("eps", eps), checks.as_real("counts", counts)
    for strength in strengths:
        check_eps(strength, "linf", 1)
    if len(np.unique(strengths)) < 3 or strengths.min() <= 0 or counts.shape[-1] != len(strengths):
        raise ValueError(f"the form is fitted to 3 positive strengths or more, a count each; got {list(eps)}.")
    low, high = (np.full(counts.shape[:-1], np.log(end / strengths.max())) for end in (1e-4, 1e3))
    for _ in range(ZOOMS):
        grid = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, GRID)
        at = np.argmin(_errors(np.exp(grid), strengths, counts)[0], -1)[..., None]
        low, high = (np.take_along_axis(grid, np.clip(at + s, 0, GRID - 1), -1)[..., 0] for s in (-1, 1))
    rate = np.exp((low + high) / 2)
    squares, a = (part[..., 0] for part in _errors(rate[..., None], strengths, counts))
    seen = (counts > 0).any(-1)
    a, b = np.where(seen, a, 0.0), np.where(seen, -rate, 0.0)
    return Fit(a, b, np.sqrt(squares / len(strengths)), b * strengths.max() > FLAT)


@checks.on_host
def transfer_metric(fit: Fit, eps: float) -> Float[np.ndarray, "sources models"]:
    """The fitted count of a pair over that of its source at one strength, 1 on the diagonal; NaN without a success."""
    if not eps > 0:
        raise ValueError(f"eps is the strength of the attack, above 0; got {eps}.")
    fitted = fit.a * (1 - np.exp(fit.b * eps))
    own = np.diagonal(fitted)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(own[:, None] > 0, fitted / own[:, None], np.nan)


@checks.on_host
def design_ensemble(
    transfer: Float[np.ndarray, "models models"], accuracy: Float[np.ndarray, " models"], *, size: int,
    delta: float = 0.03, by: Literal["mean", "max"] = "mean",
) -> tuple[int, ...]:  # fmt: skip
    """The networks between which least carries over, in both directions.

    All subsets are tried up to 20,000, else the best pair grows by the network that adds least.

    Args:
      transfer: a ratio of every pair.
      accuracy: without attack.
      size: members, at least 2.
      delta: how far below the best accuracy a member may be.
      by: "mean" or "max" of the ratios between members; NaN counts as 1.

    Raises:
      ValueError: fewer accurate networks than `size`, or a size below 2; not one ratio for every pair.
    """
    if np.shape(transfer) != (len(accuracy),) * 2:
        raise ValueError(f"there is one ratio a pair of {len(accuracy)} networks; got shape {np.shape(transfer)}.")
    transfer = np.nan_to_num(checks.as_real("transfer", transfer), nan=1.0)
    able = np.flatnonzero(np.asarray(accuracy) >= np.max(accuracy) - delta)
    if not 2 <= size <= len(able):
        raise ValueError(
            f"an ensemble has 2 to {len(able)} members, the networks within {delta} of the best accuracy; got {size}: "
            "raise delta or train more networks."
        )

    def cost(members: tuple[int, ...]) -> float:
        between = [transfer[s, t] for s, t in itertools.permutations(members, 2)]
        return float(np.mean(between) if by == "mean" else np.max(between))

    members = tuple(map(int, able))
    if len(members) < 2 or _choices(len(members), size) <= EXHAUSTIVE:
        return min(itertools.combinations(members, size), key=cost)
    found = min(itertools.combinations(members, 2), key=cost)
    while len(found) < size:
        found = min(((*found, m) for m in members if m not in found), key=cost)
    return tuple(sorted(found))


def ensemble(members: Sequence[Callable]) -> Callable:
    """A function from images to scores (b, classes): votes + .01 x summed probabilities, which decide ties.

    It is what `core.attacks.run` and `audit` take; gradients go through its members: `ensemble_attack`.

    Raises:
      ValueError: no member, or more than 99.
    """
    if not 1 <= len(members) <= MOST_MEMBERS:
        raise ValueError(f"an ensemble that votes has 1 to {MOST_MEMBERS} members; got {len(members)}.")
    return jax.tree_util.Partial(_scores, tuple(map(bound, members)))


def voters(fn: Callable) -> tuple[Callable, ...]:
    """Those that were given to `ensemble`; another function is its own only member."""
    return fn.args[0] if isinstance(fn, jax.tree_util.Partial) and fn.func is _scores else (fn,)


def vote(keys: Key[Array, " b"], logits: Float[Array, "members b classes"]) -> Int[Array, " b"]:
    """The class most members name; where no two agree, the answer of a member drawn by the image's key."""
    checks.check_axes("logits (members, b, classes)", logits, 3)
    checks.check_finite("logits", logits)
    answers = logits.argmax(2)
    votes = jax.nn.one_hot(answers, logits.shape[2], dtype=jnp.int32).sum(0)
    drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(logits)))(as_keys(keys))
    alone = jnp.take_along_axis(answers, drawn[None], axis=0)[0]
    return jnp.where(votes.max(1) == 1, alone, votes.argmax(1))


def ensemble_direction(gradients: Float[Array, "members b *image"], rule: Rule) -> Float[Array, "b *image"]:
    """The direction of a step from the members' input gradients, -1, 0 or 1 a pixel.

    "dag" sign(sum g): one member of large gradients decides. "agd" sign(sum sign(g)): each member has one vote. "ugd"
    that vote where it is unanimous, else 0: a member whose gradient underflows to 0 stops it.

    Raises:
      ValueError: another rule.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RULES)}.")
    if rule == "dag":
        return jnp.sign(gradients.sum(0))
    votes = jnp.sign(gradients).sum(0)
    return jnp.sign(jnp.where(jnp.abs(votes) == len(gradients), votes, 0) if rule == "ugd" else votes)


def ensemble_attack(rule: str, *, steps: int = 20, step_size: float = 1 / 8, member: int | None = None) -> Attack:
    """PGD in linf through the members of what `ensemble` gives.

    Args:
      rule: one of `ensemble_direction`; "softmean", cross-entropy of the mean probabilities; "summed", that of the
        summed logits, a surrogate; "member", that of one member alone.
      steps: at least 1.
      step_size: as a share of eps.
      member: its number, for "member".

    Raises:
      ValueError: another rule; a member without "member", or the other way round.
    """
    if rule not in (*RULES, "softmean", "summed", "member"):
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RULES)}, softmean, summed and member.")
    if (rule == "member") != (member is not None):
        raise ValueError(f"member numbers one member for the rule 'member'; got {member} for {rule!r}.")
    return Attack(*steps_of(_through(rule, member), step_size=step_size), steps)


@checks.on_host
def changeable(
    x: Float[Array | np.ndarray, "n *image"], *, bits: int, eps: float, lo: Any = 0.0, hi: Any = 1.0
) -> Bool[np.ndarray, "n *image"]:
    """Which pixels a change of eps can move to another value of `quantize_input`: all that an attack can touch.

    Args:
      x: images in [0, 1].
      bits: of the quantised input, 1 to 8.
      eps: largest change of a pixel.
      lo: lower end of the range of bins, in pixels; one number or one per channel with x's number of axes.
      hi: upper end.

    Raises:
      ValueError: images outside [0, 1], eps or bits out of range.
    """
    check_images(x)
    check_eps(eps, "linf", 1)
    x = jnp.asarray(x)
    values = [np.asarray(quantize_input(jnp.clip(x + way, 0, 1), bits, lo, hi)) for way in (-eps, 0.0, eps)]
    return (values[0] != values[1]) | (values[2] != values[1])


def _choices(count: int, size: int) -> int:
    return functools.reduce(lambda done, k: done * (count - k) // (k + 1), range(size), 1)


def _warn(own: np.ndarray, names: Sequence[str], what: str) -> None:
    for number in np.flatnonzero(own == 0):
        name = names[int(number)] if names else number
        warnings.warn(f"{what} {name} has no white-box success: its ratios are NaN; raise eps.", stacklevel=3)


def _errors(rates: np.ndarray, eps: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared error of the best a for each of the rates -b (..., rates), and that a."""
    form = -np.expm1(-rates[..., None] * eps)
    a = np.maximum((form * counts[..., None, :]).sum(-1) / np.maximum((form**2).sum(-1), 1e-300), 0)
    return ((a[..., None] * form - counts[..., None, :]) ** 2).sum(-1), a


def _members(members: tuple[Callable, ...], x: Array) -> Array:
    return jnp.stack([member(x) for member in members])


def _scores(members: tuple[Callable, ...], x: Array) -> Array:
    logits = _members(members, x)
    votes = jax.nn.one_hot(logits.argmax(2), logits.shape[2], dtype=logits.dtype).sum(0)
    return votes + SECOND * jax.nn.softmax(logits).sum(0)


@functools.lru_cache
def _through(rule: str, member: int | None) -> Callable:
    """(problem, x, i) -> the direction of a step."""

    def pull(function: Callable, y: Array, x: Array) -> Array:
        return jax.grad(lambda x: losses.softmax_cross_entropy(function(x), y).sum())(x)

    def gradient(problem: Any, x: Array, i: Any) -> Array:
        members = voters(problem.fn)
        if rule in RULES:
            return ensemble_direction(jnp.stack([pull(m, problem.y, x) for m in members]), rule)
        if member is not None:
            return pull(members[member], problem.y, x)
        if rule == "summed":
            return pull(lambda x: _members(members, x).sum(0), problem.y, x)
        return pull(lambda x: jax.nn.logsumexp(jax.nn.log_softmax(_members(members, x)), axis=0), problem.y, x)

    return gradient
