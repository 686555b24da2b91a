"""The projector against its formula by SVD, in float64, and what it must do to rows and kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.unlearning.class_projection import unlearn_projector

SHAPES = st.sampled_from([(16, 9), (5, 9)])  # more and fewer rows than features; one size of Gram compiles once
SEEDS = st.integers(0, 2**31 - 1)
ALPHAS = st.sampled_from([0.3, 1.0, 10.0, 1e3])
EXACT = 1e-10  # float64 solves of well-conditioned systems
HARD = 1e8  # "alpha -> inf": a solve of this condition keeps half of the digits
LIMIT = 1e-5  # the soft edge that HARD leaves at the smallest energies of a random matrix
FLOAT32 = 2e-4


def host(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def pair(shape, seed):
    return host(shape, seed), host(shape, seed + 1)


def gram(rows):
    return rows.T @ rows


def soft(rows, alpha):
    _, s, vt = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    p = s**2 / (s**2).sum()
    return (vt.T * (alpha * p / ((alpha - 1) * p + 1))) @ vt


def ours(rows_r, rows_f, alpha_r, alpha_f):
    return unlearn_projector(gram(rows_r), gram(rows_f), alpha_r, alpha_f)


@given(SHAPES, SEEDS, ALPHAS, ALPHAS)
def test_it_is_the_formula_in_this_order_and_not_in_the_other(shape, seed, alpha_r, alpha_f):
    rows_r, rows_f = pair(shape, seed)
    found = ours(rows_r, rows_f, alpha_r, alpha_f)
    m_r, m_f, eye = soft(rows_r, alpha_r), soft(rows_f, alpha_f), np.eye(shape[1])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, eye - m_f + m_f @ m_r, atol=EXACT)
    swapped = np.abs(found - (eye - m_f + m_r @ m_f)).max()
    assert swapped > 1e4 * EXACT  # two random subspaces do not commute
    narrow = unlearn_projector(*(jnp.asarray(gram(r), jnp.float32) for r in (rows_r, rows_f)), alpha_r, alpha_f)
    np.testing.assert_allclose(narrow, found, atol=FLOAT32)


@given(SEEDS)
def test_kernels_that_read_the_retain_space_do_not_change_unless_the_order_is_swapped(seed):
    rows_r, rows_f = pair((4, 9), seed)
    kernel = rows_r.T @ host((4, 3), seed + 2)
    found = ours(rows_r, rows_f, HARD, HARD)
    np.testing.assert_allclose(found @ kernel, kernel, atol=LIMIT * np.abs(kernel).max())
    swapped = np.eye(9) - soft(rows_f, HARD) + soft(rows_r, HARD) @ soft(rows_f, HARD)
    assert np.abs(swapped @ kernel - kernel).max() > 1e-2


@given(SEEDS)
def test_orthogonal_row_spaces_keep_every_retain_row_and_erase_every_forget_row(seed):
    turn, _ = np.linalg.qr(host((9, 9), seed))
    rows_r, rows_f = host((6, 4), seed) @ turn[:4], host((5, 3), seed + 1) @ turn[4:7]
    kernel = host((9, 2), seed + 2)
    edited = ours(rows_r, rows_f, HARD, HARD) @ kernel
    np.testing.assert_allclose(rows_r @ edited, rows_r @ kernel, atol=LIMIT * 10)
    np.testing.assert_allclose(rows_f @ edited, 0, atol=LIMIT * 10)


@given(SHAPES, SEEDS)
def test_the_same_samples_on_both_sides_change_nothing_on_their_span(shape, seed):
    rows = host(shape, seed)
    np.testing.assert_allclose(rows @ ours(rows, rows, HARD, HARD), rows, atol=LIMIT * 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha_r", [0.0, 10.0])
def test_no_strength_is_the_identity_also_where_one_direction_has_all_energy(dtype, alpha_r):
    one = np.diag([4.0, *[0] * 8]).astype(dtype)  # p = 1: the formula is 0 / 0 at alpha = 0
    for other in (one, np.eye(9, dtype=dtype)):
        np.testing.assert_array_equal(unlearn_projector(other, one, alpha_r, 0.0), np.eye(9))


def test_no_energy_removes_nothing_and_protects_nothing():
    nothing, some = np.zeros((9, 9)), np.diag([1.0, *[0] * 8])
    rest = np.eye(9) - some
    np.testing.assert_array_equal(unlearn_projector(some, nothing, 10.0, 10.0), np.eye(9))
    np.testing.assert_array_equal(unlearn_projector(nothing, some, 10.0, 10.0), rest)
    np.testing.assert_array_equal(unlearn_projector(some, some, 0.0, 10.0), rest)  # no_shared


@given(SHAPES, SEEDS, ALPHAS, ALPHAS)
def test_what_is_removed_has_eigenvalues_in_the_unit_interval(shape, seed, alpha_r, alpha_f):
    removed = np.eye(shape[1]) - ours(*pair(shape, seed), alpha_r, alpha_f)
    values = np.linalg.eigvals(removed)
    assert np.abs(values.imag).max() < LIMIT
    assert values.real.min() > -LIMIT
    assert values.real.max() < 1 + LIMIT
    assert np.linalg.norm(removed, 2) > np.abs(values).max()  # it is not symmetric: no bound for its norm


@given(SHAPES, SEEDS, ALPHAS, ALPHAS)
def test_scale_order_and_copies_do_not_matter_and_a_turn_conjugates(shape, seed, alpha_r, alpha_f):
    rows_r, rows_f = pair(shape, seed)
    found = ours(rows_r, rows_f, alpha_r, alpha_f)
    for same_r, same_f in [(7 * rows_r, rows_f / 3), (rows_r[::-1], rows_f[::-1]), (np.tile(rows_r, (2, 1)), rows_f)]:
        np.testing.assert_allclose(ours(same_r, same_f, alpha_r, alpha_f), found, atol=EXACT)
    turn, _ = np.linalg.qr(host((shape[1], shape[1]), seed + 2))
    turned = ours(rows_r @ turn, rows_f @ turn, alpha_r, alpha_f)
    np.testing.assert_allclose(turned, turn.T @ found @ turn, atol=EXACT)


def test_a_grid_is_two_vmaps_and_leading_axes_are_a_batch():
    rows = host((2, 3, 16, 9), 0)
    grams = np.asarray(rows.mT @ rows, np.float32)
    alphas = np.float32([0, 1, 30])
    over_f = jax.vmap(unlearn_projector, (None, None, None, 0))
    grid = jax.jit(jax.vmap(over_f, (None, None, 0, None)))(grams[0], grams[1], alphas, alphas)
    assert grid.shape == (3, 3, 3, 9, 9)
    one = unlearn_projector(grams[0, 1], grams[1, 1], 30.0, 1)
    np.testing.assert_allclose(grid[2, 1, 1], one, atol=FLOAT32)


@pytest.mark.parametrize("alphas", [(-1.0, 1.0), (1.0, float("nan"))])
def test_a_strength_below_zero_is_refused(alphas):
    with pytest.raises(ValueError, match="alpha is the strength"):
        unlearn_projector(np.eye(9), np.eye(9), *alphas)
