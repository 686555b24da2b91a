"""The clipped sum: what one sample can do to it, and that it is the sum that NumPy and jax-privacy compute."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax import nn
from subspace_jax.core import losses
from subspace_jax.privacy import clipping
from tests.privacy.cases import BATCH, PARAMS, draw, gradients, loss, norms, oracle

SEEDS = st.integers(0, 2**31 - 1)
CLIPS = st.sampled_from([0.1, 1.0, 100.0])
ROUNDED = 1e-6  # of a norm in float32
SUMMED = {jnp.float32: 1e-5, jnp.float64: 1e-12}  # of the largest entry: the same terms in another order
NOTHING = np.zeros(BATCH, bool)


@functools.cache
def program(microbatch):
    return jax.jit(functools.partial(clipping.clipped_sum, loss, microbatch=microbatch))


def clipped(x, y, padding=NOTHING, clip=1.0, params=PARAMS, microbatch=None):
    return program(microbatch)(params, x, y, padding, clip=clip)


def close(found, expected, share):
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(found, expected, rtol=0, atol=share * largest)


def distance(a, b):
    return float(norms(jax.tree.map(lambda u, v: np.asarray(u - v, np.float64)[None], a, b))[0])


@given(SEEDS, CLIPS)
def test_it_is_the_sum_of_the_formula_and_the_metrics_are_means(seed, clip):
    x, y = draw(seed)
    total, metrics = clipped(x, y, clip=clip)
    close(total, oracle(PARAMS, x, y, clip), SUMMED[jnp.float32])
    lengths = norms(gradients(PARAMS, x, y))
    np.testing.assert_allclose(metrics.norm, lengths.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.clip_fraction, (lengths > clip).mean())
    np.testing.assert_allclose(metrics.loss, np.mean(loss(PARAMS, x, y)), rtol=1e-5)
    assert metrics.samples == BATCH


def test_in_float64_it_is_the_formula_to_the_last_digits():
    x, y = draw(0)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), PARAMS)
        for microbatch in (None, 4):
            total, _ = jax.jit(functools.partial(clipping.clipped_sum, loss, microbatch=microbatch))(
                params, np.asarray(x, np.float64), y, NOTHING, clip=1.0
            )
            close(total, oracle(params, x, y, 1.0), SUMMED[jnp.float64])


@functools.cache
def network():
    model = nn.build("mlp", widths=[64])
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64)))["params"]
    return clipping.of_params(losses.cross_entropy(model.apply)), params


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e15, 1e25])
def test_no_contribution_of_a_network_is_longer_than_clip(size):
    own, params = network()
    x = (size * np.random.default_rng(0).normal(size=(8, 64))).astype(np.float32)
    alone = functools.partial(clipping.clipped_sum, own, params, is_padding=np.zeros(1, bool), clip=0.5)
    each = jax.jit(jax.vmap(lambda x, y: alone(x[None], y[None])))
    total, metrics = each(x, np.arange(8))
    lengths = np.sqrt(sum((np.asarray(g, np.float64) ** 2).reshape(8, -1).sum(axis=1) for g in jax.tree.leaves(total)))
    assert (lengths <= 0.5 * (1 + ROUNDED)).all()
    full = np.asarray(metrics.norm) > 0.5
    np.testing.assert_allclose(lengths[full], 0.5, rtol=1e-5)


@given(SEEDS, CLIPS, st.sampled_from([None, np.nan, np.inf, -np.inf, 1e30]), st.integers(0, BATCH - 1))
def test_one_sample_moves_the_sum_by_at_most_clip(seed, clip, poison, row):
    x, y = draw(seed)
    if poison is not None:
        x[row, seed % 4] = poison
    without, alone = np.arange(BATCH) == row, np.arange(BATCH) != row
    total, _ = clipped(x, y, clip=clip)
    chex.assert_tree_all_finite(total)
    assert distance(clipped(x, y, alone, clip)[0], jax.tree.map(jnp.zeros_like, PARAMS)) <= clip * (1 + ROUNDED)
    rest, _ = clipped(x, y, without, clip)
    assert distance(total, rest) <= clip * (1 + ROUNDED) + 1e-6 * BATCH * clip  # both sums are rounded


def test_padding_contributes_exactly_nothing_whatever_it_holds():
    x, y = draw(1)
    padding = np.array([False, True, False, True, True, False])
    expected, kept = clipped(np.where(padding[:, None], 0, x), y, padding)
    wild = np.where(padding[:, None], np.array([np.nan, np.inf, 1e30, -1]), x).astype(np.float32)
    found, metrics = clipped(wild, np.where(padding, -7, y), padding)
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(metrics, kept)
    assert metrics.samples == 3
    nothing, metrics = clipped(wild, y, np.ones(BATCH, bool))
    chex.assert_trees_all_equal(nothing, jax.tree.map(jnp.zeros_like, PARAMS))
    chex.assert_tree_all_finite(metrics)


def test_a_batch_without_rows_gives_zeros():
    x, y = draw(1, 0)
    total, metrics = clipped(x, y, np.zeros(0, bool))
    chex.assert_trees_all_equal(total, jax.tree.map(jnp.zeros_like, PARAMS))
    assert metrics.samples == metrics.norm == 0


@pytest.mark.parametrize("microbatch", [1, 4, 6, 50])
def test_microbatches_do_not_change_it(microbatch):
    x, y = draw(2)
    padding = np.arange(BATCH) == 5
    total, metrics = clipped(x, y, padding)
    again, counted = clipped(x, y, padding, microbatch=microbatch)
    close(again, total, SUMMED[jnp.float32])
    chex.assert_trees_all_close(counted, metrics, rtol=1e-5)


def test_devices_do_not_change_it():
    x, y = draw(2, 8)
    over = NamedSharding(Mesh(np.array(jax.devices()), ("samples",)), PartitionSpec("samples"))
    spread = jax.device_put((x, y, np.arange(8) == 3), over)
    close(clipped(*spread)[0], clipped(x, y, np.arange(8) == 3)[0], SUMMED[jnp.float32])


@given(SEEDS)
def test_without_clipping_it_is_the_gradient_of_the_sum(seed):
    x, y = draw(seed)
    total, metrics = clipped(x, y, clip=np.inf)
    close(total, SUMMED_GRADIENT(PARAMS, x, y), SUMMED[jnp.float32])
    assert metrics.clip_fraction == 0


SUMMED_GRADIENT = jax.jit(jax.grad(lambda params, x, y: loss(params, x, y).sum()))


def test_a_zero_gradient_stays_zero():
    flat = functools.partial(clipping.clipped_sum, lambda params, x, y: 0 * x @ params["w"][:, 0])
    total, metrics = jax.jit(flat)(PARAMS, *draw(0), NOTHING, clip=1.0)
    chex.assert_trees_all_equal(total, jax.tree.map(jnp.zeros_like, PARAMS))
    assert metrics.norm == 0


def test_parameters_in_half_precision_are_summed_in_float32():
    x, y = draw(4)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    total, _ = clipped(x, y, params=half)
    assert {leaf.dtype for leaf in jax.tree.leaves(total)} == {jnp.dtype("float32")}
    close(total, oracle(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), half), x, y, 1.0), 2e-2)


@pytest.mark.parametrize("double", [False, True])
def test_it_is_the_sum_of_jax_privacy(double):
    jax_privacy = pytest.importorskip("jax_privacy")
    x, y = draw(5)
    padding = np.arange(BATCH) == 2
    with jax.enable_x64(double):
        wide = jnp.float64 if double else jnp.float32
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), wide), PARAMS)
        theirs = jax_privacy.clipped_grad(
            lambda p, x, y: loss(p, x, y).sum(), l2_clip_norm=0.7, batch_argnums=(1, 2), keep_batch_dim=True
        )
        expected = jax.jit(theirs)(
            params, jnp.asarray(x, wide), jnp.asarray(y), is_padding_example=jnp.asarray(padding)
        )
        found, _ = clipped(x.astype(wide), y, padding, 0.7, params)
        close(found, expected, SUMMED[wide])


def test_networks_with_statistics_of_their_batches_are_refused_by_name():
    x = np.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(nn.build("cnn5", filters=[4], norm="batch").init, jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"not differentially private.*: conv0_norm keep statistics; use GroupNorm"):
        clipping.check_network(variables)
    clipping.check_network(jax.eval_shape(nn.build("cnn5", filters=[4], norm="group").init, jax.random.key(0), x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": 0.0}, "clip is the largest norm of a gradient, above 0.*got 0.0"),
        ({"clip": -1.0}, "got -1.0"),
        ({"clip": np.nan}, "got nan"),
        ({"microbatch": 0}, "microbatch, samples whose gradients are held at a time, is at least 1; got 0"),
        ({"is_padding": np.zeros(5, bool)}, "is_padding and x must have one entry per sample; got 5 and 6"),
        ({"loss": lambda p, x, y: loss(p, x, y).mean()}, r"one value per sample, shape \(6,\); got shape \(\)"),
        ({"params": {"w": jnp.ones((4, 3), int), "b": jnp.zeros(3)}}, "parameters are real floating-point.*w is int32"),
    ],
)
def test_what_cannot_be_clipped_is_refused(change, message):
    x, y = draw(0)
    given = {"loss": loss, "params": PARAMS, "x": x, "y": y, "is_padding": NOTHING, "clip": 1.0} | change
    with pytest.raises(ValueError, match=message):
        clipping.clipped_sum(**given)
