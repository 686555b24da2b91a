"""The one counting rule, against plain loops over exact fractions and over singular values."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core.subspace import participation_ratio, significant_dims

RULES = st.sampled_from(["reach", "below", "at_most"])
TAUS = st.sampled_from([0.1, 0.5, 0.9, 0.95, 0.99, 0.999])
WHOLE = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any)


def by_loop(values, tau, rule):
    """Counted one by one in exact arithmetic."""
    values = sorted(values, reverse=True)
    tau, total, before, count = Fraction(str(tau)), sum(values), Fraction(0), 0
    for value in values:
        after = before + Fraction(value, total)
        count += {"reach": before < tau and value > 0, "below": after < tau, "at_most": after <= tau}[rule]
        before = after
    return count


@given(WHOLE, TAUS, RULES)
def test_ties_are_counted_as_exact_arithmetic_counts_them(values, tau, rule):
    assert int(significant_dims(np.array(values, float), tau=tau, rule=rule)) == by_loop(values, tau, rule)


@pytest.mark.parametrize("width", [3, 10, 70])
def test_equal_eigenvalues_take_their_share(width):
    for tau in (0.1, 0.3, 0.6, 0.7, 0.9):
        exact = Fraction(str(tau)) * width
        counts = [int(significant_dims(np.ones(width), tau=tau, rule=rule)) for rule in ("reach", "below", "at_most")]
        assert counts == [-(-exact // 1), -(-exact // 1) - 1, exact // 1]


@given(WHOLE, TAUS)
def test_below_is_one_fewer_than_reach_and_no_more_than_at_most(values, tau):
    reach, below, at_most = (
        int(significant_dims(np.array(values, float), tau=tau, rule=rule)) for rule in ("reach", "below", "at_most")
    )
    assert below == reach - 1
    assert below <= at_most
    assert 1 <= reach <= np.count_nonzero(values)


@given(WHOLE, RULES)
def test_a_larger_share_counts_no_fewer(values, rule):
    counts = [int(significant_dims(np.array(values, float), tau=tau, rule=rule)) for tau in (0.2, 0.5, 0.9, 0.99, 1.0)]
    assert counts == sorted(counts)


@given(st.integers(0, 2**31 - 1), st.sampled_from([1e-200, 1e-3, 1e150]), RULES)
def test_neither_scale_nor_order_nor_negative_rounding_counts(seed, scale, rule):
    rng = np.random.default_rng(seed)
    values = rng.exponential(size=9) ** 3
    other = np.append(rng.permutation(values), -1e-18) * scale
    assert significant_dims(values, tau=0.9, rule=rule) == significant_dims(other, tau=0.9, rule=rule)
    assert participation_ratio(values) == pytest.approx(participation_ratio(other))


def test_the_whole_share_is_the_numerical_rank():
    values = np.array([1.0, 0.5, 1e-9, 1e-15, 0.0])
    assert significant_dims(values, tau=1) == 3


def test_leading_axes_are_counted_each():
    values = np.array([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for rule, counts in {"reach": [2, 1, 0], "below": [1, 0, 0], "at_most": [1, 0, 0]}.items():
        np.testing.assert_array_equal(significant_dims(values, tau=0.9, rule=rule), counts)
    np.testing.assert_array_equal(participation_ratio(values), [2, 1, 0])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0], {"tau": 0}, "in (0, 1]; got 0"),
        ([1.0], {"tau": 1.5}, "in (0, 1]; got 1.5"),
        ([1.0, np.nan], {"tau": 0.9}, "eigenvalues must be finite; got nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(values, options, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        significant_dims(np.array(values), **options)
    assert message in str(refused.value)


def test_an_unknown_rule_is_refused(unchecked):
    with pytest.raises(ValueError, match='one of "reach", "below", "at_most"; got \'above\''):
        significant_dims(np.ones(2), tau=0.9, rule="above")


def test_a_count_inside_jit_is_refused():
    with pytest.raises(ValueError, match="a count of eigenvalues computes on the host, in NumPy"):
        jax.jit(participation_ratio)(np.ones(3, np.float32))
