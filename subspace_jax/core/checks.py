"""Checks of arrays before anything is computed from them: finite values, probabilities, labels, equal lengths.

Data of users pass these checks. Every error is one sentence that names the value, its position and the remedy. Inside
`jit` and `vmap` values are unknown: there only shapes and dtypes are checked, and NaN stays NaN.
"""

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.typing import PyTree

P = ParamSpec("P")
R = TypeVar("R")
ROUNDED = 1e-2  # by which probabilities in bfloat16 may miss the sum of 1


def is_known(values: Any) -> bool:
    """Whether the values can be looked at: False inside `jit`, `vmap` and `grad`."""
    return not isinstance(values, jax.core.Tracer)


def on_host(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for what computes with NumPy: traced arguments are refused before anything looks at them.

    JAX's own error would speak of an `__array__` method somewhere below.

    Raises:
      ValueError: by the function that comes back, as `check_host`.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_host(function.__name__, args, kwargs)
        return function(*args, **kwargs)

    return checked


def check_host(name: str, *values: PyTree) -> None:
    """Refuse traced values in what computes on the host, in NumPy.

    Raises:
      ValueError: names the function; a call inside `jit`, `grad` or `vmap`.
    """
    if not all(map(is_known, jax.tree.leaves(values))):
        raise ValueError(f"{name} computes on the host, in NumPy: call it outside jit, grad and vmap.")


def check_finite(name: str, values: PyTree, *, remedy: str = "drop or repair these samples") -> None:
    """Refuse NaN and infinities in an array, or in any leaf of a tree; integers always pass.

    Of an array that is sharded over several processes each process checks its own part.

    Args:
      name: what the values are, for the error message.
      values: an array or a pytree of arrays.
      remedy: what to do about it, for the error message.

    Raises:
      ValueError: names the first such value, its position and how many there are.
    """
    for path, leaf in trees.flatten(values).items():
        for part in _parts(leaf):
            if not _all_finite(part):
                _refuse(f"{name} {path!r}" if path else name, np.asarray(part), remedy)


def check_lengths(**arrays: Any) -> None:
    """Refuse arrays that cannot be of the same samples: their first axes differ in length.

    Raises:
      ValueError: names the two arrays and their lengths.
    """
    names = list(arrays)
    for name in names:
        if not np.shape(arrays[name]):
            raise ValueError(f"{name} has one entry per sample; got a single number, {arrays[name]}.")
    first, *others = names
    for other in others:
        lengths = np.shape(arrays[first])[0], np.shape(arrays[other])[0]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"{first} and {other} must have one entry per sample; got {lengths[0]} and {lengths[1]}: select the "
                "same samples in both."
            )


def check_labels(y: Any, classes: int | None = None, *, name: str = "labels") -> None:
    """Refuse labels that are not one class number per sample: integers (n,), in [0, classes).

    Args:
      y: NumPy, JAX or a list; inside `jit` only shape and dtype are known.
      classes: how many there are; any integer when None.
      name: what they are called in the error message.

    Raises:
      ValueError: text, non-integers, one-hot rows, or inputs instead of labels; a label outside [0, classes),
        with its position.
    """
    y = y if hasattr(y, "dtype") else np.asarray(y)
    what = f"{name} must be one integer per sample, shape (n,); got"
    if y.dtype.kind in "OSUT":
        raise ValueError(
            f"{what} text or objects such as {np.ravel(y)[:1]}: number the classes, "
            "np.unique(labels, return_inverse=True)[1]."
        )
    if y.ndim != 1:
        raise ValueError(f"{what} {y.dtype} {y.shape}: {_remedy(y)}.")
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"{what} {y.dtype}: if they are class numbers, cast them by .astype(int).")
    if classes is None or not is_known(y):
        return
    y = np.asarray(y)
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        raise ValueError(
            f"{name} must lie in [0, {classes}); got {y[wrong[0]]} at position {wrong[0]} "
            f"({len(wrong)} of {len(y)}): map them to 0..{classes - 1} or build the network with more classes."
        )


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse anything but a whole number of at least `least`; under `jit` nothing is checked.

    Raises:
      ValueError: a fraction, NaN, text or None, or a number that is too small.
    """
    if not is_known(value):
        return
    if isinstance(value, np.ndarray | jax.Array) and not np.shape(value):
        value = np.asarray(value)[()]
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} is a whole number, at least {least}; got {value!r}.")


def check_number(name: str, value: Any, least: float | int = -math.inf, most: float | int = math.inf) -> None:
    """Refuse anything but a finite number in [least, most]; under `jit` nothing is checked.

    Raises:
      ValueError: NaN, an infinity, a number outside the bounds; names the value and the bounds.
    """
    if is_known(value) and not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"{name} is a finite number in [{least:g}, {most:g}]; got {value}.")


def check_shape(name: str, shape: Any) -> None:
    """Refuse sizes of axes that are no whole numbers of at least 1.

    Raises:
      ValueError: names the shape.
    """
    for size in shape:
        if not isinstance(size, numbers.Integral) or size < 1:
            raise ValueError(f"{name} is made of whole numbers, at least 1; got {tuple(shape)}.")


def check_axes(name: str, x: Any, least: int) -> None:
    """Refuse an array of fewer axes than a method needs, inside `jit` too.

    Raises:
      ValueError: names the array, its shape and the number of axes.
    """
    if np.ndim(x) < least:
        raise ValueError(f"{name} has at least {least} axes; got shape {np.shape(x)}.")


def check_filled(name: str, x: Any) -> None:
    """Refuse an array without entries, inside `jit` too.

    Raises:
      ValueError: names the array and its shape.
    """
    if not np.size(x):
        raise ValueError(f"{name} is empty, of shape {np.shape(x)}: give at least one entry.")


def check_several(y: Any, purpose: str) -> None:
    """Refuse labels of a single class where classes are compared; under `jit` nothing is checked.

    Raises:
      ValueError: names the class and the purpose.
    """
    if is_known(y) and len(kinds := np.unique(np.asarray(y))) < 2:
        raise ValueError(f"{purpose} takes samples of at least 2 classes; all {len(y)} are of class {kinds.tolist()}.")


def check_probabilities(name: str, rows: Any) -> None:
    """Refuse rows (n, classes) that are not distributions: in [0, 1] with sum 1, up to the rounding of bfloat16.

    Raises:
      ValueError: another shape, values that are not finite; logits and log-probabilities, each with its remedy.
    """
    if np.ndim(rows) != 2:
        raise ValueError(f"{name} are one row per sample, (n, classes); got shape {np.shape(rows)}: another argument?")
    if not is_known(rows):
        return
    check_finite(name, rows)
    rows = as_real(name, rows, np.float32)
    bad = np.flatnonzero((rows < -ROUNDED).any(1) | (rows > 1 + ROUNDED).any(1) | (abs(rows.sum(1) - 1) > ROUNDED))
    if len(bad):
        row = rows[bad[0]]
        logarithms = row.max() <= ROUNDED and abs(np.exp(row).sum() - 1) <= ROUNDED
        raise ValueError(
            f"rows of {name} are no probabilities: row {bad[0]} holds {row.min():.4g} to {row.max():.4g} and sums to "
            f"{row.sum():.4g} ({len(bad)} of {len(rows)} rows): apply {'exp' if logarithms else 'softmax'}."
        )


def check_data(x: Any, y: Any, classes: int | None = None) -> None:
    """Refuse samples that cannot be learned from: of other lengths, not finite, or with invalid labels.

    Args:
      x: inputs (n, ...).
      y: labels (n,).
      classes: as in `check_labels`.

    Raises:
      ValueError: as `check_labels`, `check_lengths` and `check_finite`.
    """
    check_labels(y, classes)
    check_lengths(x=x, y=y)
    check_finite("x", x)


def check_positions(name: str, positions: Any, samples: int) -> None:
    """Refuse anything but positions of samples, integers (n,) in [0, samples).

    Raises:
      ValueError: a boolean mask, non-integers, a position out of range, with its place.
    """
    positions = positions if hasattr(positions, "dtype") else np.asarray(positions, None if len(positions) else int)
    if positions.dtype == bool:
        raise ValueError(f"{name} are positions, integers (n,); got a boolean mask: take np.flatnonzero of it.")
    if positions.ndim != 1 or not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(f"{name} are positions, integers (n,); got {positions.dtype} {positions.shape}.")
    if not is_known(positions):
        return
    wrong = np.flatnonzero((np.asarray(positions) < 0) | (np.asarray(positions) >= samples))
    if len(wrong):
        raise ValueError(
            f"{name} must lie in [0, {samples}), positions of labels; got {positions[wrong[0]]} in place {wrong[0]}."
        )


def check_real(method: str, dtypes: Mapping[str, Any]) -> None:
    """Refuse complex numbers in a method that is defined for real ones only.

    Raises:
      ValueError: names the method, and the first array whose dtype is complex.
    """
    for path, dtype in dtypes.items():
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                f"{method} has no complex form; {path!r} is {dtype}: leave it out, or train its real and imaginary "
                "parts as two arrays."
            )


def as_real(name: str, values: Any, dtype: Any = np.float64) -> np.ndarray:
    """Values as real numbers on the host; NumPy itself would drop imaginary parts with a warning alone.

    Args:
      name: what the values are, for the error message.
      values: NumPy, JAX, a list or a number.
      dtype: of the array that comes back.

    Raises:
      ValueError: complex numbers, text or objects; names their dtype.
    """
    values = np.asarray(values)
    if values.dtype.kind in "cOSUTMm":
        raise ValueError(f"{name}: real numbers are expected; got {values.dtype}.")
    return values.astype(dtype, copy=False)


def check_varied(name: str, values: Any) -> None:
    """Refuse samples that are all equal, of which none can stand out; under `jit` nothing is checked.

    Raises:
      ValueError: two samples or more without a difference.
    """
    if is_known(values) and len(values) > 1:
        values = np.asarray(values)
        if (values == values[:1]).all():
            raise ValueError(f"all {len(values)} {name} are equal: nothing tells one sample from another.")


def check_updates(updates: PyTree, params: PyTree | None) -> None:
    """Refuse updates that cannot be added to their parameters: optax would broadcast them, or drop imaginary parts.

    Inside `jit` too. Nothing is checked without parameters.

    Raises:
      ValueError: another structure; names the leaf of another shape, or of another kind of numbers.
    """
    leaves = trees.flatten(params)
    for path, update in trees.flatten(updates).items() if leaves else ():
        if path not in leaves or not _adds_to(update, leaves[path]):
            own = f"{leaves[path].dtype} {np.shape(leaves[path])}" if path in leaves else "not there"
            raise ValueError(
                f"an update has the shape and the kind of numbers of its parameter; {path!r} is {update.dtype} "
                f"{np.shape(update)}, its parameter {own}: are these gradients of another network?"
            )


def _parts(leaf: Any) -> list[Any]:
    """The pieces of an array that this process holds, each once; none of one whose values are unknown."""
    if not is_known(leaf):
        return []
    if not isinstance(leaf, jax.Array):
        return [np.asarray(leaf)]
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return []
    return (
        [leaf] if len(leaf.devices()) == 1 else list({str(s.index): s.data for s in leaf.addressable_shards}.values())
    )


def _adds_to(update: Any, param: Any) -> bool:
    kind = jnp.inexact if jnp.issubdtype(param.dtype, jnp.complexfloating) else jnp.floating
    fits = jnp.issubdtype(update.dtype, kind) or not jnp.issubdtype(param.dtype, jnp.inexact)
    return fits and np.shape(update) == np.shape(param)


def _all_finite(part: Any) -> bool:
    if not jnp.issubdtype(part.dtype, jnp.inexact):
        return True
    if isinstance(part, jax.Array) and next(iter(part.devices())).platform != "cpu":
        return bool(jnp.isfinite(part).all())  # one number comes back, not the array
    return bool(np.isfinite(np.asarray(part)).all())


def _refuse(name: str, values: np.ndarray, remedy: str) -> None:
    bad = ~np.isfinite(values)
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    where = f" at position {at[0] if len(at) == 1 else at}" if at else ""
    raise ValueError(f"{name} must be finite; got {values[at]}{where} ({bad.sum()} of {values.size} values): {remedy}.")


def _remedy(y: Any) -> str:
    """What to do with an array that stands where labels belong."""
    if y.ndim == 0:
        return "give an array with one label per sample"
    if y.ndim == 2 and y.shape[1] == 1:
        return "flatten them by .reshape(-1)"
    if y.ndim > 2:
        return "these are inputs: are inputs and labels swapped?"
    if not is_known(y):
        return "take the argmax of one-hot labels, or put inputs and labels in their order"
    rows = np.asarray(y)
    one_hot = ((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()
    return "take .argmax(axis=1) of one-hot labels" if one_hot else "are inputs and labels swapped?"
