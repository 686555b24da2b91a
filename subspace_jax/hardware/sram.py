"""A trained network inside SRAM: products in few bits, sums through converters that differ from chip to chip.

The network-level model of IMAC (Ali et al., IEEE TCAS-I 2020), for every dense and convolutional layer of any network.
Weights and inputs become sign and magnitude in k bits. A layer of d_in inputs is summed in n_c = d_in / rows (a real
number) conversions of b bits each, together L = (2^b - 1) n_c levels between 0 and the largest sum seen in calibration,
M+ for sums above zero and M- for those below:

    y = sign(s) clip(round(|s| L / M) + e, 0, L) M / L,      e = round(sigma sqrt(n_c) N(0, 1))

with one e for each output neuron of a chip, the same for all its images. Biases are added afterwards, and whatever is
no product stays digital. Against the authors' code: sums below zero keep their sign, all layers follow the same rule,
and ranges are measured once, so that nothing depends on the batch.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture, quantize
from subspace_jax.core.capture.run import Visitor, run
from subspace_jax.core.capture.static import hold
from subspace_jax.core.capture.table import trace
from subspace_jax.core.checks import check_data, check_finite, on_host
from subspace_jax.core.keys import as_key
from subspace_jax.typing import ApplyFn, Array, Float, Key, Variables

MOST_ROWS = 25  # summed on one line in the authors' simulation of the circuit
IMAGES = 512  # of one call

Chip = Mapping[str, Float[Array, "positions d_out"]]


class Design(NamedTuple):
    """The array and its converters.

    Attributes:
      bits: of the magnitude of weights and inputs.
      adc_bits: of a converter.
      rows: summed before one conversion.
      sigma: deviation of one conversion, in steps of the converter; .6 in the authors' simulation of the circuit.
    """

    bits: int = 4
    adc_bits: int = 4
    rows: int = 10
    sigma: float = 0.6


DESIGN = Design()


class Range(NamedTuple):
    """Largest magnitudes in one layer.

    Attributes:
      weight: of its kernel.
      inputs: of what it reads.
      high: of its sums above zero, without bias; 0 where there are none.
      low: of those below.
    """

    weight: Float[Array, ""]
    inputs: Float[Array, ""]
    high: Float[Array, ""]
    low: Float[Array, ""]


class Calibration(NamedTuple):
    """What is measured once for a network and a number of bits; numbers only, so that it can be saved.

    Attributes:
      ranges: {path: Range} of the layers in the array.
      shapes: {path: (positions, d_in, d_out)} of one sample, in the order of execution.
      digital: paths of the layers that stay digital: grouped convolutions, layers in scans and loops.
      bits: of the magnitudes.
      signed: paths of the layers that read values below zero, such as normalised images.
    """

    ranges: dict[str, Range]
    shapes: dict[str, tuple[int, int, int]]
    digital: tuple[str, ...]
    bits: int
    signed: tuple[str, ...]


@on_host
def calibrate(apply: ApplyFn, variables: Variables, images: Array | np.ndarray, *, bits: int = 4) -> Calibration:
    """Ranges of all layers on training images, in one pass of the quantised network.

    Args:
      apply: (variables, images) -> logits, at inference; the batch is the first axis of what every layer reads.
      variables: of the network.
      images: training images (n, ...), all in one batch; the authors take 1,000.
      bits: of the magnitudes of weights and inputs.

    Raises:
      ValueError: bits outside 1..16, images or weights that are not finite, a network without a layer for the array, a
        layer whose weights or inputs are all zero.
    """
    quantize.check_bits(bits)
    check_finite("images", images)
    table, digital = _in_array(apply, variables, images)
    kernels = capture.kernels(table, variables)
    check_finite("weights", kernels, remedy="train the network anew")
    measured = _measuring(apply, bits)(variables, kernels, jnp.asarray(images))
    ranges = {path: Range(*map(jnp.asarray, measured[path].max(0)[:4])) for path in table}
    for path, own in ranges.items():
        for what, largest in (("weights", own.weight), ("inputs", own.inputs)):
            if not largest > 0:
                raise ValueError(f"the {what} of {path!r} are all zero: no range can be taken from them.")
    shapes = {path: (layer.rows, layer.d_in, layer.d_out) for path, layer in table.items()}
    signed = tuple(path for path in table if measured[path][:, 4].max() > 0)
    return Calibration(ranges, shapes, digital, bits, signed)


def check(design: Design) -> None:
    """Refuse a design that cannot be built or simulated.

    Raises:
      ValueError: bits outside 1..16, rows outside 1..25, a deviation below zero or not finite.
    """
    quantize.check_bits(design.bits)
    quantize.check_bits(design.adc_bits)
    if design.rows not in range(1, MOST_ROWS + 1):
        raise ValueError(f"rows summed before a conversion are whole, in [1, {MOST_ROWS}]; got {design.rows}.")
    if not 0 <= design.sigma < math.inf:
        raise ValueError(f"the deviation of a conversion is at least 0 and finite; got {design.sigma}.")


def sample_chip(key: Key[Array, ""], calibration: Calibration, design: Design = DESIGN) -> Chip:
    """The offsets e of one chip, whole steps of a converter: {path: (positions, d_out)}.

    They depend on the place of a layer in the order of execution and not on its name: a network that is written in
    another library gets the same chip.

    Raises:
      ValueError: as `check`.
    """
    check(design)
    key, chip = as_key(key), {}
    for number, (path, (positions, d_in, d_out)) in enumerate(calibration.shapes.items()):
        drawn = jax.random.normal(jax.random.fold_in(key, number), (positions, d_out))
        chip[path] = jnp.round(design.sigma * math.sqrt(d_in / design.rows) * drawn)
    return chip


@on_host
def run_chip(
    apply: ApplyFn, variables: Variables, calibration: Calibration, x: Array | np.ndarray,
    *, chip: Chip | None = None, design: Design = DESIGN,
) -> Float[Array, "n ..."]:  # fmt: skip
    """What the network gives inside the array.

    Args:
      apply: as in `calibrate`.
      variables: of the network that was calibrated.
      calibration: its ranges.
      x: a batch (n, ...).
      chip: from `sample_chip`; None: products in few bits, but no converter.
      design: the array.

    Raises:
      ValueError: as `check`; a design of other bits, a calibration of another network.
    """
    parts = parts_of(apply, variables, calibration, x, design)
    return _running(apply, *design[:3])(variables, parts, chip, jnp.asarray(x))


@on_host
def over_chips(
    key: Key[Array, ""], apply: ApplyFn, variables: Variables, calibration: Calibration, x: Array | np.ndarray,
    y: Array | np.ndarray, *, chips: int, design: Design = DESIGN, at_once: int = 10,
) -> Float[np.ndarray, " chips"]:  # fmt: skip
    """Accuracy of many chips, each with offsets of its own; chip i is the one of `fold_in(key, i)`.

    Args:
      key: of all chips.
      apply: as in `calibrate`.
      variables: of the network that was calibrated.
      calibration: its ranges.
      x: samples (n, ...).
      y: labels (n,).
      chips: how many.
      design: the array.
      at_once: chips in one call, on 512 samples each; it changes the memory and not the result.

    Raises:
      ValueError: as `run_chip`; no chip; samples that are not finite or have no label each.
    """
    if chips < 1 or at_once < 1:
        raise ValueError(f"there is at least 1 chip, and 1 at once; got {chips} and {at_once}.")
    check_data(x, y)
    key, parts = as_key(key), parts_of(apply, variables, calibration, x, design)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(chips))
    program, right = _counting(apply, *design[:3]), np.zeros(chips)
    for first in range(0, chips, at_once):
        some = jax.vmap(lambda own: sample_chip(own, calibration, design))(keys[first : first + at_once])
        for start in range(0, len(x), IMAGES):
            batch = jnp.asarray(x[start : start + IMAGES]), jnp.asarray(y[start : start + IMAGES])
            right[first : first + at_once] += np.asarray(program(variables, parts, some, *batch))
    return right / len(x)


def convert(
    sums: Float[Array, "n positions d_out"], own: Range, offsets: Float[Array, "positions d_out"],
    levels: float,
) -> Float[Array, "n positions d_out"]:  # fmt: skip
    """Sums as the converters of a chip give them, by the formula of this module; a side without a range gives 0."""
    most = jnp.where(sums < 0, own.low, own.high)
    step = jnp.where(most > 0, most, 1.0) / levels
    code = jnp.clip(jnp.round(jnp.abs(sums) / step) + offsets[None], 0, levels)
    return jnp.sign(sums) * jnp.where(most > 0, code * step, 0.0)


def _in_array(apply: ApplyFn, variables: Variables, x: Any) -> tuple[capture.Layers, tuple[str, ...]]:
    """The layers of one sample that the array can hold, and the names of the others."""
    found = capture.layers(apply, variables, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))
    digital = tuple(path for path, layer in found.items() if layer.lead or layer.is_complex)
    if len(digital) == len(found):
        raise ValueError(f"no layer fits into the array: {', '.join(digital)} are grouped, scanned or complex.")
    return capture.Layers({path: own for path, own in found.items() if path not in digital}, found.other), digital


def parts_of(
    apply: ApplyFn, variables: Variables, calibration: Calibration, x: Any, design: Design
) -> dict[str, tuple[Array, Range]]:
    """Kernel and ranges of each layer, which are known then to belong together.

    Raises:
      ValueError: as `run_chip`.
    """
    check(design)
    if design.bits != calibration.bits:
        raise ValueError(f"the design has {design.bits} bits, the calibration {calibration.bits}: calibrate again.")
    table, _ = _in_array(apply, variables, x)
    kernels = capture.kernels(table, variables)
    for path in table.keys() | calibration.ranges.keys():
        same = path in table and path in calibration.ranges
        if not same or not np.isclose(calibration.ranges[path].weight, jnp.abs(kernels[path]).max(), rtol=1e-6):
            raise ValueError(f"{path!r} is not the layer that was calibrated: calibrate this network.")
    return {path: (kernels[path], calibration.ranges[path]) for path in table}


def channel_first(layer: capture.Layer) -> np.ndarray:
    """Positions of a layer's inputs in the order in which an array holds them: (channel, row, column) of a window."""
    return np.arange(layer.d_in).reshape(math.prod(layer.window), -1).T.reshape(-1)


def product(call: capture.Call, matrix: Array, bits: int, weight: Array, inputs: Array) -> Array:
    """Rows (n, d_out) of the product in few bits, of whole numbers: exact on any device if the network is float32."""
    w, unit_w = quantize.magnitude(matrix, bits, weight)
    x, unit_x = quantize.magnitude(call.x, bits, inputs)
    return call._replace(x=x).linear(w) * (unit_x * unit_w)


@functools.lru_cache(maxsize=64)  # one function object, and so one compilation, per network
def _measuring(apply: ApplyFn, bits: int) -> Callable:
    def own(call: capture.Call, matrix: Array) -> Array:
        return product(call, matrix, bits, jnp.abs(matrix).max(), jnp.abs(call.x).max())

    def largest(call: capture.Call, matrix: Array) -> Array:
        sums = own(call, matrix)
        found = jnp.abs(matrix).max(), jnp.abs(call.x).max(), sums.max(), -sums.min(), -call.x.min()
        return jnp.maximum(jnp.stack([value.astype(jnp.float32) for value in found]), 0)[None]

    def swap(call: capture.Call, matrix: Array) -> Array:
        return call.product.restore(own(call, matrix))

    @jax.jit
    def program(variables, kernels, x):
        held, params = hold(apply, variables)
        traced = trace(held, params, (x,), list(kernels))
        return run(traced, params, (x,), Visitor(largest, swap), dict(kernels))[1]

    return program


def _swap(bits: int, adc_bits: int, rows: int) -> Callable:
    def swap(call: capture.Call, part: tuple[Array, Range, Array | None]) -> Array:
        matrix, own, offsets = part
        sums = product(call, matrix, bits, own.weight, own.inputs)
        if offsets is None:
            return sums
        levels = (2**adc_bits - 1) * call.layer.d_in / rows
        return convert(sums.reshape(-1, *offsets.shape), own, offsets, levels).reshape(sums.shape)

    return swap


@functools.lru_cache(maxsize=64)  # without the deviation, which is in the chip: one program for a sweep of it
def _running(apply: ApplyFn, bits: int, adc_bits: int, rows: int) -> Callable:
    swapped = capture.replace(apply, _swap(bits, adc_bits, rows))

    @jax.jit
    def program(variables, parts, chip, x):
        return swapped(variables, {path: (*own, chip and chip[path]) for path, own in parts.items()}, x)

    return program


@functools.lru_cache(maxsize=64)
def _counting(apply: ApplyFn, bits: int, adc_bits: int, rows: int) -> Callable:
    """Right answers of each of several chips on one batch."""
    one = _running(apply, bits, adc_bits, rows)

    @jax.jit
    def program(variables, parts, chips, x, y):
        logits = jax.vmap(lambda chip: one(variables, parts, chip, x))(chips)
        return (logits.argmax(-1) == y[None]).sum(1)

    return program
