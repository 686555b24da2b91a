"""Subspaces of layer inputs: from second moments to bases and projectors.

A Gram matrix G = X'X (..., d, d), uncentred, is all that is ever needed of the activations X (n, d);
`moments.covariance` gives the centred one. Of complex activations G = X^H X, bases are complex, projectors and
resolvents Hermitian: X' stands for the conjugate transpose. Bases have a fixed capacity and an integer rank, so that
they are static under `jit` and can be saved before the first task. Leading axes (scanned layers, groups) are a batch.

Precision follows the input. Arrays of JAX are computed in their own dtype, jit-safe: float32 inside a training step.
A float64 NumPy array (what `capture.collect(..., dtype=float64)` gives), or a complex128 one, is computed in it on the
device, whatever `jax_enable_x64` says, and comes back as NumPy: every edit documented as lossless takes this route.
Beside a traced argument it is an array of JAX like any other.

NaN and infinities raise ValueError. Inside `jit`, where values cannot be checked, such a Gram gives a basis that is NaN
in every new column, all counted in its rank: what is projected with it is NaN, never silently unprotected.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.moments import of_rows
from subspace_jax.typing import Array, Float, Inexact, Int

Square = Inexact[Array, "*lead d d"] | Inexact[np.ndarray, "*lead d d"]
Rows = Inexact[Array, "*lead n d"] | Inexact[np.ndarray, "*lead n d"]
Scalar = float | int | Float[Array, ""]
Share = Float[Array, "*lead"] | Float[np.ndarray, "*lead"]

WIDE = (np.float64, np.complex128)
EIGH_FLOOR = {"float32": 1e-6, "float64": 1e-12}  # relative energy below which an eigenpair is noise
SAME_DIRECTION = {"float32": 1e-3, "float64": 1e-6}  # residual norm below which a unit vector is in the span already
REACHED = 1e-6  # shortfall in the share of energy that is due to rounding a basis to float32
TIE = 1e-12  # shares of float64 sums that differ by less are equal

Rule = Literal["reach", "below", "at_most"]
Eigenvalues = Float[Array, "*lead d"] | Float[np.ndarray, "*lead d"]


class Subspace(NamedTuple):
    """Orthonormal columns; columns at and beyond `rank` are zero.

    Attributes:
      basis: (..., d, capacity).
      rank: int32, (...).
    """

    basis: Inexact[Array, "*lead d capacity"] | Inexact[np.ndarray, "*lead d capacity"]
    rank: Int[Array, "*lead"] | Int[np.ndarray, "*lead"]


def _in_own_precision(fn: Callable) -> Callable:
    """Wide NumPy in, wide NumPy out, anything else is left alone; matrices that are not finite are refused."""
    names = tuple(inspect.signature(fn).parameters)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if isinstance(value, Subspace) or np.ndim(value) >= 2:
                checks.check_finite(name, value, remedy="the network diverged, or it was given such a sample")
        if not any(isinstance(x, np.ndarray) and x.dtype in WIDE for x in jax.tree.leaves(args)):
            return fn(*args, **kwargs)
        if not all(map(checks.is_known, jax.tree.leaves((args, kwargs)))):
            return fn(*_on_device(args), **kwargs)
        with jax.enable_x64(True), jax.ensure_compile_time_eval():  # the host's numbers are known inside `jit` too
            return jax.tree.map(np.asarray, fn(*_on_device(args), **kwargs))

    return call


def _on_device(args: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, args)


@_in_own_precision
def from_gram(gram: Square, *, energy: float | int, capacity: int | None = None, rows: int | None = None) -> Subspace:
    """Smallest leading eigenspace that keeps the share `energy` of tr(gram).

    `energy` is the papers' tau or epsilon (GPM, eq. 5). Energies below 1e-6 (float32) or 1e-12 (float64)
    of the largest are noise and are never kept, so that `energy=1` gives the span that this precision resolves.

    Args:
      gram: X'X of layer inputs, symmetric positive semi-definite.
      energy: kept share of the squared singular values of X, in [0, 1].
      capacity: columns to allocate; d when None. What does not fit is left out, smallest energy first.
      rows: n, the number of rows of X, if known: for n < d / 2 only their span is decomposed, which is cheaper.

    Returns:
      The subspace; rank 0 when energy or gram is zero.

    Raises:
      ValueError: energy outside [0, 1]; a gram that is not finite.
    """
    if not 0 <= energy <= 1:
        raise ValueError(f"energy is the kept share of squared singular values, in [0, 1]; got {energy}.")
    if capacity is not None:
        checks.check_count("capacity", capacity, 0)
    return _from_gram(gram, energy, capacity=capacity, rows=_few(rows, gram))


@functools.partial(jax.jit, static_argnames=("capacity", "rows"))
def _from_gram(gram: Any, energy: Any, *, capacity: int | None, rows: int | None) -> Subspace:
    values, vectors = _eigh(lambda v: _multiply(gram, v), gram, lambda: gram, rows)
    values = jnp.where(values <= EIGH_FLOOR[real(gram)] * values[..., :1], 0.0, values)  # NaN stays
    kept_before = jnp.cumsum(values, -1) - values
    # at energy 1 rounding of the sums must not decide
    keep = (values > 0) & ((kept_before < energy * values.sum(-1, keepdims=True)) | (energy == 1))
    return _leading(vectors, keep | jnp.isnan(values), capacity)


@_in_own_precision
def from_rows(rows: Rows, *, energy: float | int, capacity: int | None = None) -> Subspace:
    """`from_gram(rows' rows)` through the smaller of the two Grams: cheaper with fewer rows than features."""
    n, d = rows.shape[-2:]
    if n >= d:
        return from_gram(_multiply(adjoint(rows), rows), energy=energy, capacity=capacity)
    left = from_gram(_multiply(rows, adjoint(rows)), energy=energy)
    columns = _multiply(adjoint(rows), left.basis)
    norms = jnp.linalg.norm(columns, axis=-2, keepdims=True)
    basis = columns / jnp.where(norms > 0, norms, 1.0)
    return _leading(basis, _first(left.rank, n), capacity or d)


@_in_own_precision
def union(first: Subspace, second: Subspace, *, capacity: int | None = None) -> Subspace:
    """The span of both; the columns of `first` come first, unchanged.

    Args:
      first: kept as it is, if it fits.
      second: adds the directions that `first` does not have.
      capacity: columns to allocate; d when None. What does not fit is left out.
    """
    new = second.basis
    for _ in range(2):  # twice is enough: one pass loses orthogonality to rounding
        new = new - _multiply(first.basis, _multiply(adjoint(first.basis), new))
    vectors, lengths, _ = jnp.linalg.svd(new, full_matrices=False)
    columns = jnp.concatenate([first.basis, vectors], -1)
    added = ~(lengths <= SAME_DIRECTION[real(new)])  # NaN too
    keep = jnp.concatenate([_first(first.rank, first.basis.shape[-1]), added], -1)
    return _leading(columns, keep, capacity)


@_in_own_precision
def grow(space: Subspace, gram: Square, *, energy: Scalar | Share, rows: int | None = None) -> Subspace:
    """The space, extended by the fewest directions with which its share of tr(gram) reaches `energy` (GPM, eq. 9).

    The new columns are the leading eigenvectors of (I - P) G (I - P), in their order; the old ones stay bit for bit.
    Nothing is added where the share is reached to within 1e-6, and energies below 1e-6 (float32 Gram) or 1e-12
    (float64) of tr(gram) are noise, as in `from_gram`. Computed in the precision of the space: use float64
    outside of training, where directions of small new energy are resolved too.

    Args:
      space: its capacity stays; new directions that do not fit are left out.
      gram: X'X of the new rows that the space has to cover.
      energy: share of tr(gram) to reach, in [0, 1]; one number, or one per leading entry.
      rows: as in `from_gram`.
    """
    if checks.is_known(energy) and not ((np.asarray(energy) >= 0) & (np.asarray(energy) <= 1)).all():
        raise ValueError(f"energy is the share of tr(gram) to reach, in [0, 1]; got {energy}.")
    return _grow(space, gram, energy, rows=_few(rows, gram))


@functools.partial(jax.jit, static_argnames="rows")
def _grow(space: Subspace, gram: Any, energy: Any, *, rows: int | None) -> Subspace:
    floor, gram = EIGH_FLOOR[real(gram)], gram.astype(of_rows(real(space.basis), gram.dtype))

    def outside(v: Any) -> Array:
        return v - _multiply(space.basis, _multiply(adjoint(space.basis), v))

    values, vectors = _eigh(
        lambda v: outside(_multiply(gram, outside(v))), gram, lambda: outside(adjoint(outside(gram))), rows
    )
    vectors = outside(vectors)  # rounding tilts those of small values
    vectors = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-2, keepdims=True), 0.5)  # ~0 if inside
    total = jnp.trace(gram, axis1=-2, axis2=-1).real[..., None]
    values = jnp.where(values <= floor * total, 0.0, values)
    before = energy_share(space, gram)[..., None] * total + jnp.cumsum(values, -1) - values
    energy = jnp.broadcast_to(energy, gram.shape[:-2])[..., None]
    new = (values > 0) & ((before < (energy - REACHED) * total) | (energy == 1)) | jnp.isnan(values)
    old = _first(space.rank, space.basis.shape[-1])
    columns = jnp.concatenate([space.basis, vectors], -1)
    return _leading(columns, jnp.concatenate([old, new], -1), space.basis.shape[-1])


@_in_own_precision
@jax.jit
def complement(space: Subspace) -> Subspace:
    """All directions orthogonal to the space: rank d - rank."""
    values, vectors = jnp.linalg.eigh(projector(space))  # eigenvalues 0, of the complement, come first
    d = vectors.shape[-1]
    return _leading(vectors, _first(d - space.rank, d) | jnp.isnan(values), None)


@_in_own_precision
def projector(space: Subspace) -> Square:
    """P = M M': zero columns add nothing, so no mask is needed."""
    return _multiply(space.basis, adjoint(space.basis))


@_in_own_precision
@jax.jit
def energy_share(space: Subspace, gram: Square) -> Float[Array, "*lead"] | Float[np.ndarray, "*lead"]:
    """Share tr(P G) / tr(G) of the energy that lies in the space, in [0, 1]; 0 for a gram without energy."""
    total = jnp.trace(gram, axis1=-2, axis2=-1).real
    inside = jnp.sum(space.basis.conj() * _multiply(gram, space.basis), (-2, -1)).real
    return inside / jnp.where(total > 0, total, 1.0)


@_in_own_precision
def resolvent(gram: Square, alpha: Scalar) -> Square:
    """Soft projector a G ((a - 1) G + I)^-1 with G = gram / tr(gram), by one Cholesky solve.

    Eigenvalue p becomes a p / ((a - 1) p + 1): a = 0 gives zero, a = 1 gives G itself, a -> inf the projector onto the
    row space. A gram without energy gives zero. Differentiable in alpha, and `vmap` over it is a grid. In float32 good
    to 1e-4 at a = 1e4, 1e-2 at a = 1e6: use float64 above.

    Args:
      gram: X'X of layer inputs, symmetric positive semi-definite.
      alpha: strength a >= 0.

    Raises:
      ValueError: a negative or NaN alpha (where it is a plain number).
    """
    if isinstance(alpha, float | int) and not alpha >= 0:
        raise ValueError(f"alpha is the strength of the projector, at least 0; got {alpha}.")
    return _soften(gram, alpha)


@jax.jit
def _soften(gram: Array, alpha: Any) -> Array:
    total = jnp.trace(gram, axis1=-2, axis2=-1).real[..., None, None]
    share = gram / jnp.where(total > 0, total, 1.0)
    strength = jnp.where(alpha > 0, alpha, 1.0).astype(gram.dtype)
    system = (strength - 1) * share + jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    solved = strength * jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system), share)
    return jnp.where(alpha > 0, (solved + adjoint(solved)) / 2, 0.0)


def significant_dims(eigenvalues: Eigenvalues, *, tau: float | int, rule: Rule = "reach") -> Int[np.ndarray, "*lead"]:
    """How many leading eigenvalues it takes for the share tau of their sum; three papers, three ways to count.

    With c_i the share of the i largest (c_0 = 0):
      "reach": the i with c_{i-1} < tau, the smallest number that reaches tau (Garg et al. 2020);
      "below": the i with c_i < tau, one fewer (Saha et al. 2021);
      "at_most": the i with c_i <= tau, which counts every zero eigenvalue at tau = 1 (Chakraborty et al. 2020).
    Counted in float64 on the host, not for `jit`; shares that are equal up to rounding are equal. Neither the scale nor
    the order of the eigenvalues matters.

    Args:
      eigenvalues: of a covariance or a Gram, (..., d), in any order; negative ones are rounding and count as 0.
      tau: in (0, 1]; with "reach", 1 gives the numerical rank.
      rule: see above.

    Returns:
      The count of each leading entry, 0 ... d; 0 where all eigenvalues are 0.

    Raises:
      ValueError: tau outside (0, 1], another rule, eigenvalues that are not finite; a call inside `jit`.

    >>> [int(significant_dims(np.array([6.0, 3.0, 1.0]), tau=0.9, rule=rule)) for rule in ("reach", "below", "at_most")]
    [2, 1, 2]
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau is a share of the sum of the eigenvalues, in (0, 1]; got {tau}.")
    if rule not in ("reach", "below", "at_most"):
        raise ValueError(f'rule is one of "reach", "below", "at_most"; got {rule!r}.')
    values, total = _spectrum(eigenvalues)
    share = np.cumsum(values, -1) / np.where(total > 0, total, 1.0)
    if rule == "reach":
        share = np.concatenate([np.zeros_like(share[..., :1]), share[..., :-1]], -1)
    counted = share <= tau + TIE if rule == "at_most" else share < tau - TIE
    return np.asarray((counted & (total > 0)).sum(-1), np.int32)


def participation_ratio(eigenvalues: Eigenvalues) -> Float[np.ndarray, "*lead"]:
    """(sum e)^2 / sum e^2, a count without threshold: d for equal eigenvalues, 1 for a single one, 0 for none.

    Where one dominating channel makes every tau loose, this is near 1 and says so.
    """
    values, total = _spectrum(eigenvalues)
    squares = (values**2).sum(-1)
    return np.asarray(total[..., 0] ** 2 / np.where(squares > 0, squares, 1.0))


def _spectrum(eigenvalues: Eigenvalues) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues in descending order, relative to the largest, so that squares neither over- nor underflow; sums."""
    checks.check_host("a count of eigenvalues", eigenvalues)
    checks.check_finite("eigenvalues", eigenvalues, remedy="the network diverged, or it was given such a sample")
    values = -np.sort(-np.maximum(checks.as_real("eigenvalues", eigenvalues), 0.0), -1)
    largest = values.max(-1, keepdims=True, initial=0.0)
    values = values / np.where(largest > 0, largest, 1.0)
    return values, values.sum(-1, keepdims=True)


def _few(rows: int | None, gram: Any) -> int | None:
    """The number of rows where it makes the decomposition cheaper; each number is compiled anew."""
    return None if rows is None or 2 * rows >= gram.shape[-1] else int(rows)


def _eigh(operator: Callable, gram: Any, matrix: Callable, rows: int | None) -> tuple[Array, Array]:
    """Eigenpairs of a symmetric operator, largest first: all d of matrix(), or the `rows` that can be non-zero."""
    lead, d = gram.shape[:-2], gram.shape[-1]
    if rows is not None:  # a Gram of n rows maps n random directions onto its whole range
        probes = jax.random.normal(jax.random.key(0), (d, rows), gram.dtype)
        span, _ = jnp.linalg.qr(operator(jnp.broadcast_to(probes, (*lead, d, rows))))
        values, vectors = jnp.linalg.eigh(_multiply(adjoint(span), operator(span)))
        vectors = _multiply(span, vectors)
    else:
        values, vectors = jnp.linalg.eigh(matrix())
    finite = jnp.isfinite(gram).all((-2, -1))[..., None]
    values, vectors = jnp.where(finite, values, jnp.nan), jnp.where(finite[..., None], vectors, jnp.nan)
    return values[..., ::-1], vectors[..., ::-1]


def adjoint(matrix: Any) -> Any:
    """The conjugate transpose (..., n, d) -> (..., d, n): the transpose of real matrices."""
    return matrix.mT.conj()


def real(matrix: Any) -> str:
    """The number format of a matrix, or of the real parts of a complex one: "float32" or "float64"."""
    return str(jnp.finfo(matrix.dtype).dtype)


def _multiply(a: Any, b: Any) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _first(count: Any, width: int) -> Array:
    """True for the first `count` of `width` columns."""
    return jnp.broadcast_to(jnp.arange(width), (*count.shape, width)) < count[..., None]


def _leading(columns: Array, keep: Array, capacity: int | None) -> Subspace:
    """The kept columns moved to the front, in their order, cut or padded to the capacity (d when None)."""
    capacity = capacity or columns.shape[-2]
    order = jnp.argsort(~keep, axis=-1, stable=True)[..., None, :]
    basis = jnp.take_along_axis(jnp.where(keep[..., None, :], columns, 0.0), order, -1)[..., :capacity]
    padding = [(0, 0)] * (basis.ndim - 1) + [(0, capacity - basis.shape[-1])]
    return Subspace(jnp.pad(basis, padding), jnp.minimum(keep.sum(-1), capacity).astype(jnp.int32))
