"""What utilized rank is compared with, at the same ranks: other kernels K' of rank r for K (m, n), one layer at a time.

With inputs X and G = X'X, the loss ||X K - X K'|| of any rank-r kernel is at least the tail of the spectrum of X K
(Eckart-Young). `output_only` and `whitened_svd` reach it; `plain_svd` and `input_only` do not. Solved in float64 on the
host and written in the dtype of the parameters. `ranks` is {path: r}, as `utilized_rank.ranks` gives; a rank beyond
min(m, n), or beyond that of the data, keeps all there is.
"""

from collections.abc import Callable, Mapping

import numpy as np

from subspace_jax.core import capture, subspace
from subspace_jax.core.moments import Moments
from subspace_jax.typing import Params


def plain_svd(table: capture.Layers, params: Params, *, ranks: Mapping[str, int]) -> Params:
    """K' = U_r S_r V_r', the nearest kernel of rank r: no data. ValueError for a rank below 1 or no such layer."""
    return _edit(table, params, ranks, lambda path, kernel, rank: _truncated(kernel, rank))


def input_only(
    table: capture.Layers, params: Params, moments: Mapping[str, Moments], *, ranks: Mapping[str, int]
) -> Params:
    """K' = P_S K with the r leading directions of the inputs. ValueError for a rank below 1 or no such layer."""

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        return _projector(np.asarray(moments[path].gram, np.float64), rank) @ kernel

    return _edit(table, params, ranks, cut, moments)


def output_only(
    table: capture.Layers, params: Params, moments: Mapping[str, Moments], *, ranks: Mapping[str, int]
) -> Params:
    """K' = K P_T with the r leading directions of the outputs X K (response PCA): the optimal kernel of rank r.

    Raises:
      ValueError: a rank below 1, or a layer that is not in the table and the moments.
    """

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        return kernel @ _projector(kernel.mT @ np.asarray(moments[path].gram, np.float64) @ kernel, rank)

    return _edit(table, params, ranks, cut, moments)


def whitened_svd(
    table: capture.Layers, params: Params, moments: Mapping[str, Moments], *, ranks: Mapping[str, int]
) -> Params:
    """K' = L^+ (L K)_r with L'L = G, the truncated SVD of whitened inputs: optimal too, and zero outside their span.

    L is the root of G by its eigenpairs, so that inputs that do not fill their space are no special case.

    Raises:
      ValueError: a rank below 1, or a layer that is not in the table and the moments.
    """

    def cut(path: str, kernel: np.ndarray, rank: int) -> np.ndarray:
        gram = moments[path].gram
        values, vectors = np.linalg.eigh(np.asarray(gram, np.float64))
        seen = values > subspace.EIGH_FLOOR[str(gram.dtype)] * values[..., -1:]
        roots = np.sqrt(np.where(seen, values, 0.0))[..., None]
        inverse = np.where(seen[..., None], 1 / np.where(roots > 0, roots, 1.0), 0.0)
        return vectors @ (inverse * _truncated(roots * (vectors.mT @ kernel), rank))

    return _edit(table, params, ranks, cut, moments)


def _edit(
    table: capture.Layers,
    params: Params,
    ranks: Mapping[str, int],
    cut: Callable[[str, np.ndarray, int], np.ndarray],
    moments: Mapping[str, Moments] | None = None,
) -> Params:
    """Every kernel in `ranks` cut by (path, float64 matrix, rank)."""
    measured = table if moments is None else moments
    for path, rank in ranks.items():
        if rank < 1 or path not in table or path not in measured:
            raise ValueError(f"ranks are at least 1, of layers that were measured; got {rank} for {path!r}.")
    kernels = capture.kernels(capture.Layers({path: table[path] for path in ranks}, ()), params)
    cuts = {path: cut(path, np.asarray(kernel, np.float64), ranks[path]) for path, kernel in kernels.items()}
    return capture.write_kernels(table, params, cuts)


def _projector(gram: np.ndarray, rank: int) -> np.ndarray:
    """Onto the leading eigenvectors."""
    return np.asarray(subspace.projector(subspace.from_gram(gram, energy=1, capacity=rank)))


def _truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of this rank."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
