import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn, training
from subspace_jax.label_noise.sam import sam

RHO = 0.3
KEY = jax.random.key(0)
ROUNDING = 1e-5  # the same sums in float32, in another order
MODEL = nn.build("mlp", classes=3, widths=(8,))
PLAIN = training.mean_loss(MODEL.train_apply)
X = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
Y = np.arange(40) % 3
init = jax.jit(MODEL.init)


def bowl(params, batch_stats, batches, constants, key):
    """||w||^2 / 2 over two leaves; what it keeps is where it was."""
    return sum(jnp.vdot(leaf, leaf) for leaf in params.values()) / 2, params


@functools.partial(jax.jit, static_argnums=0)
def gradient(objective, params, batches=()):
    return jax.grad(objective, has_aux=True)(params, {}, batches, None, KEY)


def test_in_a_bowl_the_gradient_is_longer_by_rho_and_statistics_are_those_before_the_step():
    params = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    found, kept = gradient(sam(bowl, rho=RHO), params)
    expected = jax.tree.map(lambda w: w * (1 + RHO / 5), params)  # ||(3, 0, 4)|| = 5 over all leaves
    chex.assert_trees_all_close(found, expected, rtol=ROUNDING)
    chex.assert_trees_all_equal(kept, params)


@given(st.integers(0, 2**31 - 1))
def test_it_is_the_gradient_of_the_objective_where_the_loss_rises_most(seed):
    params = init(jax.random.key(seed), X[:1])["params"]
    plain, _ = gradient(PLAIN, params, ((X, Y),))
    params, plain = jax.device_get((params, plain))
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(plain)))
    there = jax.tree.map(lambda w, g: w + RHO * g / norm, params, plain)
    found, _ = gradient(sam(PLAIN, rho=RHO), params, ((X, Y),))
    chex.assert_trees_all_close(found, gradient(PLAIN, there, ((X, Y),))[0], atol=ROUNDING)
    chex.assert_trees_all_close(gradient(sam(PLAIN, rho=0.0), params, ((X, Y),))[0], plain, atol=ROUNDING)
    assert not np.allclose(jax.tree.leaves(found)[0], jax.tree.leaves(plain)[0], atol=100 * ROUNDING)


def test_both_passes_draw_the_same_random_numbers():
    def noisy(params, batch_stats, batches, constants, key):
        return jnp.vdot(params, jax.random.normal(key, (4,))), batch_stats

    loss, _ = sam(noisy, rho=RHO)(jnp.zeros(4), {}, (), None, KEY)  # w'n + rho n'n / ||n|| at w = 0
    np.testing.assert_allclose(loss, RHO * jnp.linalg.norm(jax.random.normal(KEY, (4,))), rtol=ROUNDING)


def test_a_flat_place_is_left_as_it_is():
    found, _ = gradient(sam(bowl), {"a": jnp.zeros(3)})
    np.testing.assert_array_equal(found["a"], np.zeros(3))


def test_it_trains_and_is_one_function_object():
    assert sam(PLAIN, rho=RHO) is sam(PLAIN, rho=RHO)
    start = init(KEY, X[:1])
    found = training.minimise(KEY, sam(PLAIN), optax.sgd(0.1), start, [(X, Y)], steps=20, batch=20)
    loss = jax.jit(lambda params: PLAIN(params, {}, ((X, Y),), None, KEY)[0])
    before, after = (float(loss(v["params"])) for v in (start, found))
    assert after < before


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(rho):
    with pytest.raises(ValueError, match=f"rho is the radius.*got {rho}"):
        sam(PLAIN, rho=rho)
