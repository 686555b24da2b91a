"""How many of n things a share is: one rule for everything that keeps, plants, sorts or leaves out a part.

A share is the fraction that was typed, not the float next to it: .29 is 29 / 100, and 1 - .9 is a tenth. Floats alone
give int(.29 * 100) = 28 and int(10 * (1 - .9)) = 0. Exact for fractions with a denominator of up to 10^7.

>>> at_most(100, 0.29), kept(10, 0.9), nearest(1437, 0.1)
(29, 1, 144)
"""

import math
from fractions import Fraction

FINEST = 10**7  # such fractions are 1e-14 apart, floats near 1 only 1e-16: a float has one of them beside it
Share = float | int | Fraction


def at_most(n: int, share: Share) -> int:
    """The product n share, rounded down: the largest count that is not more than the share."""
    return int(n * _typed(share) // 1)


def nearest(n: int, share: Share) -> int:
    """The product n share, rounded to the nearest count; half goes to the even one."""
    return round(n * _typed(share))


def kept(n: int, dropped: Share) -> int:
    """What is left where the share `dropped` goes: n (1 - dropped), rounded down."""
    return at_most(n, 1 - _typed(dropped))


def _typed(share: Share) -> Fraction:
    if not -math.inf < share < math.inf:
        raise ValueError(f"a share is a finite number; got {share}.")
    return Fraction(share if isinstance(share, Fraction) else float(share)).limit_denominator(FINEST)
