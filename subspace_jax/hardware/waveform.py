"""One analog product in time: word line, bit lines and their shared charge, without noise.

The input is the amplitude of the word line, V_WL = .3 + .7 v / 15 volt, for .4 ns. The precharge of bit line j is let
go late, so that it discharges for the last .05 2^j ns only; then the four equal lines share their charge, and what they
fell by together is the product. (Ali et al., "IMAC", IEEE TCAS-I 2020; 65 nm, 1.2 V, 50 fF a line.)
"""

from typing import NamedTuple

import numpy as np

from subspace_jax.core import checks
from subspace_jax.hardware.products import BITS, product_table
from subspace_jax.typing import Float

PRECHARGE = 1.2  # volt of a bit line before
LOW, HIGH = 0.3, 1.0  # volt of the word line at the inputs 0 and 15
PULSE, SHARING = 0.4, 0.2  # ns
SHORTEST = 0.05  # ns of discharge of bit 0
CAPACITY = 50.0  # fF of a bit line
STEPS = 121


class Waveform(NamedTuple):
    """Voltages over time.

    Attributes:
      time: ns.
      word_line: volt.
      bit_lines: volt, bit 0 first.
    """

    time: Float[np.ndarray, " steps"]
    word_line: Float[np.ndarray, " steps"]
    bit_lines: Float[np.ndarray, "steps bits"]

    @property
    def product(self) -> float:
        """Volt by which the lines have fallen after sharing."""
        return PRECHARGE - float(self.bit_lines[-1].mean())


def word_line(v: int) -> float:
    """Volt of the word line's pulse for an input 0..15."""
    return LOW + (HIGH - LOW) * v / (2**BITS - 1)


def durations() -> Float[np.ndarray, " bits"]:
    """How long each bit line discharges, ns: .05, .1, .2, .4."""
    return SHORTEST * 2.0 ** np.arange(BITS)


@checks.on_host
def current(v: int) -> float:
    """Microampere of a cell that holds 1, at an input v; 0 below the threshold of the word line.

    It is the constant one that gives the mean simulated product of the largest weight, M(15, v) = (1 / 4) sum_j I t_j /
    C, whose bit lines all discharge.
    """
    if v not in range(2**BITS):
        raise ValueError(f"the input is whole, in [0, {2**BITS - 1}]; got {v}.")
    fallen = max(product_table()[-1, v], 0.0)
    return float(fallen * BITS * CAPACITY / durations().sum())


def bitline_waveform(w: int, v: int) -> Waveform:
    """Voltages while a weight is multiplied by an input: ideal discharges, then sharing at a constant rate.

    Args:
      w: weight 0..15; line j discharges if its bit j is set.
      v: input 0..15.

    Raises:
      ValueError: a weight or an input that is not whole in 0..15.
    """
    for what, code in {"weight": w, "input": v}.items():
        if code not in range(2**BITS):
            raise ValueError(f"the {what} is whole, in [0, {2**BITS - 1}]; got {code}.")
    time = np.linspace(0, PULSE + SHARING, STEPS)
    pulse = np.where(time <= PULSE, word_line(v), 0.0)
    held = (w >> np.arange(BITS)) & 1
    spent = np.clip(time[:, None] - (PULSE - durations()), 0, durations())
    lines = PRECHARGE - held * current(v) * spent / CAPACITY
    share = np.clip((time - PULSE) / SHARING, 0, 1)[:, None]
    return Waveform(time, pulse, (1 - share) * lines + share * lines.mean(1, keepdims=True))
