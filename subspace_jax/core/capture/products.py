"""Products of data with a view: how `dot_general` and `conv_general_dilated` become `rows @ matrix`, and back.

Both kinds answer the same questions. Rows are (n, d_in), or (groups, n, d_in) where the product has groups; the matrix
is (d_in, d_out) or (groups, d_in, d_out). The order of d_in is that of the leaf for a dense layer, (kh, kw, c) for a
convolution, so that it does not depend on the framework that wrote the product.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from subspace_jax.core import convolution, moments
from subspace_jax.core.capture import views
from subspace_jax.core.capture.parts import Part, pairs, sizes
from subspace_jax.core.capture.views import Axes, View
from subspace_jax.typing import Array, Bool

PATCH_BYTES = 2**26  # patches of this size at a time: beyond the caches, far below the activations of a batch


class Key(NamedTuple):
    """Entries of a leaf that are contracted (rows) or kept (columns): products with equal keys are one layer."""

    leaf: str
    offset: int
    stack: Axes
    groups: Axes
    rows: Axes
    columns: Axes

    @property
    def transposed(self) -> bool:
        """The fastest axis of the leaf is contracted, as in `x @ W.T`."""
        return min((abs(s) for _, s in self.rows), default=0) < min((abs(s) for _, s in self.columns), default=math.inf)


@dataclasses.dataclass(frozen=True)
class Dense:
    """`dot_general` with the kernel on one side; contracted axes are `d_in`, the free axes of the data are rows."""

    view: View
    data_side: int
    data_shape: tuple[int, ...]
    contracted: tuple[tuple[int, int], ...]  # (data axis, kernel axis), in the order of the leaf
    batched: tuple[tuple[int, int], ...]
    precision: Any
    preferred: Any
    dtype: Any

    kind = "dense"

    @classmethod
    def of(cls, eqn: Any, data_side: int, view: View, part: Part | None = None) -> "Dense":
        """Read the dimension numbers of one equation."""
        contracted, batched = pairs(eqn, data_side)
        visible = view.axes[len(view.stack) :]
        ordered = sorted(contracted, key=lambda pair: -abs(visible[pair[1]][1]))
        shape = sizes(part.data) if part else eqn.invars[data_side].aval.shape
        numbers = eqn.params["precision"], eqn.params["preferred_element_type"], eqn.outvars[0].aval.dtype
        return cls(view, data_side, shape, tuple(ordered), tuple(batched), *numbers)

    @property
    def _free(self) -> tuple[int, ...]:
        used = {data for data, _ in (*self.contracted, *self.batched)}
        return tuple(i for i in range(len(self.data_shape)) if i not in used)

    @property
    def _columns(self) -> tuple[int, ...]:
        """Free axes of the kernel, in the order of the leaf."""
        used = {kernel for _, kernel in (*self.contracted, *self.batched)}
        visible = self.view.axes[len(self.view.stack) :]
        return tuple(sorted((i for i in range(len(visible)) if i not in used), key=lambda i: -abs(visible[i][1])))

    @property
    def _groups(self) -> tuple[int, ...]:
        return (math.prod(self.data_shape[data] for data, _ in self.batched),) if self.batched else ()

    @property
    def groups(self) -> int:
        """Entries of the batch axes that the weight carries."""
        return math.prod(self._groups)

    @property
    def rows(self) -> int:
        """Rows per group in one evaluation."""
        return math.prod(self.data_shape[i] for i in self._free)

    @property
    def reads(self) -> tuple:
        """What is done to the data operand; equal for products that can share a Gram."""
        return "dense", tuple(data for data, _ in self.contracted), tuple(data for data, _ in self.batched)

    def matrix(self) -> tuple[Key, tuple]:
        """The key, and the steps from the leaf to the matrix (*stack, *groups, d_in, d_out)."""
        parts = [kernel for _, kernel in self.batched], [kernel for _, kernel in self.contracted], self._columns
        n = len(self.view.stack)
        axes = [tuple(self.view.axes[n + i] for i in part) for part in parts]
        sizes = [math.prod(size for size, _ in part) for part in axes[1:]]
        stack = self.view.axes[:n]
        ordered = views.transpose(self.view, [i for part in parts for i in part])
        shape = (*(size for size, _ in stack), *self._groups, *sizes)
        key = Key(self.view.leaf, self.view.offset, stack, *map(views.merged, axes))
        return key, (*ordered.steps, ("reshape", shape))

    def inputs(self, x: Array) -> Array:
        """Data operand -> rows."""
        order = [data for data, _ in self.batched], self._free, [data for data, _ in self.contracted]
        width = math.prod(self.data_shape[i] for i in order[2])
        return x.transpose([i for part in order for i in part]).reshape(*self._groups, self.rows, width)

    def linear(self, x: Array, matrix: Array) -> Array:
        """The product with another matrix (..., d_in, k), as rows (..., n, k)."""
        return jnp.matmul(self.inputs(x), matrix, precision=self.precision, preferred_element_type=self.preferred)

    def outputs(self, y: Array) -> Array:
        """Result -> rows."""
        return y.transpose(self._layout()).reshape(*self._groups, self.rows, -1)

    def restore(self, rows: Array) -> Array:
        """Rows -> result (inverse of `outputs`)."""
        layout = self._layout()
        batch = [self.data_shape[data] for data, _ in self.batched]
        shape = (*batch, *(self.data_shape[i] for i in self._free), *(self.view.shape[i] for i in self._columns))
        return rows.reshape(shape).transpose([layout.index(i) for i in range(len(layout))]).astype(self.dtype)

    def input_moments(self, x: Array, kept: Bool[Array, " n"] | None, dtype: Any) -> moments.Moments:
        """Moments of the rows."""
        return moments.from_rows(self.inputs(x), kept=kept, dtype=dtype)

    def _layout(self) -> list[int]:
        """Where the result keeps (batch, data free, columns in the order of the leaf)."""
        b, f, c = len(self.batched), len(self._free), len(self._columns)
        place = {axis: i for i, axis in enumerate(sorted(self._columns))}
        data, kernel = (b, b + f) if self.data_side == 0 else (b + c, b)
        return [*range(b), *range(data, data + f), *(kernel + place[axis] for axis in self._columns)]


@dataclasses.dataclass(frozen=True)
class Conv:
    """`conv_general_dilated` of data with a kernel; patches are rows."""

    view: View
    data_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    params: Any
    dtype: Any

    kind = "conv"
    data_side = 0
    batched = ()

    @classmethod
    def of(cls, eqn: Any, view: View, part: Part | None = None) -> "Conv":
        """Read one equation whose right operand is the view."""
        data, out = eqn.invars[0].aval, eqn.outvars[0].aval
        shapes = (sizes(part.data), sizes(part.result)) if part else (data.shape, out.shape)
        return cls(view, shapes[0], shapes[1], eqn.params, out.dtype)

    @property
    def precision(self) -> Any:
        """Precision of the convolution."""
        return self.params["precision"]

    @property
    def _numbers(self) -> lax.ConvDimensionNumbers:
        return self.params["dimension_numbers"]

    @property
    def groups(self) -> int:
        """Channel groups."""
        return self.params["feature_group_count"]

    @property
    def _window(self) -> tuple[int, ...]:
        return tuple(self.view.shape[i] for i in self._numbers.rhs_spec[2:])

    @property
    def rows(self) -> int:
        """Output positions of all samples in one evaluation."""
        return math.prod(self.out_shape) // self.out_shape[self._numbers.out_spec[1]]

    @property
    def _geometry(self) -> dict[str, Any]:
        p = self.params
        return {
            "strides": p["window_strides"],
            "padding": p["padding"],
            "dilation": p["rhs_dilation"],
            "input_dilation": p["lhs_dilation"],
            "groups": self.groups,
        }

    @property
    def reads(self) -> tuple:
        """What is done to the data operand; equal for products that can share a Gram."""
        return "conv", self._window, self._numbers.lhs_spec, *map(tuple, list(self._geometry.values())[:4]), self.groups

    def matrix(self) -> tuple[Key, tuple]:
        """The key, and the steps from the leaf to the matrix (*stack, *groups, d_in, d_out)."""
        out, into, *space = self._numbers.rhs_spec
        n = len(self.view.stack)
        *rows, (channels, stride) = [self.view.axes[n + i] for i in (*space, into, out)]
        wide = channels // self.groups
        groups = ((self.groups, stride * wide),)
        parts = [views.merged(part) for part in (groups, tuple(rows), ((wide, stride),))]
        hwio = views.transpose(self.view, (*space, into, out))
        key = Key(self.view.leaf, self.view.offset, self.view.axes[:n], *parts)
        return key, (*hwio.steps, ("patches", (self._window, self.groups, n)))

    def inputs(self, x: Array) -> Array:
        """Data operand -> rows of patches."""
        rows = convolution.patches(self._last(x), self._window, **self._geometry)
        lead = rows.shape[:1] if self.groups > 1 else ()
        return rows.reshape(*lead, -1, rows.shape[-1])

    def linear(self, x: Array, matrix: Array) -> Array:
        """The convolution with another matrix (..., d_in, k), as rows (..., n, k)."""
        kernel = convolution.matrix_kernel(matrix, self._window, groups=self.groups)
        names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count")
        options = {name: self.params[name] for name in (*names, "precision", "preferred_element_type")}
        n = kernel.ndim
        last = 0, n - 1, *range(1, n - 1)
        numbers = lax.ConvDimensionNumbers(last, (n - 1, n - 2, *range(n - 2)), last)
        return self._rows(lax.conv_general_dilated(self._last(x), kernel, dimension_numbers=numbers, **options))

    def outputs(self, y: Array) -> Array:
        """Result -> rows."""
        batch, channel, *space = self._numbers.out_spec
        return self._rows(y.transpose(batch, *space, channel))

    def restore(self, rows: Array) -> Array:
        """Rows -> result (inverse of `outputs`)."""
        order = self._numbers.out_spec[0], *self._numbers.out_spec[2:], self._numbers.out_spec[1]
        rows = jnp.moveaxis(rows, 0, 1) if self.groups > 1 else rows
        y = rows.reshape([self.out_shape[i] for i in order])
        return y.transpose([order.index(i) for i in range(len(order))]).astype(self.dtype)

    def input_moments(self, x: Array, kept: Bool[Array, " n"] | None, dtype: Any) -> moments.Moments:
        """Moments of the rows, a few samples at a time, so that the patches of a whole batch never exist."""
        axis = self._numbers.lhs_spec[0]
        samples = x.shape[axis]
        width = math.prod(self._window) * self.data_shape[self._numbers.lhs_spec[1]]
        fit = max(1, PATCH_BYTES * samples // (self.rows * width * jnp.dtype(dtype).itemsize))
        size = max(size for size in range(1, samples + 1) if samples % size == 0 and size <= fit)

        def part(x: Array, kept: Array | None) -> moments.Moments:
            return moments.from_rows(self.inputs(x), kept=kept, dtype=dtype)

        if size == samples:
            return part(x, kept)
        images = jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)
        chunks = images, None if kept is None else kept.reshape(len(images), -1)
        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(part, *jax.tree.map(lambda a: a[0], chunks)))
        return lax.scan(lambda total, chunk: (moments.merge(total, part(*chunk)), None), start, chunks)[0]

    def _last(self, x: Array) -> Array:
        batch, channel, *space = self._numbers.lhs_spec
        return x.transpose(batch, *space, channel)

    def _rows(self, y: Array) -> Array:
        """Channels-last result -> rows."""
        rows = y.reshape(-1, self.groups, y.shape[-1] // self.groups)
        return jnp.moveaxis(rows, 1, 0) if self.groups > 1 else rows[:, 0]


Product = Dense | Conv
