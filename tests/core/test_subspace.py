import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import subspace

D = 9  # one number of features: every operation compiles once for the whole file
SHAPES = st.sampled_from([(16, D), (4, D)])  # more and fewer rows than features
SEEDS = st.integers(0, 2**31 - 1)
ALPHAS = st.sampled_from([0.3, 1.0, 10.0, 1e3])
FLOAT32_EIGH = 2e-4  # eigh of a float32 Gram loses half the digits of the singular values
FLOAT64_EIGH = 1e-6  # the same in float64, at the floor of 1e-12 of the energy
float32_space = jax.jit(subspace.from_gram, static_argnames=("energy", "capacity"))


def host(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def draw(shape, seed):
    return host(shape, seed).astype(np.float32)


def span(space):
    """P = M M' in NumPy."""
    return np.asarray(space.basis) @ np.asarray(space.basis).T


def resolvent_by_svd(rows, alpha):
    _, s, vt = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    p = s**2 / (s**2).sum()
    return (vt.T * (alpha * p / ((alpha - 1) * p + 1))) @ vt


@given(SHAPES, SEEDS)
def test_full_energy_projector_keeps_every_captured_row(shape, seed):
    rows = draw(shape, seed)
    space = float32_space(rows.T @ rows, energy=1.0)
    np.testing.assert_allclose(rows @ span(space), rows, atol=FLOAT32_EIGH * D)
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
    basis, rank = jax.device_get(float32_space(rows.T @ rows, energy=0.9, capacity=D + 2))
    np.testing.assert_allclose(basis.T @ basis, np.diag(np.arange(D + 2) < rank), atol=FLOAT32_EIGH)


def test_a_small_capacity_keeps_the_largest_energies():
    space = subspace.from_gram(np.diag([1.0, 4, 2, 3, 0, 0, 0, 0, 0]), energy=1.0, capacity=2)
    assert int(space.rank) == 2
    np.testing.assert_allclose(np.diag(span(space)), [0, 1, 0, 1, 0, 0, 0, 0, 0], atol=1e-6)


@given(SHAPES, SEEDS, st.sampled_from([0.8, 1.0]))
def test_rows_and_their_gram_give_one_space(shape, seed, energy):
    rows = host(shape, seed)
    ours = subspace.from_rows(rows, energy=energy)
    theirs = subspace.from_gram(rows.T @ rows, energy=energy)
    assert ours.basis.shape == theirs.basis.shape
    np.testing.assert_allclose(subspace.projector(ours), subspace.projector(theirs), atol=FLOAT64_EIGH)


@given(SEEDS)
def test_union_spans_both_and_keeps_the_first_columns(seed):
    rows = draw((5, D), seed)
    first, second = (float32_space(part.T @ part, energy=1.0) for part in (rows[:3], rows[2:]))
    union = jax.jit(subspace.union)
    both = union(first, second)
    assert int(both.rank) == 5
    basis = np.asarray(both.basis)
    np.testing.assert_array_equal(basis[:, :3], np.asarray(first.basis)[:, :3])
    np.testing.assert_allclose(basis[:, :5].T @ basis[:, :5], np.eye(5), atol=FLOAT32_EIGH)
    np.testing.assert_allclose(rows @ span(both), rows, atol=FLOAT32_EIGH * D)
    assert int(union(both, first).rank) == 5


@given(SHAPES, SEEDS, st.sampled_from([0.5, 0.9, 1.0]))
def test_growth_keeps_its_columns_and_adds_as_few_as_reach_the_energy(shape, seed, energy):
    first, second = host(shape, seed), host(shape, seed + 1)
    space = subspace.from_gram(first.T @ first, energy=0.5)
    old = int(space.rank)
    gram = second.T @ second
    grown = subspace.grow(space, gram, energy=energy)
    np.testing.assert_array_equal(grown.basis[:, :old], space.basis[:, :old])
    rank = int(grown.rank)
    np.testing.assert_allclose(grown.basis.T @ grown.basis, np.diag(np.arange(D) < rank), atol=1e-9)
    outside = np.eye(D) - span(space)
    new = np.linalg.svd(second @ outside, compute_uv=False) ** 2 / np.trace(gram)
    shares = float(subspace.energy_share(space, gram)) + np.concatenate([[0], np.cumsum(new)])
    assert rank - old == int(np.argmax(shares >= energy - 1e-6))
    np.testing.assert_allclose(subspace.energy_share(grown, gram), shares[rank - old], atol=FLOAT64_EIGH)


def test_growth_is_one_program_with_one_energy_per_leading_entry():
    rows = host((3, 16, D), 0)
    spaces = [subspace.from_gram(part[:2].T @ part[:2], energy=1.0) for part in rows]
    energies, grams = (0.0, 0.9, 1.0), rows.mT @ rows
    stacked = subspace.Subspace(*(np.stack(parts) for parts in zip(*spaces, strict=True)))
    narrow = stacked._replace(basis=stacked.basis.astype(np.float32))
    grow = jax.jit(lambda space, gram, energy: subspace.grow(space, gram, energy=energy))
    grown = grow(*jax.tree.map(jnp.asarray, (narrow, grams.astype(np.float32), np.float32(energies))))
    assert [int(grown.rank[i]) for i in (0, 2)] == [2, D]
    for i in range(3):
        alone = subspace.grow(spaces[i], grams[i], energy=energies[i])
        np.testing.assert_allclose(
            span(subspace.Subspace(grown.basis[i], grown.rank[i])), span(alone), atol=FLOAT32_EIGH
        )


def test_a_small_capacity_grows_by_the_largest_energies_that_fit():
    space = subspace.from_gram(np.diag([1.0, *[0] * 8]), energy=1.0, capacity=2)
    grown = subspace.grow(space, np.diag([0.0, 1, 3, 2, 0, 0, 0, 0, 0]), energy=1.0)
    np.testing.assert_allclose(np.diag(span(grown)), [1, 0, 1, 0, 0, 0, 0, 0, 0], atol=1e-12)


@given(SEEDS)
def test_complement_is_everything_else(seed):
    rows = host((3, D), seed)
    space = subspace.from_gram(rows.T @ rows, energy=1.0)
    other = subspace.complement(space)
    assert int(other.rank) == D - 3
    np.testing.assert_allclose(subspace.projector(space) + subspace.projector(other), np.eye(D), atol=FLOAT64_EIGH)


MAKERS = {
    "projector": lambda gram: subspace.projector(subspace.from_gram(gram, energy=0.9)),
    "complement": lambda gram: subspace.projector(subspace.complement(subspace.from_gram(gram, energy=0.9))),
    "resolvent": lambda gram: subspace.resolvent(gram, 10.0),
}


@pytest.mark.parametrize("make", MAKERS)
def test_leading_axes_are_a_batch(make):
    rows = draw((2, 3, 16, D), 0)
    grams = rows.mT @ rows
    one_by_one = [MAKERS[make](gram) for gram in grams.reshape(6, D, D).astype(np.float64)]
    together = jax.jit(MAKERS[make])(jnp.asarray(grams))
    np.testing.assert_allclose(together.reshape(6, D, D), one_by_one, atol=FLOAT32_EIGH)


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
    turn, _ = np.linalg.qr(host((D, D), seed + 1))
    m = subspace.resolvent(rows.T @ rows, alpha)
    for same in (7 * rows, np.concatenate([rows, rows]), rows[::-1]):
        np.testing.assert_allclose(subspace.resolvent(same.T @ same, alpha), m, atol=1e-10)
    turned = rows @ turn
    np.testing.assert_allclose(subspace.resolvent(turned.T @ turned, alpha), turn.T @ m @ turn, atol=1e-10)


def test_resolvent_is_differentiable_and_maps_over_alpha():
    rows = draw((16, D), 0)
    gram = rows.T @ rows
    grid = jax.jit(jax.vmap(lambda alpha: subspace.resolvent(gram, alpha)))(np.float32([0, 1, 30]))
    np.testing.assert_allclose(grid[2], subspace.resolvent(gram, 30), atol=1e-6)
    slope = jax.jit(jax.jacfwd(lambda alpha: jnp.trace(subspace.resolvent(gram, alpha))))(np.float32(10))
    assert float(slope) > 0


def test_nothing_observed_has_rank_zero():
    nothing = np.zeros((D, D))
    assert int(subspace.from_gram(nothing, energy=0.9).rank) == 0
    assert float(subspace.energy_share(subspace.from_gram(np.eye(D), energy=1.0), nothing)) == 0
    assert int(float32_space(nothing.astype(np.float32), energy=0.9).rank) == 0


@pytest.mark.parametrize(("size", "alpha"), [(0.0, 10.0), (1.0, 0.0)])
def test_no_energy_or_no_strength_projects_onto_nothing(size, alpha):
    gram = np.diag(np.float32([size, *[0] * 8]))
    np.testing.assert_array_equal(subspace.resolvent(gram, alpha), np.zeros((D, D)))


@pytest.mark.parametrize("energy", [-1.0, 1.5, float("nan")])
def test_energy_out_of_range_is_refused(energy):
    with pytest.raises(ValueError, match="energy is the kept share"):
        subspace.from_gram(np.eye(D), energy=energy)


@pytest.mark.parametrize("alpha", [-1.0, float("nan")])
def test_negative_strength_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is the strength"):
        subspace.resolvent(np.eye(D), alpha)


@given(SEEDS, st.sampled_from([0.6, 0.95, 1.0]))
def test_knowing_that_there_are_few_rows_changes_the_cost_and_nothing_else(seed, energy):
    rows, more = host((4, D), seed), host((3, D), seed + 1)
    whole, few = (subspace.from_gram(rows.T @ rows, energy=energy, rows=n) for n in (None, 4))
    np.testing.assert_allclose(subspace.projector(few), subspace.projector(whole), atol=FLOAT64_EIGH)
    assert int(few.rank) == int(whole.rank)
    assert few.basis.shape == (D, D)
    grown = [subspace.grow(whole, more.T @ more, energy=energy, rows=n) for n in (None, 4)]
    np.testing.assert_allclose(*map(subspace.projector, grown), atol=FLOAT64_EIGH)
