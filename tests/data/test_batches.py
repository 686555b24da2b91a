import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import data

SIZES = st.sampled_from([(1, 1), (12, 4), (13, 4), (7, 7)])  # (samples, batch)
SEEDS = st.integers(0, 2**31 - 1)


@given(SIZES, SEEDS, st.integers(0, 1000))
def test_an_epoch_draws_no_sample_twice(size, seed, epoch):
    n, batch = size
    order = data.epoch_order(jax.random.key(seed), epoch, n, batch)
    chex.assert_shape(order, (n // batch, batch))
    assert order.dtype == jnp.int32
    assert len(np.unique(order)) == order.size
    assert order.min() >= 0
    assert order.max() < n


@given(SEEDS)
def test_jit_and_vmap_draw_the_same(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    order = functools.partial(data.epoch_order, n=13, batch=4)
    expected = jnp.stack([order(key, 5) for key in keys])
    chex.assert_trees_all_equal(jax.jit(jax.vmap(order, in_axes=(0, None)))(keys, 5), expected)


def test_epochs_and_keys_differ():
    orders = [data.epoch_order(jax.random.key(seed), epoch, 50, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(np.asarray(order)[0]) for order in orders}) == 4


@pytest.mark.parametrize("batch", [0, 6])
def test_batch_out_of_range_is_refused(batch):
    with pytest.raises(ValueError, match=rf"batch is in \[1, 5\], the number of samples; got {batch}"):
        data.epoch_order(jax.random.key(0), 0, 5, batch)


@given(st.sampled_from([(0, 3), (1, 4), (12, 4), (13, 4), (3, 100)]))
def test_padded_batches_hold_every_row_once_in_order(size):
    n, batch = size
    image, label = np.random.default_rng(n).random((n, 2, 3)), np.arange(n)
    seen = list(data.padded((image, label), batch))
    assert len(seen) == -(-n // batch)
    for (images, labels), mask in seen:
        chex.assert_shape((images, labels, mask), ((batch, 2, 3), (batch,), (batch,)))
        np.testing.assert_array_equal(labels[~mask], 0)
        assert (images[~mask] == image[0]).all()
    if seen:
        np.testing.assert_array_equal(np.concatenate([labels[mask] for (_, labels), mask in seen]), label)
        np.testing.assert_array_equal(np.concatenate([images[mask] for (images, _), mask in seen]), image)


def test_padded_refuses_at_the_call():
    with pytest.raises(ValueError, match="batch is at least 1, got 0"):
        data.padded((np.zeros(3),), 0)
    with pytest.raises(ValueError, match=r"one length, got \[3, 2\]"):
        data.padded((np.zeros(3), np.zeros(2)), 1)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_prefetch_keeps_order_and_holds_size_batches(size):
    drawn = []
    source = (drawn.append(i) or {"x": np.full(4, i)} for i in range(4))
    for i, item in enumerate(data.prefetch(source, size)):
        assert isinstance(item["x"], jax.Array)
        assert (item["x"] == i).all()
        assert len(drawn) == min(i + size, 4)
    assert i == 3


def test_prefetch_shards_every_array():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    for (x,), mask in data.prefetch(data.padded((np.zeros((10, 2)),), 8), sharding=sharding):
        assert x.sharding.is_equivalent_to(sharding, 2)
        assert mask.sharding.is_equivalent_to(sharding, 1)


def test_prefetch_refuses_at_the_call():
    with pytest.raises(ValueError, match="size is at least 1, got 0"):
        data.prefetch(iter(()), 0)
