"""Score every sample of a data set by any network: scores by name, with inputs checked before anything is traced."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.core import closures, curvature, losses, meshes, processes
from subspace_jax.core.checks import check_finite, check_labels, check_lengths, on_host
from subspace_jax.core.curvature.inputs import Inputs, Labels, sqnorm
from subspace_jax.core.keys import as_key
from subspace_jax.training.scoring import score_dataset
from subspace_jax.typing import ApplyFn, Array, Float, Int, Key, LossFn, PyTree, Variables

SUM_OF_ONE = 1e-2  # probabilities in bfloat16 miss it by as much


def input_grad_norm(loss: LossFn, variables: Variables, x: Inputs, y: Labels, *, precision: str) -> Float[Array, " b"]:
    """||dL/dx||_2 of every sample."""
    return jnp.sqrt(sqnorm(curvature.input_grad(loss, variables, x, y, precision=precision)))


def loss_value(loss: LossFn, variables: Variables, x: Inputs, y: Labels) -> Float[Array, " b"]:
    """The loss of every sample."""
    return loss(variables, x, y)


DIRECTIONS = "keys", "loss", "y", "probes", "precision"
TABLE: dict[str, tuple[Callable, tuple[str, ...]]] = {  # name: (function, what it needs besides variables and x)
    "fd_norm": (curvature.fd_norm, (*DIRECTIONS, "step")),
    "fd_sqnorm": (curvature.fd_sqnorm, (*DIRECTIONS, "step")),
    "fd_quad": (curvature.fd_quad, (*DIRECTIONS, "step")),
    "hutchinson": (curvature.hutchinson, DIRECTIONS),
    "hv_norm": (curvature.hv_norm, DIRECTIONS),
    "ggn_exact": (curvature.ggn_exact, ("apply", "precision")),
    "ggn_probe": (curvature.ggn_probe, ("keys", "apply", "probes", "precision")),
    "exact": (curvature.exact, ("loss", "y")),
    "input_grad": (input_grad_norm, ("loss", "y", "precision")),
    "loss": (loss_value, ("loss", "y")),
}
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(TABLE)]  # for a command line flag: its choices are the names of the table


@lru_cache(maxsize=64)  # the same arguments give the same function object, which is compiled once
def scorer(
    name: str, apply: ApplyFn, *, probes: int = 10, step: float = 1e-3, precision: str = "highest"
) -> Callable[..., Float[Array, " b"]]:
    """fn(keys, variables, x, y) -> (b,), the form that `training.score_dataset` takes; NaN where the loss is.

    Args:
      name: a key of TABLE; `input_grad` is ||dL/dx||_2.
      apply: (variables, x) -> logits, in inference mode.
      probes: random directions of the probed scores.
      step: finite-difference step of the fd scores, in units of x.
      precision: of matrix products; "highest" makes a score independent of the hardware.

    Raises:
      ValueError: unknown name, probes < 1, step <= 0.
    """
    if name not in TABLE:
        raise ValueError(f"no score {name!r}; there are {', '.join(TABLE)}.")
    curvature.check_settings(probes=probes, step=step)
    loss, (quantity, needs) = losses.cross_entropy(apply), TABLE[name]

    def fn(keys, variables, x, y):
        there = {"keys": keys, "apply": apply, "loss": loss, "y": y}
        there |= {"probes": probes, "step": step, "precision": precision}
        with jax.default_matmul_precision(precision):  # one for both, so that XLA merges their forward passes
            value = quantity(variables=variables, x=x, **{need: there[need] for need in needs})
            lost = loss(variables, x, y)
        value = value.value if isinstance(value, curvature.Estimate) else value
        return jnp.where(jnp.isnan(lost), jnp.nan, value)  # the derivative of ReLU would turn NaN into 0

    return fn


def score(
    key: Key[Array, ""],
    apply: ApplyFn,
    variables: Variables,
    x: PyTree[Float[Any, "n ..."]],
    y: Int[Any, " n"],
    *,
    name: str = "fd_norm",
    probes: int = 10,
    step: float = 1e-3,
    precision: str = "highest",
    index: Int[Any, " n"] | None = None,
    batch: int = 512,
) -> Float[Array, " n"]:
    """One score for every sample, high = memorized, by a network in inference mode.

    `fd_norm` is what the released scripts store as curvature (arXiv 2307.05831). With ReLU networks near interpolation
    average it over the epochs of a run: one at the end of an over-fit run separates far worse. With GELU the last epoch
    was as good (.945 against .936).

    Warns where all rows of `apply` are probabilities instead of logits. Several processes share the samples, and each
    gets all scores: every process must call this with the same arguments, see `training.score_dataset`.

    Args:
      key: base of the random directions; sample i uses fold_in(key, index[i]).
      apply: (variables, x) -> logits (n, classes).
      variables: whatever `apply` takes.
      x: float inputs as the network sees them, unaugmented; `step` is in their units. An array (or list), or a dict or
        tuple of arrays, which count as one vector with one norm.
      y: the labels the network was trained on.
      name: a key of TABLE.
      probes: see `scorer`.
      step: see `scorer`.
      precision: see `scorer`.
      index: sample numbers that do not change with order or subset; 0..n-1 when None.
      batch: samples per call.

    Raises:
      ValueError: a call inside `jit`; inputs that are not floats or not finite; labels that are no integers in
        [0, classes); lengths that differ; an apply that takes a single sample, returns more than logits, or one logit
        per sample; an unknown name; fewer than 1 probe, a step that is not positive; a score that is NaN.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((key, variables, x, y, index))):
        raise ValueError(
            "score runs over a whole data set and is not for jit, grad or vmap; inside them use "
            f"scorer({name!r}, apply), a function (keys, variables, x, y) -> (n,)."
        )
    variables = meshes.moved(variables)
    scored = _scored(name, closures.current(apply), probes, step, precision)
    x, y = processes.here((x, y))
    x, y = jax.tree.map(_native, np.asarray(x) if isinstance(x, list) else x), _native(y)
    curvature.check_inputs(x, y)
    _check_finite(x, len(y))
    check_labels(y, _classes(apply, variables, x))
    if index is not None:
        check_labels(index, name="index")
        check_lengths(index=index, y=y)
    values, certain = score_dataset(as_key(key), scored, variables, (x, y), index=index, batch=batch, label=name)
    if certain.all():
        warnings.warn(
            "every row that apply returns is a distribution: scores take logits, so drop the softmax at its end or "
            "return jnp.log of it.",
            stacklevel=2,
        )
    return refuse_nan(values, name=name)


@lru_cache(maxsize=64)
def _scored(name: str, apply: ApplyFn, probes: int, step: float, precision: str) -> Callable:
    """The score, and whether the outputs of `apply` are probabilities, in one program."""
    fn = scorer(name, apply, probes=probes, step=step, precision=precision)

    def both(keys, variables, x, y):
        with jax.default_matmul_precision(precision):
            rows = apply(variables, x).astype(jnp.float32)
        certain = (rows >= 0).all(axis=1) & (jnp.abs(rows.sum(axis=1) - 1) < SUM_OF_ONE)
        return fn(keys, variables, x, y), certain

    return both


def _check_finite(x: PyTree, count: int) -> None:
    """Of several processes each looks at its part of the samples, and all refuse what one of them refuses."""
    first, last = (count * (jax.process_index() + i) // jax.process_count() for i in (0, 1))
    name, error = "x" if last - first == count else f"x[{first}:{last}]", None
    try:
        check_finite(name, jax.tree.map(lambda leaf: leaf[first:last], x))
    except ValueError as found:
        error = found
    refused = processes.gathered(np.array([error is not None]))
    if refused.any():
        raise error or ValueError(f"x must be finite; it is not in the part of process {np.argmax(refused)}.")


def _native(leaf: Any) -> np.ndarray:
    """As a NumPy array in the byte order of this machine."""
    array = np.asarray(leaf)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _classes(apply: ApplyFn, variables: Variables, x: PyTree) -> int:
    """C, if apply(variables, a batch) gives logits (b, C)."""

    def out(*batch: int) -> Any:
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape[1:]), leaf.dtype), x)
        return jax.eval_shape(apply, variables, like)

    try:
        found = out(2)
    except Exception as error:
        found = error
    shape = getattr(found, "shape", ())
    if len(shape) == 2 and shape[0] == 2 and shape[1] > 1:
        return shape[1]
    raise ValueError(_why(found, out, x)) from (found if isinstance(found, Exception) else None)


def _why(found: Any, out: Callable, x: PyTree) -> str:
    """The error message for an `apply` that returned or raised `found` on two samples."""
    shapes = ", ".join(str((2, *leaf.shape[1:])) for leaf in trees.flatten(x).values())
    if not isinstance(found, Exception) and not hasattr(found, "shape"):
        return (
            f"apply must return logits alone; got a {type(found).__name__}: pick them, as in "
            "lambda variables, x: apply(variables, x)[0]."
        )
    try:
        alone = getattr(out(), "shape", ())
    except Exception:
        alone = ()
    if len(alone) == 1 and alone[0] > 1:
        return f"apply takes one sample, not a batch {shapes}: give jax.vmap(apply, in_axes=(None, 0))."
    if isinstance(found, Exception):
        return f"apply(variables, x) fails for two samples, x of shape {shapes}: {_first_line(found)}"
    if found.shape in ((2,), (2, 1)):
        return (
            "apply returns one logit a sample, but softmax takes at least two classes: with z of shape (n, 1) return "
            "jnp.concatenate([0 * z, z], axis=1), whose cross-entropy is the binary one."
        )
    return f"apply must return logits (n, classes); of two samples it makes {found.shape}."


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@on_host
def refuse_nan(scores: Float[Array, " n"], *, name: str, epoch: int | None = None) -> Float[Array, " n"]:
    """Return the scores; ValueError where any is NaN, with the first such position and the epoch."""
    bad = np.flatnonzero(np.isnan(np.asarray(scores)))
    if len(bad):
        when = "" if epoch is None else f" after epoch {epoch}"
        raise ValueError(
            f"{name} is NaN for {len(bad)} of {len(scores)} samples, first at position {bad[0]}{when}: "
            "the network diverged (lower lr) or that sample's pixels are not finite."
        )
    return scores
