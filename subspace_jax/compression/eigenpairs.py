"""Eigenpairs of the Grams of a layer's inputs and outputs: solved once, then truncated at any energy or rank.

Everything that this package does to a kernel K (m, n) starts from the Grams of its inputs, G = X'X, and of its outputs
before the bias, K'GK. They are decomposed in float64 on the device, whatever `jax_enable_x64` says, and kept as NumPy.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture, checks, subspace
from subspace_jax.core.moments import Moments, wide
from subspace_jax.typing import Float, Inexact, Int, Params


class Spectrum(NamedTuple):
    """Eigenpairs of one Gram in descending order; those at the level of float64 rounding are zero.

    Attributes:
      basis: orthonormal columns, (..., d, d).
      energies: eigenvalues, the squared singular values of the rows, (..., d).
    """

    basis: Inexact[np.ndarray, "*lead d d"]
    energies: Float[np.ndarray, "*lead d"]


class Spectra(NamedTuple):
    """Spectra of one layer; leading axes are those of its kernel: the length of a scan, then groups.

    Attributes:
      inputs: of X'X, d = m.
      outputs: of (X K)'(X K), d = n.
      dtype: in which the Gram was summed, which limits its precision.
    """

    inputs: Spectrum
    outputs: Spectrum
    dtype: str


Measured = Mapping[str, Moments] | Mapping[str, Spectra]


def spectra(
    table: capture.Layers, params: Params, moments: Measured, *, layers: Iterable[str] | None = None
) -> dict[str, Spectra]:
    """Eigenpairs of the inputs and outputs of each layer: one solve for all layers that read the same rows.

    Every function of this package takes `moments` or this result, which saves repeated solves. It is valid for these
    parameters only: after an edit, collect moments again.

    Args:
      table: of the function that reads the parameters.
      params: its parameters.
      moments: of the inputs of the layers; about 20 rows per feature are recommended. Spectra are returned unchanged.
      layers: paths of the layers to solve; all of the moments when None.

    Raises:
      ValueError: moments or kernels that are not finite; fewer rows than features; a layer that is not in the table or
        the moments, whose outputs are all zero, or that packs queries, keys and values in one kernel.
    """
    checks.check_host("spectra", params, moments)
    paths = list(moments if layers is None else layers)
    for path in paths:
        _check(table, moments, path)
    kernels = capture.kernels(capture.Layers({path: table[path] for path in paths}, ()), params)
    inputs: dict[str, Spectrum] = {}
    found: dict[str, Spectra] = {}
    for path, kernel in kernels.items():
        sums = moments[path]
        if isinstance(sums, Moments):
            gram, shares = wide(sums.gram), table[path].shares
            inputs[shares] = inputs[shares] if shares in inputs else _solve(gram)
            sums = Spectra(inputs[shares], _solve(_outputs(path, gram, kernel, sums)), subspace.real(sums.gram))
        found[path] = sums
    return found


@checks.on_host
def rank_at(spectrum: Spectrum, energy: float) -> Int[np.ndarray, "*lead"]:
    """Dimension of the smallest leading subspace that keeps the share `energy`, by the rule of `subspace.from_gram`."""
    checks.check_finite("energies", spectrum.energies)
    checks.check_number("energy", energy, 0, 1)
    values = spectrum.energies
    before = np.cumsum(values, -1) - values
    # at energy 1 rounding of the sums must not decide
    keep = (values > 0) & ((before < energy * values.sum(-1, keepdims=True)) | (energy == 1))
    return np.asarray(keep.sum(-1), np.int32)


@checks.on_host
def leading(spectrum: Spectrum, rank: int | Int[np.ndarray, "*lead"]) -> Inexact[np.ndarray, "*lead d k"]:
    """The first columns of the basis, as many as the largest rank; an entry with a lower one has zeros there."""
    rank = np.asarray(rank)
    columns = np.arange(spectrum.energies.shape[-1]) < rank[..., None]
    return np.where(columns[..., None, :], spectrum.basis, 0.0)[..., : rank.max()]


@checks.on_host
def effective_rank(energies: Float[np.ndarray, "*lead d"]) -> Float[np.ndarray, "*lead"]:
    """exp(-sum p ln p) of the shares p of the energies: d for equal ones, 1 for one direction, 0 for no energy.

    A few channels with massive activations bring it, and the rank at a given energy, near 1: then use `search_energy`.
    """
    checks.check_finite("energies", energies)
    total = energies.sum(-1, keepdims=True)
    shares = energies / np.where(total > 0, total, 1.0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), 0.0)


def _check(table: capture.Layers, moments: Measured, path: str) -> None:
    """Refuse layers and moments whose rank would be meaningless."""
    if path not in table or path not in moments:
        there = ", ".join(name for name in table if name in moments)
        raise ValueError(f"no layer {path!r} in the table and the moments; there are {there or 'none'}.")
    layer, sums = table[path], moments[path]
    checks.check_finite(f"moments of {path!r}", sums, remedy="drop samples that are not finite, and measure again")
    if isinstance(sums, Moments) and float(sums.count) < layer.d_in:
        count = float(sums.count)
        raise ValueError(
            f"{path!r} saw {count:g} rows of {layer.d_in} features, which caps its rank at {count:g}: give at least "
            f"{layer.d_in} rows, better {20 * layer.d_in}."
        )
    if "qkv" in path.lower() and path == layer.leaf and layer.d_out > layer.d_in:
        raise ValueError(
            f"{path!r} packs queries, keys and values in one kernel: slice the kernel before the product, so that they "
            "are three layers."
        )


def _solve(gram: Inexact[np.ndarray, "*lead d d"]) -> Spectrum:
    with jax.enable_x64(True):
        values, vectors = (np.asarray(part)[..., ::-1] for part in jnp.linalg.eigh(gram))
    seen = values > subspace.EIGH_FLOOR["float64"] * values[..., :1]
    return Spectrum(np.where(seen[..., None, :], vectors, 0.0), np.where(seen, values, 0.0))


def _outputs(path: str, gram: np.ndarray, kernel: object, sums: Moments) -> np.ndarray:
    """K'GK; a layer whose outputs are zero up to rounding is refused."""
    kernel = wide(kernel)
    checks.check_finite(f"kernel of {path!r}", kernel, remedy="the network diverged")
    outputs = subspace.adjoint(kernel) @ gram @ kernel
    largest = np.trace(gram, axis1=-2, axis2=-1).real * (np.abs(kernel) ** 2).sum((-2, -1))
    if (np.trace(outputs, axis1=-2, axis2=-1).real <= subspace.EIGH_FLOOR[subspace.real(sums.gram)] * largest).any():
        raise ValueError(f"{path!r} gives only zeros on these rows: nothing of it is used; leave its moments out.")
    return outputs
