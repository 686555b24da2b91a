"""Views: what is known of a value that is one parameter leaf up to cast, reshape, transpose, slice or split.

A view keeps (size, stride) of its axes in elements of the leaf, as NumPy does: two views are the same numbers when
these agree, however they were made. It also keeps the steps from the leaf, to read a kernel and to write it back.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import convolution
from subspace_jax.typing import Array

Axes = tuple[tuple[int, int], ...]  # (size, stride)
SAME = {"copy", "copy_p", "name", "stop_gradient", "sharding_constraint", "pvary", "pcast"}


class View(NamedTuple):
    """One leaf, seen through steps; the first axes are those that enclosing scans walk over.

    Attributes:
      leaf: path of the leaf.
      axes: (size, stride) per axis, stack axes first.
      offset: first element.
      stack: the scans that walk over the leading axes, outermost first.
      steps: (name, argument) from the leaf to this view.
      label: the slices, as one writes them: "[1]", "[:,0:64]".
    """

    leaf: str
    axes: Axes
    offset: int = 0
    stack: tuple[int, ...] = ()
    steps: tuple[tuple[str, Any], ...] = ()
    label: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes as the function sees them, without stack axes."""
        return tuple(size for size, _ in self.axes[len(self.stack) :])


def of_leaf(path: str, shape: Sequence[int]) -> View:
    """The whole leaf."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return View(path, tuple(zip(shape, strides, strict=True)))


def advance(view: View, eqn: Any) -> list[View] | None:
    """The views that one equation makes of a view; None where its result is no longer one."""
    name, params = eqn.primitive.name, eqn.params
    if name in SAME:
        return [view]
    shape = getattr(eqn.outvars[0].aval, "shape", ()) if eqn.outvars else ()
    if casts(eqn):
        return [cast(view, params["new_dtype"])]
    if name == "transpose":
        return [transpose(view, params["permutation"])]
    if name == "squeeze" or (name in ("reshape", "broadcast_in_dim") and math.prod(shape) == math.prod(view.shape)):
        return [split] if (split := reshape(view, shape)) else None
    if name == "slice":
        strides = params["strides"] or [1] * len(shape)
        return [cut(view, zip(params["start_indices"], params["limit_indices"], strides, strict=True))]
    if name == "rev":
        turned = [(None, None, -1 if i in params["dimensions"] else 1) for i in range(len(shape))]
        return [cut(view, turned)]
    if name in ("split", "unstack"):
        pieces = [cut(view, triples) for triples in pieces_of(view.shape, eqn)]
        return pieces if name == "split" else [one for piece in pieces if (one := reshape(piece, shape))]
    return None


def casts(eqn: Any) -> bool:
    """Whether an equation only changes the precision: to a float, or from complex to complex."""
    if eqn.primitive.name != "convert_element_type":
        return False
    new, is_complex = eqn.params["new_dtype"], jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.complexfloating)
    return jnp.issubdtype(new, jnp.complexfloating if is_complex else jnp.floating)


def enter_scan(view: View, scan: int) -> View:
    """The view of one iteration, for a view that a scan walks over."""
    return view._replace(stack=(*view.stack, scan))


def cast(view: View, dtype: Any) -> View:
    """Another float or complex dtype."""
    return _step(view, "cast", str(dtype))


def transpose(view: View, order: Sequence[int]) -> View:
    """Axes in another order."""
    order = (*range(len(view.stack)), *(len(view.stack) + i for i in order))
    return _step(view, "transpose", order)._replace(axes=tuple(view.axes[i] for i in order))


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """Axes split and merged; None where that needs a copy."""
    n = len(view.stack)
    runs = list(merged(view.axes[n:]))
    axes: list[tuple[int, int]] = []
    for size in reversed(shape):
        if size == 1:
            axes.append((1, 0))
            continue
        if not runs or runs[-1][0] % size:
            return None
        length, stride = runs.pop()
        axes.append((size, stride))
        if length > size:
            runs.append((length // size, stride * size))
    full = (*(size for size, _ in view.axes[:n]), *shape)
    return _step(view, "reshape", full)._replace(axes=(*view.axes[:n], *reversed(axes)))


def cut(view: View, triples: Any) -> View:
    """A static slice (start, stop, step) per axis; its label leaves out the axes that are kept whole."""
    n, axes, offset, texts = len(view.stack), [], view.offset, []
    triples = [(None, None, 1)] * n + [tuple(triple) for triple in triples]
    for (size, stride), triple in zip(view.axes, triples, strict=True):
        kept = range(size)[slice(*triple)]
        axes.append((len(kept), stride * triple[2]))
        offset += kept.start * stride if len(kept) else 0
        texts.append(_text(kept, size))
    while texts and texts[-1] == ":":
        texts.pop()
    label = view.label + (f"[{','.join(texts[n:])}]" if texts[n:] else "")
    return _step(view, "slice", tuple(triples))._replace(axes=tuple(axes), offset=offset, label=label)


def pieces_of(shape: Sequence[int], eqn: Any) -> list[list[tuple]]:
    """The slices that a `split` or an `unstack` takes of an array."""
    sizes, axis = eqn.params.get("sizes", [1] * len(eqn.outvars)), eqn.params["axis"]
    ends = itertools.accumulate(map(int, sizes), initial=0)
    whole: list[tuple] = [(None, None, 1)] * len(shape)
    return [[*whole[:axis], (first, end, 1), *whole[axis + 1 :]] for first, end in itertools.pairwise(ends)]


def merged(axes: Axes) -> Axes:
    """Axes without those of size 1, neighbours that are contiguous made one."""
    out: list[tuple[int, int]] = []
    for size, stride in axes:
        if size == 1:
            continue
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)


def read(steps: Sequence[tuple[str, Any]], leaf: Array) -> Array:
    """The value at the end of the steps."""
    for name, argument in steps:
        leaf = _do(name, argument, leaf)
    return leaf


def write(steps: Sequence[tuple[str, Any]], leaf: Array, value: Array) -> Array:
    """The leaf with the value in the place that `read` reads; its dtype and all other entries are unchanged."""
    if not steps:
        return value
    (name, argument), *rest = steps
    inner = write(rest, _do(name, argument, leaf), value)
    if name == "slice":
        return leaf.at[_slices(argument)].set(inner)
    if name == "transpose":
        return inner.transpose(np.argsort(argument))
    if name == "patches":
        window, groups, depth = argument
        return _stacked(lambda m: convolution.matrix_kernel(m, window, groups=groups), depth)(inner)
    return inner.reshape(leaf.shape).astype(leaf.dtype)


def _do(name: str, argument: Any, x: Array) -> Array:
    """One step."""
    if name == "patches":
        _, groups, depth = argument
        return _stacked(lambda kernel: convolution.kernel_matrix(kernel, groups=groups), depth)(x)
    if name == "slice":
        return x[_slices(argument)]
    return {"reshape": jnp.reshape, "transpose": jnp.transpose, "cast": jnp.astype}[name](x, argument)


def _stacked(fn: Any, depth: int) -> Any:
    for _ in range(depth):
        fn = jax.vmap(fn)
    return fn


def _slices(triples: Sequence[tuple]) -> tuple[slice, ...]:
    return tuple(slice(*triple) for triple in triples)


def _step(view: View, name: str, argument: Any) -> View:
    return view._replace(steps=(*view.steps, (name, argument)))


def _text(kept: range, size: int) -> str:
    if kept == range(size):
        return ":"
    if len(kept) == 1:
        return str(kept.start)
    if kept.step < 0:
        return "::-1"
    return f"{kept.start}:{kept.stop}" + (f":{kept.step}" if kept.step > 1 else "")
