"""Utilized rank: on the data a layer K (m, n) acts as K' = P_S K P_T, whose rank is often far below that of K.

P_S projects onto the space of the layer's inputs X, P_T onto that of its outputs X K (before the bias); both keep the
share `energy` (the paper's tau) of the squared singular values, uncentred. Inputs are measured once, by
`capture.collect(fn, params, batches, dtype="float64")`; outputs need no second pass, their Gram is K' G K. Everything
here is an edit outside training: solved in float64, written in the dtype of the parameters, not for `jit`. In place of
moments every function takes what `spectra(table, params, moments)` gives: several energies then share one solve.

>>> import jax.numpy as jnp
>>> from subspace_jax.core import capture
>>> def fn(params, x):
...     return x @ params["w"]
>>> params, x = {"w": jnp.eye(4)}, jnp.diag(jnp.array([1.0, 1.0, 1.0, 0.0]))
>>> table, moments = capture.layers(fn, params, x), capture.collect(fn, params, [x], dtype="float64")
>>> use = utilization(table, params, moments)
>>> int(use["w"].rank), mean_utilization(use)
(3, 0.75)

Garg, Koguchi, Verma, Ulbricht: "Revealing the Utilized Rank of Subspaces of Learning in Neural Networks", ICML 2024
workshop ES-FoMo, arXiv 2407.04797. Its threshold and centring were not accessible: those here are this library's.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from subspace_jax.compression.eigenpairs import Measured, Spectra, effective_rank, leading, rank_at, spectra
from subspace_jax.core import capture, checks
from subspace_jax.core.moments import wide
from subspace_jax.core.subspace import adjoint
from subspace_jax.typing import Array, Inexact, Params

ENERGIES = (0.99999, 0.9999, 0.999, 0.99, 0.97, 0.95, 0.9, 0.8)
FLOAT32_ENERGY = 1 - 1e-6  # a float32 Gram cannot resolve energies above this


class LayerUse(NamedTuple):
    """Ranks of one layer; leading axes are those of its kernel: the length of a scan, then groups.

    Attributes:
      inputs: k_S, dimensions of the input space, int32 (...).
      outputs: k_T, dimensions of the output space, int32 (...).
      rank: r = min(k_S, k_T), int32 (...).
      share: u = r / min(m, n), in (0, 1], (...).
      effective_inputs: exp(entropy) of the input energies, in [1, m], (...): a count without threshold.
      effective_outputs: the same of the output energies, in [1, n], (...).
    """

    inputs: np.ndarray
    outputs: np.ndarray
    rank: np.ndarray
    share: np.ndarray
    effective_inputs: np.ndarray
    effective_outputs: np.ndarray


def utilization(
    table: capture.Layers,
    params: Params,
    moments: Measured,
    *,
    energy: float | Mapping[str, float] = 0.999,
) -> dict[str, LayerUse]:
    """Rank of each layer on the data: r = min(k_S, k_T), u = r / min(m, n).

    k is the smallest number of eigenpairs of G = X'X (k_S), K'GK (k_T) that keeps the share `energy`. Neither the scale
    of X or K nor repeated rows change it. At energy 1, k_T <= k_S.

    Args:
      table: of the function that reads the parameters.
      params: its parameters.
      moments: of the inputs of the layers to measure, or their `spectra`.
      energy: kept share tau in (0, 1]; or {path: share}, which measures these layers only. A number skips layers
        with groups, with a warning that names them: give those by path, each group then has its own rank.

    Raises:
      ValueError: energy outside (0, 1], or above 1 - 1e-6 with a float32 Gram; and as `spectra`.
    """
    return {path: _use(own, share) for path, (own, share) in _asked(table, params, moments, energy).items()}


@checks.on_host
def mean_utilization(use: Mapping[str, LayerUse]) -> float:
    """Mean layer utilization (MLU): the plain mean of u; each entry of a scanned or grouped layer counts as a layer.

    Raises:
      ValueError: no layer.
    """
    if not use:
        raise ValueError("no layer was measured: there is no mean utilization.")
    return float(np.concatenate([np.ravel(layer.share) for layer in use.values()]).mean())


def project(
    table: capture.Layers,
    params: Params,
    moments: Measured,
    *,
    energy: float | Mapping[str, float] = 0.999,
) -> Params:
    """The parameters with K' = P_S K P_T for K: dense, of rank at most min(k_S, k_T); other leaves are the same.

    Lossless at energy 1 with float64 moments: X P_S = X and X K P_T = X K, so that outputs on these rows change
    only by the rounding of the parameters' dtype. Below 1, errors add up over layers: evaluate the whole network.

    Args:
      table: of the function that reads the parameters.
      params: its parameters.
      moments: of the inputs of the layers to project; leave out the head's to keep the head.
      energy: as in `utilization`.

    Raises:
      ValueError: as `utilization`; a kernel that is used elsewhere too (tied weights).
    """
    asked = _asked(table, params, moments, energy)
    kernels = capture.kernels(capture.Layers({path: table[path] for path in asked}, ()), params)
    projected = {path: _project(kernels[path], own, share) for path, (own, share) in asked.items()}
    return capture.write_kernels(table, params, projected)


def factorise(
    table: capture.Layers,
    params: Params,
    moments: Measured,
    *,
    energy: float | Mapping[str, float] = 0.999,
    multiple: int = 1,
) -> dict[str, dict]:
    """The projected network with thin kernels A (m, r), B (r, n) where r (m + n) < m n: never more parameters.

    `capture.run_factorised(fn, params)` runs it, with the outputs of the projected network. The result is a pytree that
    can be fine-tuned (`factorised_model`) and saved.

    Args:
      table: as in `project`.
      params: as in `project`.
      moments: as in `project`.
      energy: as in `utilization`.
      multiple: ranks are rounded up to a multiple of it; 8 or 16 is faster on accelerators.

    Raises:
      ValueError: as `project`; a multiple below 1.
    """
    solved = {path: own for path, (own, _) in _asked(table, params, moments, energy).items()}
    kept = ranks(utilization(table, params, solved, energy=energy), multiple=multiple)
    return capture.factorise(table, project(table, params, solved, energy=energy), kept)


@checks.on_host
def ranks(use: Mapping[str, LayerUse], *, multiple: int = 1) -> dict[str, int]:
    """One rank r per layer, the largest of its entries, rounded up to a multiple; ValueError for one below 1."""
    if multiple < 1:
        raise ValueError(f"ranks are rounded up to a multiple of at least 1; got {multiple}.")
    return {path: -(-int(layer.rank.max()) // multiple) * multiple for path, layer in use.items()}


def parameters_ratio(table: capture.Layers, ranks: Mapping[str, int]) -> float:
    """Kernel parameters after over before: sum of r (m + n) where that is less, else m n, over the sum of m n."""
    before = {path: math.prod((*layer.lead, layer.d_in, layer.d_out)) for path, layer in table.items()}
    after = dict(before)
    for path, rank in ranks.items():
        layer = table[path]
        after[path] = min(before[path], math.prod(layer.lead) * rank * (layer.d_in + layer.d_out))
    return sum(after.values()) / sum(before.values())


def search_energy(
    table: capture.Layers,
    params: Params,
    moments: Measured,
    score: Callable[[Params], float],
    *,
    energies: Sequence[float] = ENERGIES,
    max_drop: float = 0.001,
) -> dict[str, float]:
    """Lowest energy per layer, in the order of execution, for which the whole network keeps its score.

    Projecting a layer may lower the score by `max_drop`, relative to the network with the earlier layers projected. So
    the drop of the result, `project(..., energy=result)`, is at most `max_drop` times the number of layers.

    Args:
      table: as in `project`.
      params: as in `project`.
      moments: as in `project`.
      score: params -> accuracy as a fraction, on calibration samples, never on test ones.
      energies: tried in descending order until the score drops too far; at most one call of score each per layer.
      max_drop: at least 0.

    Returns:
      {path: energy}; without layers for which even the highest energy costs too much.

    Raises:
      ValueError: no energy, a negative drop, and as `project`.
    """
    if not energies or not max_drop >= 0:
        raise ValueError(f"give energies and a max_drop of at least 0; got {list(energies)} and {max_drop}.")
    for energy in energies:
        _check(energy)
    found: dict[str, float] = {}
    edited, reached = params, score(params)
    asked = _asked(table, params, moments, max(energies))
    for path in sorted(asked, key=list(table).index):
        start, lowest, own = edited, reached - max_drop, {path: asked[path][0]}
        for energy in sorted(energies, reverse=True):
            trial = project(table, start, own, energy={path: energy})
            after = score(trial)
            if not after >= lowest:
                break
            found[path], edited, reached = energy, trial, after
    return found


def _asked(
    table: capture.Layers, params: Params, moments: Measured, energy: float | Mapping[str, float]
) -> dict[str, tuple[Spectra, float]]:
    """The requested layers, each with its spectra and energy."""
    if isinstance(energy, Mapping):
        chosen = dict(energy)
    else:
        grouped = [path for path in moments if path in table and table[path].groups > 1]
        if grouped:
            names = ", ".join(grouped)
            warnings.warn(
                f"left out layers with groups: {names}; name them in energy to treat each group.", stacklevel=3
            )
        chosen = {path: energy for path in moments if path not in grouped}
    for path, share in chosen.items():
        _check(share, f" for {path!r}")
    solved = spectra(table, params, moments, layers=chosen)
    for path, share in chosen.items():
        if share > FLOAT32_ENERGY and solved[path].dtype != "float64":
            raise ValueError(
                f"energy {share} of {path!r} is beyond a {solved[path].dtype} Gram: measure it by "
                'capture.collect(..., dtype="float64"), or keep at most 1 - 1e-6.'
            )
    return {path: (solved[path], share) for path, share in chosen.items()}


def _check(energy: float, of: str = "") -> None:
    if not 0 < energy <= 1:
        raise ValueError(f"energy is the kept share of squared singular values, in (0, 1]; got {energy}{of}.")


def _use(own: Spectra, energy: float) -> LayerUse:
    sides = own.inputs, own.outputs
    k_s, k_t = (rank_at(side, energy) for side in sides)
    rank, smaller = np.minimum(k_s, k_t), min(side.energies.shape[-1] for side in sides)
    return LayerUse(k_s, k_t, rank, rank / smaller, *(effective_rank(side.energies) for side in sides))


def _project(kernel: Array, own: Spectra, energy: float) -> Inexact[np.ndarray, "*lead m n"]:
    """P_S K P_T in float64."""
    s, t = (leading(side, rank_at(side, energy)) for side in (own.inputs, own.outputs))
    return s @ (adjoint(s) @ wide(kernel) @ t) @ adjoint(t)
