"""Where one of several joined kernels acts in the product that they share."""

from typing import Any, NamedTuple

from jax import lax

from subspace_jax.typing import Array

Spans = tuple[tuple[int, int], ...]  # first index and end on every axis


class Part(NamedTuple):
    """A block of the kernel operand, and what it reads and gives.

    Attributes:
      data: the part of the data operand that it reads.
      kernel: its part of the kernel operand.
      result: the part of the result that it gives, or adds to.
      adds: the result is a sum over parts, since this one contracts only some of the rows.
    """

    data: Spans
    kernel: Spans
    result: Spans
    adds: bool


def part(eqn: Any, data_side: int, kernel: Spans) -> Part | None:
    """The part of a product that belongs to a block of its kernel operand.

    None where an axis is cut that is neither an input nor an output axis: batch axes, windows, channels of groups.
    """
    contracted, free = _roles(eqn, data_side)
    whole = eqn.invars[1 - data_side].aval.shape
    data, result = ([(0, size) for size in aval.shape] for aval in (eqn.invars[data_side].aval, eqn.outvars[0].aval))
    cut = [i for i, span in enumerate(kernel) if span != (0, whole[i])]
    for i in cut:
        if i in contracted:
            data[contracted[i]] = kernel[i]
        elif i in free:
            result[free[i]] = kernel[i]
        else:
            return None
    return Part(tuple(data), kernel, tuple(result), adds=any(i in contracted for i in cut))


def take(x: Array, spans: Spans) -> Array:
    """One part of an array; the array itself where that is all of it."""
    if spans == tuple((0, size) for size in x.shape):
        return x
    return lax.slice(x, *zip(*spans, strict=True))


def put(x: Array, spans: Spans, shape: tuple[int, ...]) -> Array:
    """Zeros of the shape, with x as this part."""
    return lax.pad(
        x, x.dtype.type(0), [(first, size - end, 0) for (first, end), size in zip(spans, shape, strict=True)]
    )


def sizes(spans: Spans) -> tuple[int, ...]:
    """The shape of a part."""
    return tuple(end - first for first, end in spans)


def pairs(eqn: Any, data_side: int) -> list[list[tuple[int, int]]]:
    """(data axis, kernel axis) of a `dot_general`: the contracted ones, then the batch axes."""
    both = [list(zip(*axes, strict=True)) for axes in eqn.params["dimension_numbers"]]
    return both if data_side == 0 else [[(data, kernel) for kernel, data in axes] for axes in both]


def _roles(eqn: Any, data_side: int) -> tuple[dict[int, int], dict[int, int]]:
    """{kernel axis: data axis} of the inputs and {kernel axis: result axis} of the outputs."""
    if eqn.primitive.name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        if eqn.params["feature_group_count"] != 1:
            return {}, {}
        return {numbers.rhs_spec[1]: numbers.lhs_spec[1]}, {numbers.rhs_spec[0]: numbers.out_spec[1]}
    contracted, batched = pairs(eqn, data_side)
    used = {kernel for _, kernel in (*contracted, *batched)}
    free = [i for i in range(len(eqn.invars[1 - data_side].aval.shape)) if i not in used]
    first = len(batched) if data_side == 1 else len(eqn.outvars[0].aval.shape) - len(free)
    return {kernel: data for data, kernel in contracted}, {axis: first + i for i, axis in enumerate(free)}
