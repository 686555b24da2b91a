import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import data

ROUNDING = 1e-5  # float32 against float64, values of order 1 to 10


@pytest.mark.parametrize("n", [1, 14_000])  # within one block, over two
def test_other_sets_get_mean_and_deviation_of_each_channel(n):
    image = np.random.default_rng(n).integers(0, 200, (n, 5, 4, 3), np.uint8) + np.uint8([0, 20, 55])
    found = data.scaling("mine", image)
    assert found.divisor == 255
    assert found.mean == pytest.approx((image / 255).mean((0, 1, 2)))
    assert found.std == pytest.approx((image / 255).std((0, 1, 2)))
    scaled = data.scale(image, found)
    assert scaled.dtype == np.float32
    assert abs(scaled.mean((0, 1, 2), float)).max() < ROUNDING
    assert abs(scaled.std((0, 1, 2), float) - 1).max() < ROUNDING


def test_digits_are_divided_by_16_and_nothing_else():
    image = np.arange(17, dtype=np.uint8).reshape(1, 17, 1, 1)
    assert data.scaling("digits", image) == data.Scaling(16.0, (0.0,), (1.0,))
    np.testing.assert_array_equal(data.scale(image, data.scaling("digits", image)).ravel(), np.arange(17) / 16)


def test_a_constant_channel_stays_finite():
    image = np.full((2, 3, 3, 1), 7, np.uint8)
    assert data.scaling("mine", image).std == (1.0,)
    assert not data.scale(image, data.scaling("mine", image)).any()


@given(st.integers(0, 2**31 - 1), st.sampled_from([(2, 3, 3, 1), (3, 2, 3), (2, 2, 2, 2, 3)]))
def test_numpy_jax_and_jit_agree(seed, shape):
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    scaling = data.Scaling(255.0, (0.4, 0.5, 0.6)[: shape[-1]], (0.2, 0.3, 0.1)[: shape[-1]])
    scaled = data.scale(image, scaling)
    assert isinstance(scaled, np.ndarray)
    for function in (data.scale, jax.jit(data.scale, static_argnums=1)):
        found = function(jnp.asarray(image), scaling)
        assert found.dtype == jnp.float32
        chex.assert_trees_all_close(found, scaled, atol=ROUNDING)


def test_it_survives_json_and_carries_gradients():
    image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    scaling = data.scaling("mine", image)
    restored = data.Scaling(**json.loads(json.dumps(scaling._asdict())))
    np.testing.assert_array_equal(data.scale(image, restored), data.scale(image, scaling))
    slope = jax.grad(lambda x: data.scale(x, scaling).sum())(jnp.asarray(image, jnp.float32))
    chex.assert_trees_all_close(slope[0, 0, 0], 1 / (255 * jnp.array(scaling.std)), rtol=ROUNDING)


def test_bad_input():
    with pytest.raises(ValueError, match="measured on raw uint8 pixels, got float32"):
        data.scaling("mine", np.zeros((1, 2, 2, 1), np.float32))
    with pytest.raises(ValueError, match="scaling has 1 channels, image has 3"):
        data.scale(np.zeros((1, 2, 2, 3), np.uint8), data.Scaling(16.0, (0.0,), (1.0,)))
