"""Penalties that make all columns of a crossbar equally sparse, so that its converters need fewer bits.

The densest column of a crossbar decides the bits of its converters, and ordinary pruning leaves one dense column in
most of them. DUB ("Pruning for improved ADC efficiency in crossbar-based analog in-memory accelerators", Ibrayev et
al., 2024, arXiv 2403.13082) trains with the variance of the columns' density within each tile, lets it push only on
columns that are denser than the mean (the gate), and then zeroes the smallest weights tile by tile (`snapping`).

Kernels are HWIO, or (d_in, d_out) of dense layers; `kernels` reads them from any network, `write` puts them back. A
tile is that of `core.convolution.tiles`: a column is one output channel's part of `rows` inputs.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import trees
from subspace_jax.core import capture, checks, convolution, losses
from subspace_jax.typing import ApplyFn, Array, Float, PyTree, Variables

SMALLEST = 1e-6  # added to the sum of squares: a column of zeros has density 0

Kernels = Mapping[str, Float[Array | np.ndarray, "..."]]
Kind = Literal["gated", "ungated", "group_lasso"]
Structure = Literal["tile", "row", "column"]


def mapped(apply: ApplyFn, variables: Variables, x: Any, *, rows: int, dense: bool = False) -> capture.Layers:
    """The layers of a network that lie in crossbars, in the order of execution: its convolutions.

    A grouped convolution fills the crossbar only as far as one group reaches: that is warned of.

    Args:
      apply: (variables, x) -> outputs.
      variables: of the network, or their shapes.
      x: a batch; only its shape is used.
      rows: inputs of one crossbar, a power of two, and as many outputs.
      dense: dense layers too, the classifier among them.

    Raises:
      ValueError: rows that are no power of two above 1; no such layer, with the names of all others.
    """
    check_rows(rows)
    table = capture.layers(apply, variables, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))
    kinds = ("conv", "dense") if dense else ("conv",)
    found = {path: own for path, own in table.items() if own.kind in kinds and not own.stack and own.writes}
    if not found:
        raise ValueError(f"no convolution lies in a crossbar; the layers are {', '.join(table)}: include dense ones.")
    if wasted := [path for path, own in found.items() if own.groups > 1 and own.d_in < rows]:
        warnings.warn(
            f"{wasted[0]!r} has groups of {found[wasted[0]].d_in} inputs, less than the {rows} rows of a crossbar, "
            "most of which stay empty.",
            stacklevel=2,
        )
    return capture.Layers(found, table.other)


def kernels(layers: capture.Layers, variables: Variables) -> dict[str, Array]:
    """{path: kernel} of these layers in the layout of this module; differentiable."""
    return {
        path: convolution.matrix_kernel(matrix, layers[path].window, groups=layers[path].groups)
        for path, matrix in capture.kernels(layers, variables).items()
    }


def write(layers: capture.Layers, variables: Variables, changed: Kernels) -> Variables:
    """The variables with these kernels in place of their own."""
    matrices = {
        path: convolution.kernel_matrix(jnp.asarray(kernel), groups=layers[path].groups)
        for path, kernel in changed.items()
    }
    return capture.write_kernels(layers, variables, matrices)


def hoyer_sq(w: Float[Array | np.ndarray, "*columns rows"]) -> Float[Array, "*columns"]:
    """Squared Hoyer measure (sum |w|)^2 / (sum w^2 + 1e-6) over the last axis: a count of entries with a gradient.

    k entries of one size give k, whatever the size; in general 1 <= h <= rows. Below a sum of squares of about 1e-2 the
    added term shows, and a column of zeros has h = 0.
    """
    return jnp.abs(w).sum(-1) ** 2 / ((w**2).sum(-1) + SMALLEST)


@jax.custom_vjp
def gate(h: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The identity; what comes back is max(cotangent, 0), so that no column is made denser. Reverse mode only."""
    return h


gate.defvjp(lambda h: (h, None), lambda _, cotangent: (jnp.maximum(cotangent, 0),))


def variance_penalty(
    kernels: Kernels, rows: int, *, gated: bool = True, normalised: bool = False, padded: bool = False
) -> Float[Array, ""]:
    """Sum over all tiles of the variance (over n - 1) of the columns' `hoyer_sq`.

    Without the gate the variance falls as well by making sparse columns denser, which saves no bit. A tile of one
    column has none.

    Args:
      kernels: any tree whose leaves are kernels.
      rows: of a crossbar, a power of two above 1.
      gated: push only on columns that are denser than their tile's mean.
      normalised: over the number of tiles and rows^2, so that a strength serves networks and crossbars of any size.
      padded: count the empty columns of the last tiles as columns of density 0, as the authors' code does.

    Raises:
      ValueError: as `check_rows`; no kernel.
    """
    total, count = jnp.zeros(()), 0
    for blocks, there in _tiles(kernels, rows):
        h, columns = hoyer_sq(blocks), np.ones(there.shape[:-1], bool) if padded else there.any(-1)
        h = gate(h) if gated else h
        number = np.maximum(columns.sum(-1, keepdims=True), 1)
        mean = jnp.where(columns, h, 0).sum(-1, keepdims=True) / number
        spread = jnp.where(columns, (h - mean) ** 2, 0).sum(-1)
        total, count = total + (spread / np.maximum(number[..., 0] - 1, 1)).sum(), count + number.size
    return total / (count * rows**2) if normalised else total


def group_lasso(kernels: Kernels, rows: int, *, structure: Structure = "tile") -> Float[Array, ""]:
    """Sum of the Euclidean norms of all tiles, or of their rows or columns: what empties whole groups.

    Raises:
      ValueError: as `check_rows`; no kernel; an unknown structure.
    """
    axes = {"tile": (-1, -2), "row": (-2,), "column": (-1,)}
    if structure not in axes:
        raise ValueError(f"groups are tile, row or column; got {structure!r}.")
    total = jnp.zeros(())
    for blocks, _ in _tiles(kernels, rows):
        square = (blocks**2).sum(axes[structure])
        total += jnp.where(square == 0, 0.0, jnp.sqrt(jnp.where(square == 0, 1.0, square))).sum()
    return total


def objective(train_apply: Callable, layers: capture.Layers, rows: int, *, kind: Kind = "gated") -> Callable:
    """The objective of `training.minimise`: mean cross-entropy + constants["strength"] penalty; each call a new one.

    Empty columns count, as in the authors' code.

    Args:
      train_apply: (variables, x, key) -> (logits, new batch_stats).
      layers: from `mapped`.
      rows: of a crossbar.
      kind: the variance with or without its gate, or the group lasso over tiles.

    Raises:
      ValueError: an unknown kind.
    """
    penalty = penalty_of(kind)

    def loss(params, batch_stats, batches, constants, key):
        variables = {"params": params, "batch_stats": batch_stats}
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        logits, batch_stats = train_apply(variables, x, key)
        added = penalty(kernels(layers, variables), rows)
        total = losses.mean(losses.softmax_cross_entropy(logits, y)) + constants["strength"] * added
        return total, batch_stats

    return loss


def penalty_of(kind: Kind) -> Callable:
    """(kernels, rows) -> the penalty of that name.

    Raises:
      ValueError: an unknown kind.
    """
    if kind == "group_lasso":
        return group_lasso
    if kind not in ("gated", "ungated"):
        raise ValueError(f"penalties are gated, ungated and group_lasso; got {kind!r}.")
    return lambda kernels, rows: variance_penalty(kernels, rows, gated=kind == "gated", padded=True)


class MaskState(NamedTuple):
    """{path: entries that may move}."""

    masks: dict[str, Any]


def masked(paths: tuple[str, ...]) -> optax.GradientTransformation:
    """Entries of these leaves that are zero at `init` are zero after every step. It comes LAST in the chain.

    The update of such an entry takes back whatever it holds, so that momentum, decay or another transform before this
    one cannot revive it. Masks are those of the parameters and lie in the state: one program serves all of them.

    Args:
      paths: of the leaves, in the tree that is trained.

    Raises:
      ValueError: an update without parameters. `init` raises KeyError for a path that is not there.
    """

    def init(params: PyTree) -> MaskState:
        return MaskState({path: leaf != 0 for path, leaf in trees.select(params, paths).items()})

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, MaskState]:
        if params is None:
            raise ValueError("masked takes back what an entry holds: give update the parameters too.")
        checks.check_updates(updates, params)
        held, own = trees.select(params, paths), trees.select(updates, paths)
        kept = {path: jnp.where(mask, own[path], -held[path]) for path, mask in state.masks.items()}
        return trees.update(updates, kept), state

    return optax.GradientTransformation(init, update)


def check_rows(rows: int) -> None:
    """Refuse crossbars whose bits would not be whole.

    Raises:
      ValueError: rows that are no power of two; a single one, whose tiles have one column and no variance.
    """
    if rows < 1 or rows & (rows - 1):
        raise ValueError(f"rows of a crossbar are a power of two, such as 16 or 64; got {rows}.")
    if rows == 1:
        raise ValueError("a crossbar of 1 row has one column, and one column no variance: take 2 rows or more.")


def _tiles(kernels: Kernels, rows: int) -> list[tuple[Array, np.ndarray]]:
    check_rows(rows)
    leaves = jax.tree.leaves(kernels)
    if not leaves:
        raise ValueError("there is no kernel to prune.")
    return [convolution.tiles(jnp.asarray(leaf), rows) for leaf in leaves]
