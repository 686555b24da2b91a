"""Delay and energy against the authors' figures for LeNet-5, and against a count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.core import capture
from subspace_jax.hardware import system


def shapes(name, *image, **arguments):
    model, x = nn.build(name, **arguments), jax.ShapeDtypeStruct((1, *image), "float32")
    return capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)


def test_lenet5_has_the_published_delay_and_energy():
    found = system.compare(shapes("lenet5", 28, 28, 1))
    np.testing.assert_allclose(found.in_memory, (3050.68, 158203.6), rtol=1e-5)
    np.testing.assert_allclose(found.processor, (28729.8, 987408), rtol=1e-5)
    assert abs(found.delay_ratio - 9.4175) < 1e-3
    assert abs(found.energy_ratio - 6.2414) < 1e-3
    assert found.edp_ratio == pytest.approx(58.8, abs=0.05)


def test_one_convolution_counted_by_hand():
    """3x3, 2 channels into 4, on a map of 6x6 that keeps its size: 72 weights, 2,592 products."""
    found = system.compare(capture.layers(
        lambda kernel, x: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                                       dimension_numbers=("NHWC", "HWIO", "NHWC")),
        jnp.ones((3, 3, 2, 4)), jnp.ones((1, 6, 6, 2)),
    ), rows=5)  # fmt: skip
    assert found.in_memory == pytest.approx((2592 * 5 / 1024 * 2, 2592 * (0.2798224 + 0.2)))
    registers = 2 * 4 * 36 * 4
    assert found.processor == pytest.approx((72 * 5 / 64 * 4 + 2592 / 175 * 4, 72 * 5.2 + 2592 * 0.9 + registers))


def test_a_network_costs_the_sum_of_its_layers():
    found = system.compare(shapes("mlp", 8, 8, 1, widths=(4,)))
    for total, column in zip((found.in_memory, found.processor), zip(*found.layers.values(), strict=True), strict=True):
        assert total == pytest.approx(tuple(np.sum(column, 0)))


def test_no_row_is_refused():
    with pytest.raises(ValueError, match="at least 1 row; got 0"):
        system.compare(shapes("mlp", 4, widths=(4,)), rows=0)
