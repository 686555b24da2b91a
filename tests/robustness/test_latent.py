"""Distances of codes to a prior against sums over pairs and assignments; what they are for known distributions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from subspace_jax.core import losses
from subspace_jax.robustness import latent

SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.sampled_from([(7, 3), (12, 1)])  # few shapes: each one compiles once
FLOAT32 = 1e-5
mmd = jax.jit(latent.mmd, static_argnames=("prior_std", "biased"))
sliced_w2 = jax.jit(latent.sliced_w2, static_argnames="directions")


def drawn(seed, shape, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + shift).astype(np.float32), rng.normal(size=shape).astype(np.float32)


def mmd_of_pairs(a, b, prior_std, biased):
    """Float64, one pair after the other."""
    a, b = a.astype(np.float64), b.astype(np.float64)

    def kernel(u, v):
        widths = 2 * a.shape[1] * prior_std**2 * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
        return (widths / (widths + ((u - v) ** 2).sum())).sum()

    def mean(s, t, same):
        pairs = itertools.product(range(len(s)), range(len(t)))
        return np.mean([kernel(s[i], t[j]) for i, j in pairs if i != j or not same])

    return mean(a, a, not biased) + mean(b, b, not biased) - 2 * mean(a, b, False)


@given(SEEDS, SHAPES, st.sampled_from([0.5, 1.0]), st.booleans())
def test_mmd_is_its_sum_over_pairs_and_symmetric(seed, shape, prior_std, biased):
    a, b = drawn(seed, shape, 0.5)
    found = mmd(a, b, prior_std=prior_std, biased=biased)
    np.testing.assert_allclose(found, mmd_of_pairs(a, b, prior_std, biased), atol=FLOAT32)
    np.testing.assert_allclose(found, mmd(b, a, prior_std=prior_std, biased=biased), atol=FLOAT32)


@given(SEEDS, SHAPES)
def test_over_all_pairs_mmd_is_not_negative_and_grows_with_a_shift(seed, shape):
    a, b = drawn(seed, shape)
    values = [float(mmd(a + shift, b, biased=True)) for shift in (0.0, 1.0, 2.0, 4.0)]
    assert values[0] >= -FLOAT32
    assert values[1:] == sorted(values[1:])
    assert values[0] < values[2]
    assert abs(mmd(a, a, biased=True)) <= FLOAT32


def test_mmd_is_unbiased_where_both_come_from_the_prior():
    both = jax.random.normal(jax.random.key(0), (400, 2, 10, 3))
    values = np.asarray(jax.vmap(lambda pair: latent.mmd(pair[0], pair[1]))(both))
    assert abs(values.mean()) <= 3 * values.std() / 20
    assert values.min() < 0


@given(SEEDS, SHAPES)
def test_sorted_projections_are_the_best_assignment_along_each_direction(seed, shape):
    a, b = drawn(seed, shape, 1.0)
    key = jax.random.key(seed)
    ways = np.asarray(jax.random.normal(key, (shape[1], 5)), np.float64)
    ways /= np.linalg.norm(ways, axis=0)
    costs = []
    for way in ways.T:
        far = (a.astype(np.float64) @ way)[:, None] - (b.astype(np.float64) @ way)[None]
        costs.append((far**2)[linear_sum_assignment(far**2)].mean())
    np.testing.assert_allclose(sliced_w2(key, a, b, directions=5), np.mean(costs), rtol=1e-4)
    assert sliced_w2(key, a, a[::-1], directions=5) == 0
    if shape[1] == 1:
        np.testing.assert_allclose(costs[0], ((np.sort(a, 0) - np.sort(b, 0)) ** 2).mean(), rtol=1e-4)


def test_the_sliced_distance_of_shifted_gaussians_is_the_shift_squared_by_the_dimension():
    a, b = drawn(0, (1000, 2))
    shift = np.array([[6.0, 8.0]], np.float32)
    np.testing.assert_allclose(sliced_w2(jax.random.key(1), a + shift, b, directions=2000), 100 / 2, rtol=0.03)


def test_a_game_without_a_winner_is_worth_two_bits():
    blank = jnp.zeros(4)
    np.testing.assert_allclose(latent.discriminator_loss(blank, blank), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(latent.encoder_loss(blank), np.log(2), rtol=1e-6)
    sure = latent.discriminator_loss(jnp.full(3, -500.0), jnp.full(3, 500.0)), latent.encoder_loss(jnp.full(3, -500.0))
    np.testing.assert_allclose(sure, [0, 500])  # the encoder's gradient stays where the discriminator has won


def test_a_trained_discriminator_is_the_ratio_of_the_densities():
    """Prior N(0, 1), codes N(m, 1): its logit is m^2 / 2 - m z."""
    m, tx = 1.5, optax.adam(0.05)
    a, b = drawn(3, (20_000,), m)

    @jax.jit
    def trained():
        def step(_, carry):
            params, opt_state = carry
            grads = jax.grad(lambda p: latent.discriminator_loss(p[0] + p[1] * a, p[0] + p[1] * b))(params)
            updates, opt_state = tx.update(grads, opt_state)
            return params + updates, opt_state

        return jax.lax.fori_loop(0, 400, step, (jnp.zeros(2), tx.init(jnp.zeros(2))))[0]

    np.testing.assert_allclose(trained(), [m**2 / 2, -m], rtol=0.1)


@given(SEEDS)
def test_the_best_encoder_onto_the_prior_costs_what_the_transport_of_labels_to_outputs_costs(seed):
    """Five images of equal weight, five codes: an encoder that keeps the marginals is a permutation."""
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(5, 3)).astype(np.float32), rng.integers(0, 3, 5)
    cost = np.stack([losses.softmax_cross_entropy(logits, np.full(5, label)) for label in y])  # (images, codes)
    trained = [float(losses.softmax_cross_entropy(logits[list(code)], y).mean())
               for code in itertools.permutations(range(5))]  # fmt: skip
    rows, columns = np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))
    plan = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.full(10, 0.2))
    np.testing.assert_allclose(min(trained), plan.fun, rtol=FLOAT32)


def test_the_report_is_that_of_numpy():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    z = (rng.normal(size=(60, 4)) + y[:, None]).astype(np.float32)
    found = latent.latent_report(jax.random.key(0), z, y, classes=4)
    wide = z.astype(np.float64)
    means = np.stack([wide[y == k].mean(0) for k in range(3)])
    for value, expected in (
        (found.mean, wide.mean(0)), (found.std, wide.std(0)), (found.cov, np.cov(wide.T, bias=True)),
        (found.class_means[:3], means), (found.within, ((wide - means[y]) ** 2).sum(1).mean()),
        (found.within + found.between, np.trace(np.cov(wide.T, bias=True))),
    ):  # fmt: skip
        np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.isnan(found.class_means[3]).all()  # a class without samples has no mean
    assert found.sliced_w2 > 0.5


@pytest.mark.parametrize(("call", "message"), [
    (lambda key, z: latent.mmd(z, z, prior_std=0.0), "deviation of the prior, above 0; got 0.0"),
    (lambda key, z: latent.mmd(z[:1], z[:1]), "takes 2 samples or more; got 1 and 1"),
    (lambda key, z: latent.mmd(z, z[:, :1]), r"points \(n, d\) of one width; got \(6, 2\) and \(6, 1\)"),
    (lambda key, z: latent.sliced_w2(key, z, z[:3]), "paired one by one along 1 direction or more; got 6 and 3 points"),
    (lambda key, z: latent.sliced_w2(key, z, z, directions=0), "and 0 directions"),
    (lambda key, z: latent.latent_report(key, z * np.nan, np.zeros(6, int), classes=2), "x must be finite"),
    (lambda key, z: latent.latent_report(key, z, np.full(6, 2), classes=2), r"labels must lie in \[0, 2\); got 2"),
])  # fmt: skip
def test_what_has_no_distance_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0), drawn(0, (6, 2))[0])
