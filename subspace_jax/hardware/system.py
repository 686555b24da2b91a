"""Delay and energy of multiply-accumulates inside an SRAM array, beside a digital processor that reads its weights.

The system model of IMAC (Ali et al., "IMAC: in-memory multi-bit multiplication and accumulation in 6T SRAM array", IEEE
TCAS-I 2020; 65 nm, constants of the authors' published code). For one sample, with w weights and m multiply-accumulates
(MACs) in a layer, M input channels, N output channels and n^2 positions:

    in memory:  T = sum m B / (columns banks) (t_mac + t_adc / rows)       E = sum m (e_mac + e_adc)
    processor:  T = sum w B / (wires banks) t_read + m / multipliers t     E = sum w e_read + m e_mult + M N n^2 e_reg

Leakage is left out: in the authors' figures it is below a thousandth of the rest.
"""

import math
from typing import NamedTuple

from subspace_jax.core import costs
from subspace_jax.core.capture import Layer, Layers

BITS = 5  # of a weight: sign and magnitude
COLUMNS, BANKS = 256, 4  # of the memory, of either system
MAC_TIME, CONVERSION_TIME = 1.0, 5.0  # ns: one row, one conversion of all accumulated rows
MAC_ENERGY, CONVERSION_ENERGY = 0.2798224, 0.1  # pJ a MAC; the second is the share of a conversion of ten rows
ROWS = 10  # accumulated before a conversion
WIRES, MULTIPLIERS = 16, 175  # bits that a bank of the processor's memory gives at once, parallel multipliers
READ_TIME, MULTIPLY_TIME = 4.0, 4.0  # ns
READ_ENERGY, MULTIPLY_ENERGY, REGISTER_ENERGY = 5.2, 0.9, 4.0  # pJ


class Cost(NamedTuple):
    """What one sample takes: delay (ns) and energy (pJ)."""

    delay: float
    energy: float


class System(NamedTuple):
    """One network on both systems.

    Attributes:
      in_memory: inside the array.
      processor: weights are read and multiplied.
      layers: {path: (in memory, processor)}.
    """

    in_memory: Cost
    processor: Cost
    layers: dict[str, tuple[Cost, Cost]]

    @property
    def delay_ratio(self) -> float:
        """How many times faster the array is."""
        return self.processor.delay / self.in_memory.delay

    @property
    def energy_ratio(self) -> float:
        """How many times less energy the array takes."""
        return self.processor.energy / self.in_memory.energy

    @property
    def edp_ratio(self) -> float:
        """Ratio of the products of energy and delay."""
        return self.delay_ratio * self.energy_ratio


def compare(table: Layers, *, rows: int = ROWS) -> System:
    """Delay and energy of all layers for one sample, one layer after the other.

    Args:
      table: `capture.layers` of the network with one sample.
      rows: accumulated before a conversion, whose time they share and whose energy falls with their number.

    Raises:
      ValueError: rows below 1.
    """
    if rows < 1:
        raise ValueError(f"a conversion follows at least 1 row; got {rows}.")
    layers = {path: (_in_memory(layer, rows), _processor(layer)) for path, layer in table.items()}
    in_memory, processor = (_total([pair[side] for pair in layers.values()]) for side in (0, 1))
    return System(in_memory, processor, layers)


def _total(each: list[Cost]) -> Cost:
    return Cost(sum(cost.delay for cost in each), sum(cost.energy for cost in each))


def _in_memory(layer: Layer, rows: int) -> Cost:
    macs = costs.layer_macs(layer)
    delay = macs * BITS / (COLUMNS * BANKS) * (MAC_TIME + CONVERSION_TIME / rows)
    return Cost(delay, macs * (MAC_ENERGY + CONVERSION_ENERGY * ROWS / rows))


def _processor(layer: Layer) -> Cost:
    macs, copies = costs.layer_macs(layer), math.prod(layer.lead)
    weights = layer.d_in * layer.d_out * copies
    channels = layer.d_in // math.prod(layer.window)
    registers = channels * layer.d_out * layer.rows * copies
    delay = weights * BITS / (WIRES * BANKS) * READ_TIME + macs / MULTIPLIERS * MULTIPLY_TIME
    return Cost(delay, weights * READ_ENERGY + macs * MULTIPLY_ENERGY + registers * REGISTER_ENERGY)
