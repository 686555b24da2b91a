"""Baselines of utilized rank, at the same ranks: other kernels K' for K (m, n), one layer at a time.

With inputs X and G = X'X, the loss ||X K - X K'|| of any rank-r kernel is at least the tail of the spectrum of X K
(Eckart-Young). `output_only` and `whitened_svd` reach it; `plain_svd` and `input_only` do not. `random_subspaces`
is the control without data, `magnitude_pruning` keeps whole columns at the same budget. Solved in float64 and written
in the dtype of the parameters. `ranks` is {path: r}, as `utilized_rank.ranks` gives; a rank above min(m, n), or above
that of the data, keeps all there is. `moments` are of the layer inputs, or their `spectra`.
"""

import zlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from subspace_jax.compression.eigenpairs import Measured, leading, spectra
from subspace_jax.core import capture, checks, subspace
from subspace_jax.core.keys import as_key
from subspace_jax.core.moments import wide
from subspace_jax.typing import Array, Key, Params


def plain_svd(table: capture.Layers, params: Params, *, ranks: Mapping[str, int]) -> Params:
    """K' = U_r S_r V_r', the nearest kernel of rank r, without data. ValueError for a rank below 1 or no such layer."""
    return _edit(table, params, ranks, lambda path, kernel, rank: _truncated(kernel, rank))


def input_only(table: capture.Layers, params: Params, moments: Measured, *, ranks: Mapping[str, int]) -> Params:
    """K' = P_S K with the r leading directions of the inputs; ValueError for a rank below 1, and as `spectra`."""
    solved = spectra(table, params, moments, layers=_known(table, ranks, moments))

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        basis = leading(solved[path].inputs, rank)
        return basis @ (subspace.adjoint(basis) @ kernel)

    return _edit(table, params, ranks, cut)


def output_only(table: capture.Layers, params: Params, moments: Measured, *, ranks: Mapping[str, int]) -> Params:
    """K' = K P_T with the r leading directions of the outputs X K (response PCA): the optimal kernel of rank r.

    Raises:
      ValueError: a rank below 1, and as `spectra`.
    """
    solved = spectra(table, params, moments, layers=_known(table, ranks, moments))

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        basis = leading(solved[path].outputs, rank)
        return kernel @ basis @ subspace.adjoint(basis)

    return _edit(table, params, ranks, cut)


def whitened_svd(table: capture.Layers, params: Params, moments: Measured, *, ranks: Mapping[str, int]) -> Params:
    """K' = L^+ (L K)_r with L'L = G, the truncated SVD of whitened inputs: optimal too, and zero outside their span.

    L is the square root of G from its eigenpairs, which also covers a singular G.

    Raises:
      ValueError: a rank below 1, and as `spectra`.
    """
    solved = spectra(table, params, moments, layers=_known(table, ranks, moments))

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        vectors, values = solved[path].inputs
        seen = values > subspace.EIGH_FLOOR[solved[path].dtype] * values[..., :1]
        roots = np.sqrt(np.where(seen, values, 0.0))[..., None]
        inverse = np.where(seen[..., None], 1 / np.where(roots > 0, roots, 1.0), 0.0)
        return vectors @ (inverse * _truncated(roots * (subspace.adjoint(vectors) @ kernel), rank))

    return _edit(table, params, ranks, cut)


def random_subspaces(key: Key[Array, ""], table: capture.Layers, params: Params, *, ranks: Mapping[str, int]) -> Params:
    """K' = P K Q with uniformly random projectors of rank r in place of P_S and P_T: accuracy should collapse.

    Args:
      key: folded by the path of each layer.
      table: of the function that reads the parameters.
      params: its parameters.
      ranks: {path: r}.

    Raises:
      ValueError: a rank below 1 or no such layer.
    """
    key = as_key(key)

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        keys = jax.random.split(jax.random.fold_in(key, zlib.crc32(path.encode())))
        *lead, m, n = kernel.shape
        draws = (np.asarray(jax.random.normal(k, (*lead, d, d)))[..., :rank] for k, d in zip(keys, (m, n), strict=True))
        p, q = (np.linalg.qr(draw.astype(np.float64)).Q for draw in draws)
        return p @ (p.mT @ kernel @ q) @ q.mT

    return _edit(table, params, ranks, cut)


def magnitude_pruning(table: capture.Layers, params: Params, *, ranks: Mapping[str, int]) -> Params:
    """Keep the columns of K (neurons, filters) of largest norm, set the others to zero; needs no data.

    It keeps c = min(n, floor(r (m + n) / m)) columns, as many parameters as two factors of rank r. Savings in the next
    layer are not counted. The columns of the head are classes: leave it out of `ranks`.

    Raises:
      ValueError: a rank below 1 or no such layer.
    """

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        *_, m, n = kernel.shape
        norms = np.linalg.norm(kernel, axis=-2, keepdims=True)
        place = np.argsort(np.argsort(-norms, axis=-1, kind="stable"), axis=-1)
        return np.where(place < min(n, rank * (m + n) // m), kernel, 0.0)

    return _edit(table, params, ranks, cut)


def _edit(
    table: capture.Layers,
    params: Params,
    ranks: Mapping[str, int],
    cut: Callable[[str, np.ndarray, int], np.ndarray],
) -> Params:
    """Every kernel in `ranks` cut by (path, float64 or complex128 matrix, rank)."""
    layers = capture.Layers({path: table[path] for path in _known(table, ranks, table)}, ())
    checks.check_host("an edit of this kind", params)
    kernels = capture.kernels(layers, params)
    checks.check_finite("kernels", kernels, remedy="the network diverged")
    cuts = {path: cut(path, wide(kernel), ranks[path]) for path, kernel in kernels.items()}
    return capture.write_kernels(table, params, cuts)


def _known(table: capture.Layers, ranks: Mapping[str, int], measured: Mapping[str, object]) -> list[str]:
    """The paths, each with a rank and a measured layer."""
    for path, rank in ranks.items():
        if rank < 1 or path not in table or path not in measured:
            raise ValueError(f"ranks are at least 1, of layers that were measured; got {rank} for {path!r}.")
    return list(ranks)


def _truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of this rank."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
