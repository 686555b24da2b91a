"""Counts of shares against tables by hand and against integer arithmetic."""

from fractions import Fraction

import pytest

from subspace_jax.core import compress, shares

SIZES = 10, 40, 50, 100, 1000
KEPT = {0.5: (5, 20, 25, 50, 500), 0.9: (1, 4, 5, 10, 100), 0.99: (0, 0, 0, 1, 10), 0.999: (0, 0, 0, 0, 1)}


@pytest.mark.parametrize("ratio", KEPT)
def test_what_is_left_of_a_share_that_goes(ratio):
    assert tuple(shares.kept(n, ratio) for n in SIZES) == KEPT[ratio]
    assert tuple(compress.kept(n, ratio) for n in SIZES) == tuple(max(1, count) for count in KEPT[ratio])


@pytest.mark.parametrize("parts", [3, 10, 100, 997])
def test_a_typed_fraction_is_counted_as_integers_would(parts):
    for part in range(0, parts + 1, 1 + parts // 100):
        for n in (9, 50, 1000):
            share = part / parts
            assert shares.at_most(n, share) == n * part // parts
            assert shares.nearest(n, share) == round(Fraction(n * part, parts))
            assert shares.kept(n, share) == n * (parts - part) // parts


def test_a_sum_of_shares_is_no_typed_fraction_but_counts_as_one():
    assert 0.1 + 0.2 != 0.3
    assert shares.at_most(10, 0.1 + 0.2) == shares.at_most(10, 0.3) == 3
    assert shares.at_most(10, 0.1 + 0.7) == 8  # .7999999999999999


def test_the_smallest_share_of_a_large_tensor():
    assert shares.kept(10**8, 0.9999999) == 10
    assert shares.at_most(10**8, 1e-7) == 10
