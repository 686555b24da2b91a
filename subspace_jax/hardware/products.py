"""Analog products of a 4-bit weight and a 4-bit input in a 6T-SRAM column: what the circuit gives instead of W v.

Volt by which the four bit lines of a weight fall after they share their charge, 65 nm, 27 degrees, 1,000 Monte-Carlo
runs of process variation: mean and deviation from the authors' published circuit simulation (Ali et al., "IMAC", IEEE
TCAS-I 2020). A product of zero is not zero volt, and large products are more than linear. The mean is not the curve of
a circuit without variation, of which only the linear fit is at hand.
"""

import functools
from typing import Literal

import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Float

Kind = Literal["mc_mean", "mc_std", "nominal_fit", "ideal"]
BITS = 4  # of what was simulated
MILLIVOLT = 1e-3
UNIT = 1.875e-3  # volt a unit of W v: the linear fit of the mean
NOMINAL_UNIT, NOMINAL_OFFSET = 1.659e-3, -14.8e-3  # the linear fit without variation, R^2 = .991

# Millivolt; a row a weight 0..15, a column an input 0..15.
MEAN = """
-8.2 -10.7 -10.4 -9.9 -9.4 -8.8 -8.2 -7.6 -7.0 -6.3 -5.6 -4.9 -4.2 -3.5 -2.9 -2.2
-10.0 -8.6 -6.7 -4.1 -1.1 2.3 5.9 9.6 13.5 17.5 21.5 25.6 29.7 33.8 37.8 41.8
-9.2 -7.3 -4.3 -0.4 4.2 9.3 14.7 20.4 26.2 32.1 38.1 44.0 50.0 55.9 61.6 67.3
-8.1 -5.2 -0.6 5.5 12.7 20.6 29.1 38.0 47.1 56.5 66.0 75.6 85.1 94.7 104.1 113.4
-7.6 -4.7 0.3 6.9 14.5 22.9 31.7 40.8 50.0 59.3 68.4 77.3 86.0 94.3 102.3 110.0
-6.5 -2.5 4.2 13.0 23.2 34.5 46.4 58.8 71.4 84.2 97.0 109.6 122.1 134.2 146.0 157.6
-5.8 -1.3 6.5 16.6 28.4 41.4 55.3 69.7 84.4 99.3 114.2 129.0 143.5 157.8 171.7 185.4
-4.5 1.0 10.5 22.9 37.3 53.3 70.2 87.9 106.1 124.6 143.2 161.8 180.2 198.5 216.4 234.2
-4.7 -0.1 8.5 19.4 31.9 45.4 59.3 73.2 86.8 99.8 112.4 125.0 138.4 153.2 169.1 185.6
-4.0 2.0 12.2 25.3 40.4 56.8 73.8 91.1 108.2 124.8 141.2 157.9 175.7 195.0 215.7 237.2
-3.0 3.4 14.7 29.3 46.1 64.3 83.4 102.8 122.0 141.0 159.7 179.0 199.5 221.6 245.1 269.3
-1.8 5.6 18.5 35.2 54.6 75.7 97.9 120.6 143.4 166.1 188.8 212.3 237.4 264.5 293.1 322.5
-1.2 6.1 19.6 36.8 56.8 78.5 101.2 124.4 147.6 170.5 193.3 216.6 241.3 267.6 295.4 324.2
-0.4 8.0 23.0 42.3 64.8 89.4 115.4 142.0 168.8 195.6 222.4 250.3 279.8 311.5 344.9 379.5
0.9 9.6 25.7 46.5 70.7 97.2 125.1 153.9 182.9 212.0 241.5 272.1 304.7 339.6 376.1 413.6
2.1 11.7 29.5 52.5 79.3 108.8 139.9 172.2 205.0 238.1 271.9 307.4 345.4 385.9 427.7 468.9
"""
DEVIATION = """
0.5 0.1 0.1 0.1 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.3 0.3 0.3
0.4 0.6 0.9 1.1 1.2 1.3 1.4 1.5 1.6 1.6 1.7 1.8 1.8 1.9 2.0 2.0
0.6 1.0 1.4 1.7 1.9 2.1 2.2 2.3 2.4 2.5 2.6 2.7 2.8 2.9 3.0 3.1
0.7 1.1 1.6 2.0 2.2 2.4 2.6 2.7 2.8 2.9 3.0 3.1 3.2 3.3 3.4 3.5
1.0 1.7 2.3 2.9 3.2 3.5 3.7 3.8 3.9 4.1 4.2 4.2 4.3 4.5 4.6 4.8
1.1 1.8 2.5 3.0 3.4 3.7 3.9 4.1 4.3 4.4 4.5 4.6 4.7 4.8 5.0 5.2
1.2 1.9 2.7 3.3 3.7 4.0 4.3 4.5 4.6 4.8 4.9 5.0 5.1 5.3 5.4 5.6
1.3 2.1 2.9 3.6 4.0 4.3 4.6 4.8 5.0 5.1 5.3 5.4 5.5 5.6 5.8 6.1
1.8 3.0 4.1 4.9 5.5 5.8 6.0 6.1 6.1 6.2 6.5 7.0 7.9 8.8 9.7 10.3
1.8 3.0 4.1 4.9 5.4 5.8 6.0 6.1 6.1 6.2 6.5 7.0 7.9 9.0 9.9 10.6
1.8 3.0 4.1 5.0 5.5 5.9 6.1 6.3 6.3 6.4 6.8 7.4 8.4 9.5 10.5 11.2
1.8 3.0 4.1 4.9 5.4 5.8 6.0 6.2 6.3 6.4 6.8 7.6 8.7 9.8 10.8 11.5
2.1 3.4 4.7 5.7 6.3 6.8 7.1 7.3 7.4 7.6 8.0 8.7 9.8 10.9 12.0 13.0
2.0 3.4 4.6 5.6 6.3 6.7 7.0 7.2 7.4 7.6 8.0 8.8 10.0 11.3 12.5 13.4
2.1 3.5 4.8 5.8 6.5 7.0 7.3 7.5 7.7 8.0 8.4 9.4 10.7 12.0 13.1 13.9
2.2 3.6 5.0 6.0 6.7 7.2 7.5 7.7 7.9 8.1 8.7 9.8 11.1 12.4 13.1 13.1
"""


@functools.lru_cache
def product_table(kind: Kind = "mc_mean", bits: int = BITS) -> Float[np.ndarray, "w v"]:
    """Volt of each product, weight by input: (2^bits, 2^bits), float64.

    Args:
      kind: "mc_mean" and "mc_std", over the Monte-Carlo runs; "nominal_fit", linear with an offset; "ideal", linear.
      bits: of weight and input; the measured tables exist for 4.

    Raises:
      ValueError: an unknown kind, bits outside 1..8, bits other than 4 for a measured table.
    """
    if kind not in ("mc_mean", "mc_std", "nominal_fit", "ideal"):
        raise ValueError(f"tables are mc_mean, mc_std, nominal_fit and ideal; got {kind!r}.")
    if bits not in range(1, 9):
        raise ValueError(f"a table of products has 1 to 8 bits; got {bits}.")
    codes = np.arange(2.0**bits)
    if kind == "ideal":
        return UNIT * np.outer(codes, codes)
    if kind == "nominal_fit":
        return NOMINAL_UNIT * np.outer(codes, codes) + NOMINAL_OFFSET
    if bits != BITS:
        raise ValueError(f"{kind} was simulated for 4 bits; got {bits}: take the table nominal_fit or ideal.")
    rows = (MEAN if kind == "mc_mean" else DEVIATION).split("\n")[1:-1]
    return MILLIVOLT * np.array([row.split() for row in rows], float)


@checks.on_host
def factors(
    table: Float[np.ndarray, "w v"], rank: int
) -> tuple[Float[np.ndarray, "w rank"], Float[np.ndarray, "v rank"]]:
    """A and B with A B' next to the table in least squares: a sum of products becomes `rank` matrix products.

    Raises:
      ValueError: no table, or values that are not finite; a rank below 1 or above the size of the table.
    """
    checks.check_axes("a table of products", table, 2)
    checks.check_finite("a table of products", table, remedy="take one of product_table")
    if rank not in range(1, len(table) + 1):
        raise ValueError(f"the rank is in [1, {len(table)}]; got {rank}.")
    u, s, vt = np.linalg.svd(table)
    return u[:, :rank] * s[:rank], vt[:rank].T
