"""The noise: its size, its independence, and that it is a link of an optax chain."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax.privacy.noise import gaussian_noise

KEY = jax.random.key(4)
BLANK = {"a": jnp.zeros(500_000), "b": jnp.zeros((1000, 500))}
STD, CORRELATED = 0.01, 0.006  # of a million draws: seven and six standard errors


@functools.cache
def released():
    tx = gaussian_noise(KEY, sigma=3.0, clip=0.5, expected_batch=10.0)
    update, state, found = jax.jit(tx.update), tx.init(BLANK), []
    for _ in range(2):
        updates, state = update(BLANK, state)
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates)]))
    return found


def test_its_deviation_is_sigma_clip_over_the_expected_batch():
    for draws in released():
        assert draws.std() == pytest.approx(3.0 * 0.5 / 10, rel=STD)
        assert abs(draws.mean()) < 0.15 * CORRELATED


def test_steps_and_leaves_are_independent():
    first, second = released()
    half = len(first) // 2
    assert abs(np.corrcoef(first, second)[0, 1]) < CORRELATED
    assert abs(np.corrcoef(first[:half], first[half:])[0, 1]) < 2 * CORRELATED


def test_the_same_key_gives_the_same_noise_another_one_another():
    small = jnp.ones(5)
    draws = [tx.update(small, tx.init(small))[0] for tx in map(noisy, (KEY, KEY, jax.random.key(5)))]
    chex.assert_trees_all_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def noisy(key, sigma=1.0, clip=1.0, expected_batch=4.0):
    return gaussian_noise(key, sigma=sigma, clip=clip, expected_batch=expected_batch)


@pytest.mark.parametrize("clip", [1.0, np.inf])
def test_without_sigma_there_is_none_whatever_clip_is(clip):
    tx = noisy(KEY, 0.0, clip)
    updates, state = tx.update(WEIGHTS, tx.init(WEIGHTS))
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda leaf: leaf / 4, WEIGHTS))
    assert state.step == 1


WEIGHTS = {"kernel": jnp.ones((3, 2)), "bias": jnp.arange(2.0)}


def test_it_is_float32_and_its_numbers_may_be_traced():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), WEIGHTS)

    @jax.jit
    def once(sigma, clip, batch):
        tx = noisy(KEY, sigma, clip, batch)
        return tx.update(half, tx.init(half))[0]

    assert {leaf.dtype for leaf in jax.tree.leaves(once(1.0, 1.0, 4.0))} == {jnp.dtype("float32")}
    tx = noisy(KEY, 0.5, 2.0)
    chex.assert_trees_all_close(once(0.5, 2.0, 4.0), tx.update(half, tx.init(half))[0], rtol=1e-6)
    chex.assert_tree_all_finite(once(0.0, np.inf, 4.0))


def test_a_chain_goes_on_from_a_saved_state():
    tx = optax.chain(noisy(KEY), optax.sgd(0.1, momentum=0.9))
    update, first = jax.jit(tx.update), tx.init(WEIGHTS)
    before, state = update(WEIGHTS, first, WEIGHTS)
    again, _ = update(WEIGHTS, jax.tree.map(lambda leaf: leaf, state), WEIGHTS)
    chex.assert_trees_all_equal(update(WEIGHTS, state, WEIGHTS)[0], again)
    chex.assert_trees_all_equal(update(WEIGHTS, first, WEIGHTS)[0], before)
    assert state[0].step == 1
    assert (before["bias"] != again["bias"]).all()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"sigma": -1.0}, "sigma, the noise multiplier, is at least 0 and finite; got -1.0"),
        ({"sigma": np.inf}, "got inf"),
        ({"clip": 0.0}, "clip is the largest norm of a gradient, above 0; got 0.0"),
        ({"clip": np.inf}, "without clipping no noise suffices: give a finite clip, or sigma = 0; got sigma = 1.0"),
        ({"expected_batch": 0.0}, "expected_batch, samples times chance, is above 0 and finite; got 0.0"),
    ],
)
def test_numbers_that_guarantee_nothing_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        noisy(KEY, **numbers)
