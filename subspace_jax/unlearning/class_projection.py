"""SVD class unlearning: input directions that only the forgotten classes use are projected out of each kernel.

Two forward passes and no gradient: M_r and M_f are the soft projectors onto the inputs of a layer for samples to keep
and to forget. Shared directions are kept, the rest of M_f is removed: K <- K - M_f (I - M_r) K. The order matters.
Kodge, Saha and Roy, "Deep Unlearning", TMLR 2024, arXiv 2312.00761.

>>> import jax.numpy as jnp
>>> from subspace_jax.core import capture
>>> def network(params, x):
...     return x @ params["kernel"]
>>> params, stay, go = {"kernel": jnp.ones((3, 2))}, jnp.eye(3)[:2], jnp.eye(3)[2:]
>>> retain, forget = (capture.collect(network, params, [x], dtype=float) for x in (stay, go))
>>> edited = unlearn_classes(capture.layers(network, params, stay), params, retain, forget, alpha_f=10)
>>> print(edited["kernel"])
[[1. 1.]
 [1. 1.]
 [0. 0.]]
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from subspace_jax.core import capture, checks, subspace
from subspace_jax.core.capture import Layer, Layers
from subspace_jax.core.moments import Moments, wide
from subspace_jax.core.subspace import Scalar, Square
from subspace_jax.typing import Float, Params

ALPHAS_R = (10.0, 30.0, 100.0, 300.0, 1000.0)
ALPHAS_F = (1.0, 3.0, 10.0, 30.0, 100.0)

Matrices = dict[str, Any]


class Search(NamedTuple):
    """`params` edited with the best pair of strengths; `scores` of the whole grid."""

    params: Params
    alpha_r: float
    alpha_f: float
    scores: Float[np.ndarray, "n_r n_f"]


def unlearn_projector(gram_r: Square, gram_f: Square, alpha_r: Scalar, alpha_f: Scalar) -> Square:
    """I - M_f + M_f M_r, which multiplies a kernel from the left; not symmetric.

    M = a G ((a - 1) G + I)^-1 with G = gram / tr(gram), `subspace.resolvent`. I minus it has eigenvalues in [0, 1].
    alpha_f = 0 gives I exactly; alpha_r = 0 protects nothing, I - M_f (the ablation `no_shared`); a forget gram of
    zeros gives I, a retain gram of zeros protects nothing. Float64 NumPy in gives float64 NumPy out; JAX arrays keep
    their dtype, also under `jit` and `vmap` over both strengths.

    Args:
      gram_r: X'X (..., d, d), uncentred, of a layer's inputs for samples of the classes that stay.
      gram_f: the same for samples of the classes to forget.
      alpha_r: at least 0; a larger one protects more.
      alpha_f: at least 0; a larger one removes more.

    Raises:
      ValueError: a negative or NaN strength (where it is a plain number).
    """
    m_r, m_f = subspace.resolvent(gram_r, alpha_r), subspace.resolvent(gram_f, alpha_f)
    eye = np.broadcast_to(np.eye(m_f.shape[-1], dtype=m_f.dtype), m_f.shape)
    with jax.default_matmul_precision("highest"):
        return eye - m_f + m_f @ m_r


def unlearn_classes(
    table: Layers,
    params: Params,
    retain: Mapping[str, Moments],
    forget: Mapping[str, Moments],
    *,
    alpha_r: Scalar = 100.0,
    alpha_f: Scalar = 3.0,
    layers: Iterable[str] | None = None,
) -> Params:
    """The parameters with K <- K - M_f (K - M_r K) in every layer, all from the same original network.

    Several classes at once: `forget` holds samples of all of them, `retain` of none. One after the other: collect the
    moments of the edited network and edit it again. Biases, norms and running statistics stay. Pure; works under `jit`
    with JAX moments. With float64 moments (NumPy, from `capture.collect`) the edit is computed in float64, then cast.

    Args:
      table: `capture.layers` of the network, in inference mode.
      params: its parameters.
      retain: {path: Moments} of the layer inputs, over samples of the classes that stay.
      forget: the same, over samples of the classes to forget.
      alpha_r: strength of the retain space, as in `unlearn_projector`; 0 is the ablation `no_shared`.
      alpha_f: strength of the forget space. The defaults are the paper's for CIFAR-10.
      layers: paths of layers, or of leaves for all layers in them, to edit; all of the table when None.

    Returns:
      A tree of the same structure and dtypes; leaves other than edited kernels are the same objects. A layer whose
      forget inputs are all zero does not change.

    Raises:
      ValueError: a negative or NaN strength; a path that names no layer; moments that are missing, of another size, of
        no rows or not finite; a kernel that something else reads too (`capture.write_kernels`).
    """
    kernels = _kernels(table, params, retain, forget, layers)
    rest = _subtract(kernels, _projectors(table, retain, kernels, alpha_r), kernels)
    edited = _subtract(kernels, _projectors(table, forget, kernels, alpha_f), rest)
    return capture.write_kernels(table, params, edited)


@checks.on_host
def unlearn_search(
    table: Layers,
    params: Params,
    retain: Mapping[str, Moments],
    forget: Mapping[str, Moments],
    score: Callable[[Params], Any],
    *,
    alphas_r: Sequence[float | int] = ALPHAS_R,
    alphas_f: Sequence[float | int] = ALPHAS_F,
    layers: Iterable[str] | None = None,
) -> Search:
    """`unlearn_classes` for each pair of strengths; the pair with the largest score.

    One solve per strength and distinct layer input, one product per pair and layer. Holds len(alphas_r) copies of the
    kernels. A tie goes to the alpha_f that comes first, then to the alpha_r; a NaN score is never chosen.

    Args:
      table: as in `unlearn_classes`, like params, retain, forget and layers.
      params: see table.
      retain: see table.
      forget: see table.
      score: score(params), a number: `evaluation.forget_score`, acc_retain (1 - acc_forget), on a held-out part of the
        training set; on the test set the result would be optimistic.
      alphas_r: strengths of the retain space; (0,) searches the ablation `no_shared`.
      alphas_f: strengths of the forget space.
      layers: see table.

    Raises:
      ValueError: as `unlearn_classes`; an empty grid; no score that is a number.
    """
    if not alphas_r or not alphas_f or not all(alpha >= 0 for alpha in (*alphas_r, *alphas_f)):
        raise ValueError(f"the grid needs strengths of at least 0 on both sides; got {alphas_r} and {alphas_f}.")
    kernels = _kernels(table, params, retain, forget, layers)
    rests = [_subtract(kernels, _projectors(table, retain, kernels, alpha), kernels) for alpha in alphas_r]
    scores, best = np.full((len(alphas_r), len(alphas_f)), np.nan), None
    for j, alpha_f in enumerate(alphas_f):
        projectors = _projectors(table, forget, kernels, alpha_f)
        for i, alpha_r in enumerate(alphas_r):
            edited = capture.write_kernels(table, params, _subtract(kernels, projectors, rests[i]))
            scores[i, j] = score(edited)
            if scores[i, j] > (-np.inf if best is None else best[0]):
                best = scores[i, j], edited, alpha_r, alpha_f
    if best is None:
        raise ValueError(f"no pair of strengths has a finite score: {scores.tolist()}.")
    return Search(best[1], float(best[2]), float(best[3]), scores)


def _kernels(
    table: Layers,
    params: Params,
    retain: Mapping[str, Moments],
    forget: Mapping[str, Moments],
    layers: Iterable[str] | None,
) -> Matrices:
    """The kernels to edit, in the precision of the moments."""
    paths = _asked(table, layers)
    for path in paths:
        _check(table[path], retain, "retain")
        _check(table[path], forget, "forget")
    matrices = capture.kernels(Layers({path: table[path] for path in paths}, ()), params)
    exact = {path for path in paths if forget[path].gram.dtype in subspace.WIDE}  # traced kernels keep their precision
    return {
        path: wide(matrix) if path in exact and checks.is_known(matrix) else matrix for path, matrix in matrices.items()
    }


def _asked(table: Layers, layers: Iterable[str] | None) -> list[str]:
    if layers is None:
        return list(table)
    if isinstance(layers, str):
        raise ValueError(f"layers is a list of paths; got the single string {layers!r}.")
    asked = list(layers)
    if unknown := set(asked) - {name for path, layer in table.items() for name in (path, layer.leaf)}:
        raise ValueError(f"no layer {min(unknown)!r}; there are {', '.join(table)}.")
    return [path for path, layer in table.items() if path in asked or layer.leaf in asked]


def _check(layer: Layer, moments: Mapping[str, Moments], name: str) -> None:
    if layer.path not in moments:
        raise ValueError(f"{name} has no moments of {layer.path!r}: collect them, or name other layers in layers=.")
    gram, count = moments[layer.path].gram, moments[layer.path].count
    if gram.shape != (*layer.lead, layer.d_in, layer.d_in):
        raise ValueError(f"{name} moments of {layer.path!r}: {gram.shape} is not the Gram of {layer.d_in} inputs.")
    if checks.is_known(count) and not count:
        raise ValueError(f"{name} moments of {layer.path!r} hold no rows: collect them over at least one batch.")
    checks.check_finite(
        f"the Gram of {layer.path!r} over the {name} set", gram, remedy="drop samples that are not finite"
    )


def _projectors(table: Layers, moments: Mapping[str, Moments], paths: Iterable[str], alpha: Scalar) -> Matrices:
    """M of each layer; one solve for all layers that read the same rows."""
    solved: Matrices = {}
    for path in paths:
        if table[path].shares not in solved:
            solved[table[path].shares] = subspace.resolvent(moments[path].gram, alpha)
    return {path: solved[table[path].shares] for path in paths}


def _subtract(kernels: Matrices, projectors: Matrices, matrices: Matrices) -> Matrices:
    """K - M A, by layer."""
    with jax.default_matmul_precision("highest"):
        return {path: kernel - projectors[path] @ matrices[path] for path, kernel in kernels.items()}
