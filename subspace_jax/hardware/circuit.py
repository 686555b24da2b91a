"""A trained network by the simulated circuit: groups of analog products, each group through one converter.

Codes are those of `sram`: sign and magnitude in k bits. Of a layer the inputs, in the order (channel, row, column) of a
window, go in groups of `rows`; positive and negative weights are summed apart, and so are inputs where a layer reads
both signs. A group's sum S = sum_i M(W_i, v_i), volt, passes a converter of b bits between `low` and `high`; what they
give is added with its signs, and one gain and offset a layer turn volt into numbers.

The table M has nearly rank 6 (within .1 mV), so that S is one matrix product of operands that are looked up once each,
and never one look-up a product. Rank 4 is within 1.3 mV, which is too much: most weights are small, and so are their
products, so that it costs accuracy.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture, quantize
from subspace_jax.core.capture.run import Visitor, run
from subspace_jax.core.capture.static import hold
from subspace_jax.core.capture.table import trace
from subspace_jax.core.checks import check_finite
from subspace_jax.core.keys import as_key
from subspace_jax.hardware import products, sram
from subspace_jax.typing import ApplyFn, Array, Float, Key, Variables

PERCENTILES = 0.1, 99.9  # of the group sums: a calibrated converter
SMALLEST = 1e-12  # volt^2: sums that vary less are constant


class Circuit(NamedTuple):
    """The array, its products and its converters.

    Attributes:
      bits: of the magnitude of weights and inputs.
      adc_bits: of a converter; None: sums are taken as they are.
      rows: products summed in one group, 1 to 25.
      table: of `products.product_table`.
      range: of a converter: "calibrated", the .1 and 99.9 percentiles of the layer's sums; "full", from `rows` products
        of zeros to `rows` largest products.
      rank: of the table's factors.
      passive: ratio of the sampling capacitor to the one that accumulates; .02 in the authors' layout. 0: all rows
        count alike, else later ones count more.
    """

    bits: int = 4
    adc_bits: int | None = 4
    rows: int = 10
    table: products.Kind = "mc_mean"
    range: Literal["calibrated", "full"] = "calibrated"
    rank: int = 6
    passive: float = 0.0


CIRCUIT = Circuit()


class Fit(NamedTuple):
    """Of one layer: ends of the converter's range (volt), gain (1 / volt) and offset of its sums."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    gain: Float[Array, ""]
    offset: Float[Array, ""]


def check(circuit: Circuit) -> None:
    """Refuse a circuit that cannot be built or was not simulated.

    Raises:
      ValueError: bits, rows, table, range, rank or passive outside what `Circuit` says.
    """
    sram.check(sram.Design(circuit.bits, circuit.adc_bits or 1, circuit.rows))
    if circuit.range not in ("calibrated", "full"):
        raise ValueError(f"the range of a converter is 'calibrated' or 'full'; got {circuit.range!r}.")
    if not 0 <= circuit.passive < math.inf:
        raise ValueError(f"a ratio of capacitors is at least 0 and finite; got {circuit.passive}.")
    products.factors(products.product_table(circuit.table, circuit.bits), circuit.rank)


def fit(
    apply: ApplyFn, variables: Variables, calibration: sram.Calibration, images: Array | np.ndarray, *,
    circuit: Circuit = CIRCUIT,
) -> dict[str, Fit]:  # fmt: skip
    """Range, gain and offset of every layer, on what it reads in the quantised network.

    Gain and offset are those of least squares between the decoded sums and the layer's product in few bits. Sums that
    the converter cannot tell apart get gain 0.

    Args:
      apply: as in `sram.calibrate`.
      variables: of the network that was calibrated.
      calibration: its ranges.
      images: training images (n, ...), all in one batch; 200 suffice.
      circuit: the circuit.

    Raises:
      ValueError: as `check` and `sram.run_chip`; images that are not finite.
    """
    check(circuit)
    check_finite("images", images)
    parts = sram.parts_of(apply, variables, calibration, images, sram.Design(circuit.bits, rows=circuit.rows))
    found = _fitting(apply, circuit, calibration.signed)(variables, parts, jnp.asarray(images))
    return {path: Fit(*map(jnp.asarray, found[path].mean(0))) for path in parts}


def run_circuit(
    apply: ApplyFn, variables: Variables, calibration: sram.Calibration, fits: Mapping[str, Fit],
    x: Array | np.ndarray, *, circuit: Circuit = CIRCUIT, key: Key[Array, ""] | None = None,
) -> Float[Array, "n ..."]:  # fmt: skip
    """What the network gives by the circuit.

    Args:
      apply: as in `sram.calibrate`.
      variables: of the network that was calibrated.
      calibration: its ranges.
      fits: from `fit`, with the same circuit.
      x: a batch (n, ...).
      circuit: the circuit.
      key: draws the noise of the cells, one number a group's sum with the variance of its products; None: no noise.

    Raises:
      ValueError: as `check` and `sram.run_chip`; noise without a simulated table; layers without a fit.
    """
    check(circuit)
    if key is not None and circuit.bits != products.BITS:
        raise ValueError(f"the noise of cells was simulated for 4 bits; got {circuit.bits}: leave out the key.")
    parts = sram.parts_of(apply, variables, calibration, x, sram.Design(circuit.bits, rows=circuit.rows))
    if missing := [path for path in parts if path not in fits]:
        raise ValueError(f"there is no fit of {missing[0]!r}: fit this network.")
    keys = {path: key if key is None else jax.random.fold_in(as_key(key), i) for i, path in enumerate(parts)}
    whole = {path: (*own, fits[path], keys[path]) for path, own in parts.items()}
    return _running(apply, circuit, calibration.signed)(variables, whole, jnp.asarray(x))


def row_weights(circuit: Circuit) -> Float[np.ndarray, " rows"] | None:
    """What each row of a group counts for, 1 on average: with r = `passive`, row i counts (1 + r)^i as much as row 0.

    An accumulation capacitor that shares its charge with one sample after the other keeps 1 / (1 + r) of what it had.
    None: all count alike.
    """
    if not circuit.passive:
        return None
    grown = (1 + circuit.passive) ** np.arange(circuit.rows)
    return grown / grown.mean()


def group_sums(
    v: Float[Array, "n k"], w: Float[Array, "k m"], table: Float[np.ndarray, "w v"], *, rows: int, rank: int,
    weights: Float[np.ndarray, " rows"] | None = None,
) -> Float[Array, "n groups m"]:  # fmt: skip
    """S = sum of M(w, v) over each group of rows, volt; the last group is filled up with products of zeros.

    Args:
      v: magnitudes of inputs, whole numbers of the table's columns.
      w: magnitudes of weights, whole numbers of the table's rows.
      table: of products.
      rows: of a group.
      rank: of the table's factors; its size gives the table itself.
      weights: of the rows of a group; all 1 when None.
    """
    of_w, of_v = (jnp.asarray(side, jnp.float32) for side in products.factors(table, rank))
    groups = -(-len(w) // rows)
    filled = groups * rows - len(w)
    w, v = jnp.pad(w, ((0, filled), (0, 0))), jnp.pad(v, ((0, 0), (0, filled)))
    left = of_v[v.astype(jnp.int32)].reshape(len(v), groups, rows, rank)
    if weights is not None:
        left *= jnp.asarray(weights, jnp.float32).reshape(1, 1, rows, 1)
    left = left.reshape(len(v), groups, rows * rank)
    right = jnp.moveaxis(of_w[w.astype(jnp.int32)], 2, 1).reshape(groups, rows * rank, -1)
    return jnp.einsum("ngk,gkm->ngm", left, right, precision="highest")


def _passes(
    call: capture.Call, matrix: Array, own: sram.Range, circuit: Circuit, signed: tuple[str, ...], key: Any = None
) -> list[tuple[int, Array]]:
    """(sign, group sums) of every pair of signs of inputs and weights."""
    w, _ = quantize.magnitude(matrix, circuit.bits, own.weight)
    x, _ = quantize.magnitude(call.x, circuit.bits, own.inputs)
    order = sram.channel_first(call.layer)
    rows, w = call._replace(x=x).inputs()[:, order], w[order]
    shared: Any = {"rows": circuit.rows, "rank": circuit.rank}
    table, weights, found = products.product_table(circuit.table, circuit.bits), row_weights(circuit), []
    for number, (of_x, of_w) in enumerate(
        ((1, 1), (1, -1), (-1, 1), (-1, -1))[: 4 if call.layer.path in signed else 2]
    ):
        codes = jnp.maximum(of_x * rows, 0), jnp.maximum(of_w * w, 0)
        sums = group_sums(*codes, table, weights=weights, **shared)
        if key is not None:
            spread = products.product_table("mc_std") ** 2
            squared = None if weights is None else weights**2
            variance = group_sums(*codes, spread, weights=squared, **shared)
            drawn = jax.random.normal(jax.random.fold_in(key, number), sums.shape)
            sums += jnp.sqrt(jnp.maximum(variance, 0)) * drawn
        found.append((of_x * of_w, sums))
    return found


def _decoded(passes: list[tuple[int, Array]], circuit: Circuit, low: Array, high: Array) -> Array:
    """Sums after their converters, added with their signs: (n, d_out), volt."""
    read = [sign * quantize.quantize(sums, circuit.adc_bits, low, high).sum(1) for sign, sums in passes]
    return functools.reduce(jnp.add, read)


def _ends(passes: list[tuple[int, Array]], circuit: Circuit) -> tuple[Array, Array]:
    """The range of a layer's converters."""
    if circuit.range == "full":
        table = products.product_table(circuit.table, circuit.bits)
        return jnp.float32(circuit.rows * table[0, 0]), jnp.float32(circuit.rows * table[-1, -1])
    low, high = jnp.percentile(jnp.concatenate([sums.reshape(-1) for _, sums in passes]), jnp.array(PERCENTILES))
    return low, high


@functools.lru_cache(maxsize=64)  # one function object, and so one compilation, per network
def _fitting(apply: ApplyFn, circuit: Circuit, signed: tuple[str, ...]) -> Callable:
    def product(call: capture.Call, part: tuple[Array, sram.Range]) -> Array:
        return sram.product(call, part[0], circuit.bits, part[1].weight, part[1].inputs)

    def fitted(call: capture.Call, part: tuple[Array, sram.Range]) -> Array:
        passes, aim = _passes(call, *part, circuit, signed), product(call, part)
        low, high = _ends(passes, circuit)
        read = _decoded(passes, circuit, low, high)
        centred = read - read.mean()
        variance = (centred**2).mean()
        gain = jnp.where(variance > SMALLEST, (centred * aim).mean() / jnp.maximum(variance, SMALLEST), 0.0)
        return jnp.stack([low, high, gain, aim.mean() - gain * read.mean()])[None]

    def swap(call: capture.Call, part: tuple[Array, sram.Range]) -> Array:
        return call.product.restore(product(call, part))

    @jax.jit
    def program(variables, parts, x):
        held, params = hold(apply, variables)
        return run(trace(held, params, (x,), list(parts)), params, (x,), Visitor(fitted, swap), dict(parts))[1]

    return program


@functools.lru_cache(maxsize=64)
def _running(apply: ApplyFn, circuit: Circuit, signed: tuple[str, ...]) -> Callable:
    def swap(call: capture.Call, part: tuple[Array, sram.Range, Fit, Any]) -> Array:
        matrix, own, fitted, key = part
        passes = _passes(call, matrix, own, circuit, signed, key)
        return fitted.gain * _decoded(passes, circuit, fitted.low, fitted.high) + fitted.offset

    return jax.jit(capture.replace(apply, swap))
