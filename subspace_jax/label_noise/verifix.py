"""Verifix: correct a network that learned wrong labels, by one closed-form edit from a few trusted samples.

Every kernel K becomes M(alpha) K, where M softly projects onto the layer's inputs on the trusted samples. No
labels, no gradients, no training. Kodge, Ravikumar, Saha, Roy, arXiv 2403.08618.

>>> import jax, jax.numpy as jnp
>>> from subspace_jax.core import capture
>>> def fn(params, x):
...     return x @ params["kernel"] + params["bias"]
>>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((1, 2))}
>>> trusted = jnp.array([[1.0, 0.0], [3.0, 0.0]])  # the second feature is never seen
>>> table = capture.layers(fn, params, trusted)
>>> moments = capture.collect(fn, params, [trusted], dtype="float64")
>>> verifix(table, params, moments, alpha=100)["kernel"]
Array([[1., 1.],
       [0., 0.]], dtype=float32)
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture, checks, subspace
from subspace_jax.core.moments import Moments, wide
from subspace_jax.typing import Array, Float, Inexact, Params

Alpha = float | int | Float[Array, ""] | None


class Selected(NamedTuple):
    """The best network of a sweep.

    Attributes:
      params: its parameters; the input tree itself when no edit is better.
      alpha: its strength; None for the unedited network.
      scores: of the unedited network, then one per alpha, (1 + alphas).
    """

    params: Params
    alpha: Alpha
    scores: Float[np.ndarray, " n"]


def verifix(
    table: capture.Layers,
    params: Params,
    moments: Mapping[str, Moments],
    *,
    alpha: Alpha,
    layers: Sequence[str] | None = None,
) -> Params:
    """K := M(alpha) K at every layer at once, with M from the inputs of the original network.

    M = alpha G ((alpha - 1) G + I)^-1 with G = X'X / tr(X'X): a direction with the share p of the energy of the layer's
    inputs is kept by alpha p / ((alpha - 1) p + 1). On the trusted samples the outputs are unchanged as alpha -> inf; a
    smaller alpha suppresses more of the directions that they use little. Computed in float64 and written back in each
    leaf's dtype; inside `jit` and `vmap` (over seeds, over alpha) in float32, good to alpha = 1e4, where values cannot
    be checked. First layer and classifier included; biases, norms and their statistics stay as they are.

    A channel group (or expert) whose inputs are all zero on the trusted samples is suppressed, like such an input of a
    dense layer; a layer whose whole input is zero is refused.

    Args:
      table: `capture.layers(fn, params, x)` of the whole network, in inference mode.
      params: parameters of the network; any pytree.
      moments: inputs of its layers on the trusted samples, `capture.collect(fn, params, batches, dtype="float64")`;
        float32 ones are good to alpha = 1e4.
      alpha: strength > 0, one for all layers; 1e1 to 1e6, growing with the network: see `verifix_select`. None leaves
        the network as it is.
      layers: paths of layers, or of leaves for all layers in them; all of the table when None.

    Returns:
      Parameters of the same structure and dtypes; all but the edited kernels are the same objects. With alpha None,
      `params` itself.

    Raises:
      ValueError: an alpha that is not positive and finite; an unknown layer name; a layer without moments, with
        moments of another size, with inputs that are not finite or all zero; a Gram too imprecise for alpha; a kernel
        that is used elsewhere too, as `capture.write_kernels`.
    """
    if alpha is None:
        return params
    _check_alpha(alpha)
    sharing: dict[str, list[str]] = {}
    for path in _chosen(table, layers):
        sharing.setdefault(table[path].shares, []).append(path)
    grams = [_gram(table[paths[0]], moments) for paths in sharing.values()]
    kernels, edited = capture.kernels(table, params), {}
    for paths, gram in zip(sharing.values(), grams, strict=True):
        soft = subspace.resolvent(gram, float(alpha) if checks.is_known(alpha) else alpha)
        if checks.is_known(soft) and not np.isfinite(soft).all():
            raise ValueError(
                f"the Gram of {paths[0]!r} is too coarse for alpha={alpha:g}: lower it or collect in dtype='float64'."
            )
        edited |= {path: _product(soft, kernels[path]) for path in paths}
    return capture.write_kernels(table, params, edited)


@checks.on_host
def alpha_curve(
    table: capture.Layers,
    params: Params,
    moments: Mapping[str, Moments],
    *,
    alphas: Iterable[Alpha],
    score_fn: Callable[[Params], Any],
    layers: Sequence[str] | None = None,
) -> Float[np.ndarray, " n"]:
    """score_fn of the edited parameters at each alpha, (alphas,): an inverted U in log alpha where labels were wrong.

    Args:
      table: as in `verifix`.
      params: as in `verifix`.
      moments: as in `verifix`.
      alphas: strengths; None is the unedited network.
      score_fn: params -> one number.
      layers: as in `verifix`.

    Raises:
      ValueError: as `verifix`; every alpha is checked before the first edit.
    """
    alphas = list(alphas)
    for alpha in alphas:
        _check_alpha(alpha)
    edits = (verifix(table, params, moments, alpha=alpha, layers=layers) for alpha in alphas)
    return np.array([float(score_fn(edit)) for edit in edits])


@checks.on_host
def verifix_select(
    table: capture.Layers,
    params: Params,
    moments: Mapping[str, Moments],
    *,
    alphas: Iterable[Alpha],
    score_fn: Callable[[Params], Any],
    layers: Sequence[str] | None = None,
) -> Selected:
    """The edit with the highest score; the unedited network wins ties, then the alpha that comes first.

    Args:
      table: as in `verifix`.
      params: as in `verifix`.
      moments: as in `verifix`.
      alphas: strengths to try; the paper's grids lie in 1e3..1e6; on digits the best is 1e2..1e3.
      score_fn: params -> one number, higher is better: accuracy on samples that are neither trusted nor test.
      layers: as in `verifix`.

    Raises:
      ValueError: as `verifix`; no alpha; a score that is NaN.
    """
    tried = [None, *alphas]
    if len(tried) == 1:
        raise ValueError("alphas is empty: give the strengths to try, such as 1e1, 1e2, ..., 1e6.")
    scores = alpha_curve(table, params, moments, alphas=tried, score_fn=score_fn, layers=layers)
    if np.isnan(scores).any():
        raise ValueError(f"score_fn gives NaN at alpha={tried[np.isnan(scores).argmax()]}: it must rank the networks.")
    best = tried[scores.argmax()]
    return Selected(verifix(table, params, moments, alpha=best, layers=layers), best, scores)


def _product(soft: Any, kernel: Any) -> Any:
    """M K, in the widest precision that there is."""
    if checks.is_known(soft) and checks.is_known(kernel):
        return wide(soft) @ wide(kernel)
    return jnp.matmul(soft, kernel, precision="highest")


def _check_alpha(alpha: Alpha) -> None:
    if alpha is not None and checks.is_known(alpha) and not 0 < alpha < math.inf:
        raise ValueError(f"alpha is positive and finite, or None for the network as it is; got {alpha}.")


def _chosen(table: capture.Layers, layers: Sequence[str] | None) -> list[str]:
    """Paths of the layers that are named by themselves or by their leaf."""
    names = list(table if layers is None else layers)
    known = {name for path, layer in table.items() for name in (path, layer.leaf)}
    if isinstance(layers, str) or not names or not known.issuperset(names):
        raise ValueError(f"layers={layers!r} must be a list of these paths: {', '.join(table)}.")
    return [path for path, layer in table.items() if path in names or layer.leaf in names]


def _gram(layer: capture.Layer, moments: Mapping[str, Moments]) -> Inexact[Array | np.ndarray, "*lead d d"]:
    """The Gram of a layer in float64 or complex128, checked to be usable; as it is where it is traced."""
    path, shape = layer.path, (*layer.lead, layer.d_in, layer.d_in)
    if path not in moments:
        raise ValueError(f"no moments of layer {path!r}, only of {', '.join(moments)}: name those in layers=.")
    gram = moments[path].gram
    gram = wide(gram) if checks.is_known(gram) else gram
    if gram.shape != shape:
        raise ValueError(f"the Gram of {path!r} is {shape}; got {gram.shape}, the moments of another network.")
    checks.check_finite(
        f"the Gram of {path!r} over the trusted samples",
        gram,
        remedy="the network diverged there",
    )
    if not checks.is_known(gram):
        return gram
    energy = np.trace(gram, axis1=-2, axis2=-1).real
    if not np.all((energy.sum(-1) if layer.groups > 1 else energy) > 0):
        raise ValueError(
            f"inputs of layer {path!r} are all zero on the trusted samples: the layer is dead, leave it out of layers=."
        )
    return gram
