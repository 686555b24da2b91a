"""Products bit by bit through converters that clip, and what the bits of all converters cost.

Weights and inputs are sign and magnitude in few bits, as in `sram`. A crossbar holds one bit of its weights, positive
and negative ones apart, and reads one bit of its inputs at a time. The sum of a column is a whole number of 0..rows; a
converter of b bits gives it exactly up to 2^b - 1 and clips it there. With n weights that are not zero in the densest
column, log2(n) + 1 bits are exact; the authors' model of the energy counts one bit less, which clips full columns.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture, costs, quantize
from subspace_jax.core.checks import check_axes, check_finite, on_host
from subspace_jax.hardware import sram
from subspace_jax.hardware.adc_pruning import check_rows
from subspace_jax.typing import ApplyFn, Array, Float, Int, Num, Variables

Bins = Mapping[str, Int[np.ndarray, "down across"]]


@on_host
def adc_bits(bins: Int[np.ndarray, "*tiles"], rows: int) -> Int[np.ndarray, "*tiles"]:
    """Bits of the converters of a tile by the authors' model: log2(rows) - bin, 0 where at most one weight is left.

    Raises:
      ValueError: as `check_rows`.
    """
    check_rows(rows)
    return np.maximum(rows.bit_length() - 1 - np.asarray(bins), 0)


@on_host
def adc_energy(bins: Bins, rows: int, *, model: str = "linear", weights: Mapping[str, float] | None = None) -> float:
    """Energy of the converters of all tiles, one conversion each, in the unit of the model (`costs.CONVERSIONS`).

    Args:
      bins: {path: bin of each tile}, from `snapping`.
      rows: of a crossbar.
      model: of one conversion.
      weights: {path: conversions of a tile}, such as the positions of the layer's map; 1 when None.

    Raises:
      ValueError: as `check_rows`; an unknown model; a path without a weight.
    """
    if weights is not None and (missing := [path for path in bins if path not in weights]):
        raise ValueError(f"weights say nothing of {missing[0]!r}.")
    each = {path: costs.conversion_energy(adc_bits(own, rows), model).sum() for path, own in bins.items()}
    return float(sum(value * (weights[path] if weights else 1.0) for path, value in each.items()))


@on_host
def improvement(bins: Bins, rows: int, *, model: str = "linear", weights: Mapping[str, float] | None = None) -> float:
    """Energy of the same tiles without a zero over theirs; infinite where no bit is left.

    Raises:
      ValueError: as `adc_energy`.
    """
    full = {path: np.zeros_like(own) for path, own in bins.items()}
    spent = adc_energy(bins, rows, model=model, weights=weights)
    return adc_energy(full, rows, model=model, weights=weights) / spent if spent else math.inf


def adc_matmul(
    x: Num[Array, "n k"], w: Num[Array, "k m"], bits: Int[Array | np.ndarray, "down across"], *, rows: int,
    planes: int = 4,
) -> Float[Array, "n m"]:  # fmt: skip
    """The product x w from clipped sums of single bits, added with their signs and powers of two.

    Exact where every tile has log2(n) + 1 bits for n weights in its densest column. NaN of a sample or an output stays.

    Args:
      x: magnitudes of inputs, whole numbers of 0..2^planes - 1.
      w: weights, whole numbers of the same magnitudes with their signs, inputs in the order of the tiles.
      bits: of the converters of each tile of w' (outputs down, inputs across).
      rows: of a crossbar, a power of two above 1.
      planes: bits of a magnitude.

    Raises:
      ValueError: as `check_rows`; bits that are not one number a tile.
    """
    check_rows(rows)
    for name, part in (("x", x), ("w", w)):
        check_axes(name, part, 2)
    (n, k), m = x.shape, w.shape[1]
    groups, down = -(-k // rows), -(-m // rows)
    if np.shape(bits) != (down, groups):
        raise ValueError(f"{m} outputs of {k} inputs are {down} x {groups} tiles; got bits of shape {np.shape(bits)}.")
    most = jnp.repeat(2.0 ** jnp.asarray(bits).T - 1, rows, axis=1)[None, :, :m]  # (1, groups, m)
    lost = jnp.isnan(x).any(1)[:, None] | jnp.isnan(w).any(0)[None]  # whole numbers have no NaN
    x = jnp.pad(x.astype(jnp.int32), ((0, 0), (0, groups * rows - k))).reshape(n, groups, rows)
    w = jnp.pad(w.astype(jnp.int32), ((0, groups * rows - k), (0, 0))).reshape(groups, rows, m)

    def read(total: Array, plane: tuple[Array, Array, Array]) -> tuple[Array, None]:
        of_x, of_w, sign = plane
        inputs, held = (x >> of_x) & 1, (jnp.maximum(sign * w, 0) >> of_w) & 1
        sums = jnp.einsum("ngr,grm->ngm", inputs.astype(jnp.float32), held.astype(jnp.float32))
        return total + sign * 2.0 ** (of_x + of_w) * jnp.minimum(sums, most).sum(1), None

    of_x, of_w, sign = (jnp.asarray(part.ravel()) for part in np.meshgrid(range(planes), range(planes), [1, -1]))
    return jnp.where(lost, jnp.nan, jax.lax.scan(read, jnp.zeros((n, m)), (of_x, of_w, sign))[0])


def run_converted(
    apply: ApplyFn, variables: Variables, calibration: sram.Calibration,
    bits: Mapping[str, Int[np.ndarray, "down across"]], x: Array | np.ndarray, *, rows: int,
) -> Float[Array, "n ..."]:  # fmt: skip
    """What a network gives with some layers in crossbars whose converters have so many bits; the others stay digital.

    Args:
      apply: (variables, x) -> outputs.
      variables: of the network that was calibrated.
      calibration: from `sram.calibrate`: ranges of weights and inputs, and their bits.
      bits: {path: bits of each tile}, of the layers in crossbars.
      x: a batch (n, ...).
      rows: of a crossbar.

    Raises:
      ValueError: as `adc_matmul`; images that are not finite; a layer that was not calibrated or is another one.
    """
    check_finite("images", x)
    design = sram.Design(calibration.bits)
    parts = sram.parts_of(apply, variables, calibration, x, design)
    if missing := [path for path in bits if path not in parts]:
        raise ValueError(f"{missing[0]!r} was not calibrated; the layers are {', '.join(parts)}.")
    whole = {path: (*parts[path], jnp.asarray(own)) for path, own in bits.items()}
    return _running(apply, rows, calibration.bits, calibration.signed)(variables, whole, jnp.asarray(x))


@functools.lru_cache(maxsize=64)  # one function object, and so one compilation, per network
def _running(apply: ApplyFn, rows: int, planes: int, signed: tuple[str, ...]) -> Callable:
    def swap(call: capture.Call, part: tuple[Array, sram.Range, Any]) -> Array:
        matrix, own, bits = part
        w, unit_w = quantize.magnitude(matrix, planes, own.weight)
        x, unit_x = quantize.magnitude(call.x, planes, own.inputs)
        inputs, order = call._replace(x=x).inputs(), sram.channel_first(call.layer)
        sums = [
            sign * adc_matmul(jnp.maximum(sign * inputs[:, order], 0), w[order], bits, rows=rows, planes=planes)
            for sign in ((1, -1) if call.layer.path in signed else (1,))
        ]
        return functools.reduce(jnp.add, sums) * (unit_x * unit_w)

    return jax.jit(capture.replace(apply, swap))
