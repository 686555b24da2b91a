"""Second moments of rows: all that is kept of the activations.

Rows X (n, d) stream by a batch at a time: G += X'X, total += X'1, count += n. Moments add: over batches, over devices
(`psum`), over files saved years apart (`merge`). Nothing here grows with n.

Of complex rows G = X^H X, Hermitian: X' stands for the conjugate transpose throughout the library.
"""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Bool, Float, Inexact, Num, PyTree

Floats = Inexact[Array, "..."] | Inexact[np.ndarray, "..."]


class Moments(NamedTuple):
    """Uncentred sums over rows; leading axes are the length of a scan, then the groups of a convolution.

    Attributes:
      gram: X'X, (..., d, d).
      total: sum of the rows, (..., d).
      count: number of rows per leading entry, ().
    """

    gram: Floats
    total: Floats
    count: Float[Array, "..."] | Float[np.ndarray, "..."] | float


def zeros(*shape: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Moments:
    """Moments of zero rows; the shape is (..., d)."""
    for size in shape:
        checks.check_count("the size of an axis", size, 0)
    count = jnp.zeros((), jnp.finfo(dtype).dtype)  # real, of complex rows too
    return Moments(jnp.zeros((*shape, shape[-1]), dtype), jnp.zeros(shape, dtype), count)


def from_rows(
    rows: Num[Array, "*lead n d"], *, kept: Bool[Array, " n"] | None = None, dtype: jax.typing.DTypeLike = jnp.float32
) -> Moments:
    """Moments of one batch of rows, at matmul precision "highest" (TF32 and bfloat16 destroy small energies).

    Args:
      rows: X, (..., n, d); n = 0 gives zeros.
      kept: rows to count; all when None.
      dtype: of the sums, float32 or float64; those of complex rows are complex64 or complex128. The wider ones need
        `jax.enable_x64(True)`.

    Raises:
      ValueError: float64 outside `jax.enable_x64(True)`; rows that are not finite (inside `jit` the moments are NaN).
    """
    checks.check_axes("rows", rows, 2)
    dtype = check_dtype(dtype)
    rows = rows.astype(of_rows(dtype, rows.dtype))
    count = jnp.asarray(rows.shape[-2], dtype)
    if kept is not None:
        rows, count = jnp.where(kept[:, None], rows, 0), kept.sum(dtype=dtype)
    checks.check_finite("rows", rows)
    gram = jnp.einsum("...nd,...ne->...de", rows.conj(), rows, precision="highest")
    return Moments(gram, rows.sum(-2), count)


def merge(first: PyTree, *others: PyTree) -> PyTree:
    """Moments of all rows together; also of dicts {path: Moments} with the same layers and sizes.

    float64 on the host stays float64: NumPy adds NumPy. NaN stays NaN, which every use of the moments refuses.

    Raises:
      ValueError: layers or sizes that differ.
    """
    for other in others:
        if _shapes(first) != _shapes(other):
            raise ValueError(f"moments of different layers do not add: {_shapes(first)} and {_shapes(other)}.")
        first = jax.tree.map(operator.add, first, other)
    return first


def psum(moments: PyTree, axis_name: str) -> PyTree:
    """Sum over the devices of a mapped axis; call it once, after the last batch."""
    return jax.lax.psum(moments, axis_name)


def mean(moments: Moments) -> Floats:
    """Mean row (..., d); zero when no row was seen."""
    return moments.total / _at_least_one(moments.count)


def covariance(moments: Moments) -> Floats:
    """Centred G / n - mean' mean, (..., d, d); zero when no row was seen."""
    centre = mean(moments)
    return moments.gram / _at_least_one(moments.count) - centre.conj()[..., :, None] * centre[..., None, :]


def check_dtype(dtype: jax.typing.DTypeLike) -> np.dtype:
    """The dtype itself; ValueError where JAX would silently give float32 for float64."""
    dtype = np.dtype(dtype)
    if dtype != jax.dtypes.canonicalize_dtype(dtype):
        raise ValueError(f"{dtype} sums need `with jax.enable_x64(True):` around the call.")
    return dtype


def of_rows(dtype: jax.typing.DTypeLike, rows: jax.typing.DTypeLike) -> np.dtype:
    """The dtype of sums over rows of another dtype: its complex counterpart where the rows are complex."""
    is_complex = jnp.issubdtype(rows, jnp.complexfloating)
    return np.dtype(jnp.promote_types(dtype, jnp.complex64) if is_complex else dtype)


@checks.on_host
def wide(values: Any) -> np.ndarray:
    """The values on the host in float64, complex ones in complex128: what every edit outside training computes in."""
    return np.asarray(values, np.complex128 if np.iscomplexobj(values) else np.float64)


def _at_least_one(count: Floats | float) -> Floats | float:
    return count + (count == 0)


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(np.shape, tree)
