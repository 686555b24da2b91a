import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import subspace

SHAPES = st.sampled_from([(16, 6), (5, 9)])  # few shapes: each one compiles once
SEEDS = st.integers(0, 2**31 - 1)
ALPHAS = st.sampled_from([0.3, 1.0, 10.0, 1e3])
FLOAT32_EIGH = 2e-4  # eigh of a float32 Gram loses half the digits of the singular values
FLOAT64_EIGH = 1e-6  # the same in float64, at the floor of 1e-12 of the energy


def draw(shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


def host(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def resolvent_by_svd(rows, alpha):
    _, s, vt = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    p = s**2 / (s**2).sum()
    return (vt.T * (alpha * p / ((alpha - 1) * p + 1))) @ vt


@given(SHAPES, SEEDS)
def test_full_energy_projector_keeps_every_captured_row(shape, seed):
    rows = draw(shape, seed)
    space = subspace.from_gram(rows.T @ rows, energy=1.0)
    chex.assert_trees_all_close(rows @ subspace.projector(space), rows, atol=FLOAT32_EIGH * shape[1])
    assert int(space.rank) == min(shape)


@given(SHAPES, SEEDS, st.sampled_from([0.0, 0.5, 0.9, 0.999]))
def test_rank_is_the_smallest_with_the_energy(shape, seed, energy):
    rows = host(shape, seed)
    shares = np.linalg.svd(rows, compute_uv=False) ** 2
    shares = np.concatenate([[0], np.cumsum(shares / shares.sum())])
    gram = rows.T @ rows
    space = subspace.from_gram(gram, energy=energy)
    assert int(space.rank) == int(np.argmax(shares >= energy - 1e-12))
    np.testing.assert_allclose(subspace.energy_share(space, gram), shares[int(space.rank)], atol=FLOAT64_EIGH)


@given(SHAPES, SEEDS)
def test_columns_are_orthonormal_and_zero_beyond_the_rank(shape, seed):
    rows = draw(shape, seed)
    space = subspace.from_gram(rows.T @ rows, energy=0.9, capacity=shape[1] + 2)
    expected = jnp.diag((jnp.arange(shape[1] + 2) < space.rank).astype(jnp.float32))
    chex.assert_trees_all_close(space.basis.T @ space.basis, expected, atol=FLOAT32_EIGH)


def test_a_small_capacity_keeps_the_largest_energies():
    space = subspace.from_gram(jnp.diag(jnp.array([1.0, 4.0, 2.0, 3.0])), energy=1.0, capacity=2)
    assert int(space.rank) == 2
    chex.assert_trees_all_close(jnp.diag(subspace.projector(space)), jnp.array([0.0, 1, 0, 1]), atol=1e-6)


@given(SHAPES, SEEDS, st.sampled_from([0.8, 1.0]))
def test_rows_and_their_gram_give_one_space(shape, seed, energy):
    rows = host(shape, seed)
    ours = subspace.from_rows(rows, energy=energy)
    theirs = subspace.from_gram(rows.T @ rows, energy=energy)
    assert ours.basis.shape == theirs.basis.shape
    np.testing.assert_allclose(subspace.projector(ours), subspace.projector(theirs), atol=FLOAT64_EIGH)


@given(SEEDS)
def test_union_spans_both_and_keeps_the_first_columns(seed):
    rows = draw((5, 8), seed)
    first, second = (subspace.from_gram(part.T @ part, energy=1.0) for part in (rows[:3], rows[2:]))
    both = subspace.union(first, second)
    assert int(both.rank) == 5
    chex.assert_trees_all_equal(both.basis[:, :3], first.basis[:, :3])
    chex.assert_trees_all_close(both.basis[:, :5].T @ both.basis[:, :5], jnp.eye(5), atol=FLOAT32_EIGH)
    chex.assert_trees_all_close(rows @ subspace.projector(both), rows, atol=FLOAT32_EIGH * 8)
    assert int(subspace.union(both, first).rank) == 5


@given(SHAPES, SEEDS, st.sampled_from([0.5, 0.9, 1.0]))
def test_growth_keeps_its_columns_and_adds_as_few_as_reach_the_energy(shape, seed, energy):
    first, second = host(shape, seed), host(shape, seed + 1)
    space = subspace.from_gram(first.T @ first, energy=0.5)
    old = int(space.rank)
    gram = second.T @ second
    grown = subspace.grow(space, gram, energy=energy)
    np.testing.assert_array_equal(grown.basis[:, :old], space.basis[:, :old])
    rank = int(grown.rank)
    np.testing.assert_allclose(grown.basis.T @ grown.basis, np.diag(np.arange(shape[1]) < rank), atol=1e-9)
    outside = np.eye(shape[1]) - subspace.projector(space)
    new = np.linalg.svd(second @ outside, compute_uv=False) ** 2 / np.trace(gram)
    shares = float(subspace.energy_share(space, gram)) + np.concatenate([[0], np.cumsum(new)])
    assert rank - old == int(np.argmax(shares >= energy - 1e-6))
    np.testing.assert_allclose(subspace.energy_share(grown, gram), shares[rank - old], atol=FLOAT64_EIGH)


def test_growth_is_one_program_with_one_energy_per_leading_entry():
    rows = draw((3, 20, 6), 0)
    space = subspace.from_gram(rows[:, :2].mT @ rows[:, :2], energy=1.0)
    energies = jnp.array([0.0, 0.9, 1.0])
    grown = jax.jit(lambda energy: subspace.grow(space, rows.mT @ rows, energy=energy))(energies)
    assert [int(rank) for rank in grown.rank[jnp.array([0, 2])]] == [2, 6]
    for i in range(3):
        one = subspace.Subspace(space.basis[i], space.rank[i])
        alone = subspace.grow(one, rows[i].T @ rows[i], energy=float(energies[i]))
        chex.assert_trees_all_close(
            subspace.projector(subspace.Subspace(grown.basis[i], grown.rank[i])), subspace.projector(alone),
            atol=FLOAT32_EIGH,
        )  # fmt: skip


def test_a_small_capacity_grows_by_the_largest_energies_that_fit():
    space = subspace.from_gram(np.diag([1.0, 0, 0, 0]), energy=1.0, capacity=2)
    grown = subspace.grow(space, np.diag([0.0, 1, 3, 2]), energy=1.0)
    np.testing.assert_allclose(np.diag(subspace.projector(grown)), [1, 0, 1, 0], atol=1e-12)


@given(SEEDS)
def test_complement_is_everything_else(seed):
    rows = draw((3, 8), seed)
    space = subspace.from_gram(rows.T @ rows, energy=1.0)
    other = subspace.complement(space)
    assert int(other.rank) == 5
    chex.assert_trees_all_close(subspace.projector(space) + subspace.projector(other), jnp.eye(8), atol=FLOAT32_EIGH)


MAKERS = {
    "projector": lambda gram: subspace.projector(subspace.from_gram(gram, energy=0.9)),
    "complement": lambda gram: subspace.projector(subspace.complement(subspace.from_gram(gram, energy=0.9))),
    "resolvent": lambda gram: subspace.resolvent(gram, 10.0),
}


@pytest.mark.parametrize("make", MAKERS)
def test_leading_axes_are_a_batch(make):
    rows = draw((2, 3, 6, 4), 0)
    grams = rows.mT @ rows
    one_by_one = jax.lax.map(MAKERS[make], grams.reshape(6, 4, 4))
    chex.assert_trees_all_close(MAKERS[make](grams).reshape(6, 4, 4), one_by_one, atol=FLOAT32_EIGH)


@given(SHAPES, SEEDS, ALPHAS)
def test_resolvent_equals_its_svd_formula(shape, seed, alpha):
    rows = draw(shape, seed)
    np.testing.assert_allclose(
        subspace.resolvent(rows.T @ rows, alpha), resolvent_by_svd(rows, alpha), atol=FLOAT32_EIGH
    )


@given(SHAPES, SEEDS, st.sampled_from([1.0, 1e4, 1e8]))
def test_float64_resolvent_is_exact_at_any_strength(shape, seed, alpha):
    rows = host(shape, seed)
    ours = subspace.resolvent(rows.T @ rows, alpha)
    assert isinstance(ours, np.ndarray)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, resolvent_by_svd(rows, alpha), atol=1e-6)


@given(SHAPES, SEEDS, ALPHAS)
def test_resolvent_is_symmetric_soft_and_commutes(shape, seed, alpha):
    rows = host(shape, seed)
    gram = rows.T @ rows
    m = subspace.resolvent(gram, alpha)
    np.testing.assert_array_equal(m, m.T)
    values = np.linalg.eigvalsh(m)
    assert values.min() >= -1e-12
    assert values.max() <= 1 + 1e-12
    np.testing.assert_allclose(m @ gram, gram @ m, atol=1e-9)


@given(SHAPES, SEEDS)
def test_resolvent_at_one_is_the_gram_and_at_infinity_the_projector(shape, seed):
    rows = host(shape, seed)
    gram = rows.T @ rows
    np.testing.assert_allclose(subspace.resolvent(gram, 1.0), gram / np.trace(gram), atol=1e-12)
    limit = subspace.resolvent(gram, 1e12)
    np.testing.assert_allclose(rows @ limit, rows, atol=1e-4)
    np.testing.assert_allclose(limit, subspace.projector(subspace.from_gram(gram, energy=1)), atol=1e-4)


@given(SHAPES, SEEDS)
def test_resolvent_grows_with_alpha(shape, seed):
    rows = host(shape, seed)
    weak, strong = (subspace.resolvent(rows.T @ rows, alpha) for alpha in (3.0, 30.0))
    assert np.linalg.eigvalsh(strong - weak).min() >= -1e-12


@given(SHAPES, SEEDS, ALPHAS)
def test_resolvent_does_not_see_scale_copies_order_and_turns_with_the_basis(shape, seed, alpha):
    rows = host(shape, seed)
    turn, _ = np.linalg.qr(host((shape[1], shape[1]), seed + 1))
    m = subspace.resolvent(rows.T @ rows, alpha)
    for same in (7 * rows, np.concatenate([rows, rows]), rows[::-1]):
        np.testing.assert_allclose(subspace.resolvent(same.T @ same, alpha), m, atol=1e-10)
    turned = rows @ turn
    np.testing.assert_allclose(subspace.resolvent(turned.T @ turned, alpha), turn.T @ m @ turn, atol=1e-10)


def test_resolvent_is_differentiable_and_maps_over_alpha():
    rows = draw((6, 4), 0)
    gram = rows.T @ rows
    alphas = jnp.array([0.0, 1.0, 30.0])
    grid = jax.vmap(lambda alpha: subspace.resolvent(gram, alpha))(alphas)
    chex.assert_trees_all_close(grid[2], subspace.resolvent(gram, 30), atol=1e-6)
    slope = jax.jacfwd(lambda alpha: jnp.trace(subspace.resolvent(gram, alpha)))(jnp.asarray(10.0))
    assert float(slope) > 0


def test_nothing_observed_has_rank_zero():
    assert int(subspace.from_gram(jnp.zeros((3, 3)), energy=0.9).rank) == 0
    assert float(subspace.energy_share(subspace.from_gram(jnp.eye(3), energy=1.0), jnp.zeros((3, 3)))) == 0


@pytest.mark.parametrize(("gram", "alpha"), [(jnp.zeros((3, 3)), 10.0), (jnp.diag(jnp.array([1.0, 0, 0])), 0.0)])
def test_no_energy_or_no_strength_projects_onto_nothing(gram, alpha):
    chex.assert_trees_all_equal(subspace.resolvent(gram, alpha), jnp.zeros((3, 3)))


@pytest.mark.parametrize("energy", [-1.0, 1.5, float("nan")])
def test_energy_out_of_range_is_refused(energy):
    with pytest.raises(ValueError, match="energy is the kept share"):
        subspace.from_gram(jnp.eye(3), energy=energy)


@pytest.mark.parametrize("alpha", [-1.0, float("nan")])
def test_negative_strength_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is the strength"):
        subspace.resolvent(jnp.eye(3), alpha)


@given(SEEDS, st.sampled_from([0.6, 0.95, 1.0]))
def test_knowing_that_there_are_few_rows_changes_the_cost_and_nothing_else(seed, energy):
    rows, more = host((4, 20), seed), host((5, 20), seed + 1)
    whole, few = (subspace.from_gram(rows.T @ rows, energy=energy, rows=n) for n in (None, 4))
    np.testing.assert_allclose(subspace.projector(few), subspace.projector(whole), atol=FLOAT64_EIGH)
    assert int(few.rank) == int(whole.rank)
    assert few.basis.shape == (20, 20)
    grown = [subspace.grow(whole, more.T @ more, energy=energy, rows=n) for n in (None, 5)]
    np.testing.assert_allclose(*map(subspace.projector, grown), atol=FLOAT64_EIGH)
