"""Views side by side: kernels that a network concatenates before one product, each of them a layer of its own.

Cut along the output axis, all parts read the same rows and each gives some columns of the result; cut along the input
axis, each part reads its own columns of the data and the results add up. Both may happen in one product.
"""

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from subspace_jax.core.capture import views
from subspace_jax.core.capture.parts import Spans
from subspace_jax.core.capture.views import View


class Joined(NamedTuple):
    """Views that tile an array.

    Attributes:
      shape: of the whole, as the function sees it.
      parts: each view with its first index on every axis of the whole.
    """

    shape: tuple[int, ...]
    parts: tuple[tuple[View, tuple[int, ...]], ...]

    @property
    def leaves(self) -> frozenset[str]:
        """Paths of the leaves."""
        return frozenset(view.leaf for view, _ in self.parts)


Seen = View | Joined


def concatenate(operands: Sequence[Seen], axis: int) -> Seen | None:
    """Views, or views already joined, put one after the other."""
    ends = list(itertools.accumulate(operand.shape[axis] for operand in operands))
    parts = [
        (view, (*corner[:axis], corner[axis] + end - operand.shape[axis], *corner[axis + 1 :]))
        for operand, end in zip(operands, ends, strict=True)
        for view, corner in _parts(operand)
    ]
    shape = operands[0].shape
    return _joined((*shape[:axis], ends[-1], *shape[axis + 1 :]), parts)


def stack(operands: Sequence[Seen], axis: int) -> Seen | None:
    """Views put one after the other along a new axis."""
    shape = operands[0].shape
    grown = _all([reshape(operand, (*shape[:axis], 1, *shape[axis:])) for operand in operands])
    return None if grown is None else concatenate(grown, axis)


def advance(joined: Joined, eqn: Any) -> Sequence[Seen] | None:
    """What one equation makes of joined views; None where its results no longer are views side by side."""
    name, params = eqn.primitive.name, eqn.params
    shape = getattr(eqn.outvars[0].aval, "shape", ())
    if name in views.SAME:
        return [joined]
    if views.casts(eqn):
        cast = [(views.cast(view, params["new_dtype"]), corner) for view, corner in joined.parts]
        return _all([_joined(joined.shape, cast)])
    if name == "transpose":
        order = params["permutation"]
        turned = [(views.transpose(view, order), tuple(corner[i] for i in order)) for view, corner in joined.parts]
        return _all([_joined(shape, turned)])
    if name == "squeeze" or (name in ("reshape", "broadcast_in_dim") and math.prod(shape) == math.prod(joined.shape)):
        return _all([reshape(joined, shape)])
    if name == "slice":
        strides = params["strides"] or [1] * len(shape)
        return _all([_cut(joined, zip(params["start_indices"], params["limit_indices"], strides, strict=True))])
    if name in ("split", "unstack"):
        pieces = [_cut(joined, triples) for triples in views.pieces_of(joined.shape, eqn)]
        shapes = [var.aval.shape for var in eqn.outvars]
        return _all([piece and reshape(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)])
    return None


def reshape(seen: Seen, shape: Sequence[int]) -> Seen | None:
    """Axes split and merged; None where parts divide any but the slowest axis of a group that is merged."""
    if isinstance(seen, View):
        return views.reshape(seen, shape)
    groups, parts = list(_groups(seen.shape, shape)), []
    for view, corner in seen.parts:
        sizes, starts = [1] * len(shape), [0] * len(shape)
        for old, new in groups:
            if any(view.shape[i] != seen.shape[i] for i in old[1:]):
                return None
            inner, rest = math.prod(seen.shape[i] for i in old[1:]), math.prod(shape[i] for i in new[1:])
            first, length = corner[old[0]] * inner, view.shape[old[0]] * inner
            if first % rest or length % rest:
                return None
            sizes[new[0]], starts[new[0]] = length // rest, first // rest
            for i in new[1:]:
                sizes[i] = shape[i]
        own = views.reshape(view, sizes)
        if own is None:
            return None
        parts.append((own, tuple(starts)))
    return _joined(shape, parts)


def enter_scan(joined: Joined, scan: int) -> Joined | None:
    """The views of one iteration, for what a scan walks over; None where that is the axis they are joined along."""
    if any(view.shape[0] != joined.shape[0] for view, _ in joined.parts):
        return None
    parts = tuple((views.enter_scan(view, scan), corner[1:]) for view, corner in joined.parts)
    return Joined(joined.shape[1:], parts)


def blocks(joined: Joined) -> list[tuple[View, Spans]]:
    """Each view with its part of the whole."""
    return [
        (view, tuple((start, start + size) for start, size in zip(corner, view.shape, strict=True)))
        for view, corner in joined.parts
    ]


def _parts(seen: Seen) -> Sequence[tuple[View, tuple[int, ...]]]:
    return seen.parts if isinstance(seen, Joined) else [(seen, (0,) * len(seen.shape))]


def _joined(shape: Sequence[int], parts: Sequence[tuple[View, tuple[int, ...]]]) -> Seen | None:
    """Without empty parts; a single one is a plain view."""
    parts = tuple((view, corner) for view, corner in parts if 0 not in view.shape)
    if len(parts) == 1:
        return parts[0][0]
    return Joined(tuple(shape), parts) if parts else None


def _all(results: Sequence[Seen | None]) -> Sequence[Seen] | None:
    found = [result for result in results if result is not None]
    return found if len(found) == len(results) else None


def _cut(joined: Joined, triples: Any) -> Seen | None:
    """A static slice (start, stop, step) per axis, step at least 1."""
    kept = [range(size)[slice(*triple)] for size, triple in zip(joined.shape, triples, strict=True)]
    parts = []
    for view, corner in joined.parts:
        bounds = [
            (bisect.bisect_left(k, c), bisect.bisect_left(k, c + n))
            for k, c, n in zip(kept, corner, view.shape, strict=True)
        ]
        if all(first < last for first, last in bounds):
            own = [(k[a] - c, k[b - 1] + 1 - c, k.step) for k, c, (a, b) in zip(kept, corner, bounds, strict=True)]
            parts.append((views.cut(view, own), tuple(a for a, _ in bounds)))
    return _joined([len(k) for k in kept], parts)


def _groups(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes of two shapes that hold the same elements, slowest first; axes of size 1 are left out."""
    left, right = ([i for i, size in enumerate(shape) if size != 1] for shape in (old, new))
    while left:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[i] for i in ours)) != (b := math.prod(new[i] for i in theirs)):
            (ours.append(left.pop(0)) if a < b else theirs.append(right.pop(0)))
        yield ours, theirs
