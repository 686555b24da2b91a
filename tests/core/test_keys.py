import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core.keys import as_key, as_keys, rademacher, sample_keys

SEEDS = st.integers(0, 2**31 - 1)
keys_of = jax.jit(sample_keys)
signs = jax.jit(rademacher, static_argnames=("shape", "dtype"))
fold = jax.jit(lambda key, i: jax.random.key_data(jax.random.fold_in(key, i)))


@given(SEEDS)
def test_a_sample_keeps_its_key_in_any_batch(seed):
    key, index = jax.random.key(seed), np.array([7, 3, 2**31 - 1, 3])
    found = np.asarray(jax.random.key_data(keys_of(key, index)))
    np.testing.assert_array_equal(found, [fold(key, i) for i in index])
    np.testing.assert_array_equal(found[1], found[3])


@pytest.mark.parametrize("shape", [(), (5,), (32,), (3, 4, 7)])
def test_probes_are_signs_of_the_right_shape_and_type(shape):
    v = signs(keys_of(jax.random.key(0), np.arange(6)), 2, shape=shape, dtype=jnp.bfloat16)
    assert v.shape == (6, *shape)
    assert v.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.abs(np.asarray(v, np.float32)), 1)


def test_probes_are_balanced_and_independent_between_entries_samples_and_numbers():
    keys = keys_of(jax.random.key(1), np.arange(32))
    v = jax.jit(jax.vmap(lambda number: rademacher(keys, number, (32,))))(np.arange(32))
    v = np.asarray(v, np.float64).reshape(-1, 32)
    count = len(v)
    covariance = v.T @ v / count - np.eye(32)
    assert abs(v.mean()) < 4 / np.sqrt(v.size)
    assert abs(covariance).max() < 5 / np.sqrt(count)
    between = v @ v.T / 32 - np.eye(count)
    assert abs(between[~np.eye(count, dtype=bool)].mean()) < 1e-3
    assert len(np.unique(v, axis=0)) == count


def test_a_probe_does_not_depend_on_the_rest_of_the_batch():
    index = np.arange(10)
    both = [np.asarray(signs(keys_of(jax.random.key(2), rows), 1, shape=(40,))) for rows in (index, index[7:])]
    np.testing.assert_array_equal(both[0][7:], both[1])


def test_old_keys_are_the_new_ones_also_inside_jit_and_vmap():
    new, old = jax.random.key(3), jax.random.PRNGKey(3)
    for key in (new, old, np.asarray(old)):
        np.testing.assert_array_equal(jax.random.key_data(as_key(key)), old)
    np.testing.assert_array_equal(jax.random.key_data(jax.jit(as_key)(old)), old)
    split = jax.random.split(old, 4)
    np.testing.assert_array_equal(jax.random.key_data(jax.vmap(as_key)(split)), split)
    np.testing.assert_array_equal(jax.random.key_data(as_keys(split)), split)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (0, r"key must be a key of jax.random; got the seed 0: give jax.random.key\(0\)\."),
        (np.int64(7), "got the seed 7"),
        (jnp.int32(7), r"got int32 of shape \(\): give jax.random.key\(seed\)"),
        (None, "got NoneType"),
        (np.zeros(3, np.uint32), r"got uint32 of shape \(3,\)"),
        (jax.random.split(jax.random.key(0), 5), r"one key; got keys of shape \(5,\): give one of them"),
        (jax.random.split(jax.random.PRNGKey(0), 5), r"one key; got keys of shape \(5,\)"),
    ],
)
def test_what_is_no_key_is_refused(key, message):
    with pytest.raises(ValueError, match=message):
        as_key(key)
