import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from subspace_jax.core import convolution

SEEDS = st.integers(0, 2**31 - 1)
FLOAT32_SUM = 1e-4  # another order of the same sums of about 50 products
CASES = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strided": {"padding": "SAME", "strides": (2, 3)},
    "dilated": {"padding": "VALID", "dilation": (2, 1)},
    "padded": {"padding": ((2, 0), (1, 3)), "strides": (2, 1)},
    "cropped": {"padding": ((-1, 0), (0, -2))},
    "transposed": {"padding": ((1, 1), (1, 0)), "input_dilation": (2, 2)},
    "grouped": {"padding": "SAME", "strides": (2, 2), "groups": 2},
}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv(x, kernel, *, padding, strides=(1, 1), dilation=None, input_dilation=None, groups=1):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, input_dilation, dilation, ("NHWC", "HWIO", "NHWC"), groups, precision="highest"
    )


@functools.cache
def both_ways(case):
    """(x, kernel) -> rows, matrix and the convolution itself, in one program."""
    options = CASES[case]

    def run(x, kernel):
        matrix = convolution.kernel_matrix(kernel, groups=options.get("groups", 1))
        return convolution.patches(x, (3, 2), **options), matrix, conv(x, kernel, **options)

    return jax.jit(run)


@pytest.mark.parametrize("case", CASES)
@given(SEEDS)
def test_patches_times_matrix_is_the_convolution(case, seed):
    groups = CASES[case].get("groups", 1)
    rows, matrix, expected = map(
        np.asarray, both_ways(case)(draw(seed, 2, 7, 6, 4), draw(seed + 1, 3, 2, 4 // groups, 6))
    )
    product = np.concatenate([a @ b for a, b in zip(rows, matrix, strict=True)], -1) if groups > 1 else rows @ matrix
    np.testing.assert_allclose(product, expected, atol=FLOAT32_SUM)


@jax.jit
def dilated_and_padded(x):
    return convolution.patches(x, (3, 2), strides=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 3))


@given(SEEDS)
def test_patches_equal_explicit_windows(seed):
    x = draw(seed, 2, 5, 6, 3)
    padded = np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)))
    windows = [[padded[:, 2 * i : 2 * i + 3, j : j + 4 : 3].reshape(2, -1) for j in range(5)] for i in range(2)]
    rows = dilated_and_padded(x)
    np.testing.assert_array_equal(rows, np.stack([np.stack(line, 1) for line in windows], 1))


@pytest.mark.parametrize("space", [(9,), (3, 4, 5)])
def test_any_number_of_spatial_axes(space):
    window = (2,) * len(space)
    x, kernel = draw(0, 2, *space, 3), draw(1, *window, 3, 4)
    spec = "".join("DHW"[-len(space) :])

    @jax.jit
    def run(x, kernel):
        order = f"N{spec}C", f"{spec}IO", f"N{spec}C"
        whole = lax.conv_general_dilated(x, kernel, window, "SAME", dimension_numbers=order, precision="highest")
        return convolution.patches(x, window, strides=window), convolution.kernel_matrix(kernel), whole

    rows, matrix, expected = map(np.asarray, run(x, kernel))
    np.testing.assert_allclose(rows @ matrix, expected, atol=FLOAT32_SUM)


@pytest.mark.parametrize("groups", [1, 3])
def test_kernel_and_matrix_are_inverse(groups):
    kernel = draw(0, 3, 2, 4, 6)

    @jax.jit
    def there_and_back(kernel):
        return convolution.matrix_kernel(convolution.kernel_matrix(kernel, groups=groups), (3, 2), groups=groups)

    np.testing.assert_array_equal(there_and_back(kernel), kernel)


def test_feature_order_is_that_of_the_kernel_not_of_lax():
    x = draw(0, 1, 4, 4, 3)

    @jax.jit
    def both(x):
        order = ("NHWC", "HWIO", "NHWC")
        theirs = lax.conv_general_dilated_patches(x, (3, 2), (1, 1), "VALID", dimension_numbers=order)
        return convolution.patches(x, (3, 2), padding="VALID"), theirs

    ours, theirs = map(np.asarray, both(x))
    reordered = ours.reshape(1, 2, 3, 6, 3).swapaxes(-1, -2).reshape(theirs.shape)
    np.testing.assert_allclose(reordered, theirs, atol=FLOAT32_SUM)


def test_patches_are_exact_in_low_precision_and_integers():
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    rows = jax.jit(lambda pixels: convolution.patches(pixels, (2, 2), padding="VALID"))(pixels)
    assert rows.dtype == jnp.uint8
    np.testing.assert_array_equal(rows[0, 0, 0], pixels[0, :2, :2].reshape(-1))


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 channels do not divide into 2 groups"):
        convolution.patches(jnp.zeros((1, 4, 4, 3)), (2, 2), groups=2)


def test_a_window_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="window that reaches 5 does not fit in 4"):
        convolution.patches(jnp.zeros((1, 4, 4, 3)), (5, 1), padding="VALID")


@pytest.mark.parametrize(("shape", "rows"), [((3, 3, 2, 11), 4), ((1, 1, 8, 4), 8), ((13, 6), 4), ((2, 3, 3, 2), 16)])
def test_tiles_are_those_of_the_channel_first_matrix(shape, rows):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    blocks, there = convolution.tiles(kernel, rows)
    *window, c_in, c_out = shape
    for (i, j, p, q), value in np.ndenumerate(blocks):
        out, number = i * rows + p, j * rows + q
        assert there[i, j, p, q] == (out < c_out and number < c_in * math.prod(window))
        place = np.unravel_index(min(number, c_in * math.prod(window) - 1), (c_in, *window))
        assert value == (kernel[(*place[1:], place[0], min(out, c_out - 1))] if there[i, j, p, q] else 0)
    np.testing.assert_array_equal(convolution.untile(blocks, shape), kernel)
    traced = jax.jit(lambda kernel: convolution.untile(convolution.tiles(kernel, rows)[0], shape))(kernel)
    np.testing.assert_array_equal(traced, kernel)


VGG11 = [(3, 3, *pair) for pair in itertools.pairwise((3, 64, 128, 256, 256, 512, 512, 512, 512))]
RESNET18 = [(7, 7, 3, 64), *[(3, 3, 64, 64)] * 4] + [
    (side, side, before, width)
    for width in (128, 256, 512)
    for side, before in ((3, width // 2), (3, width), (3, width), (3, width), (1, width // 2))
]


@pytest.mark.parametrize(
    ("shapes", "weights", "rows", "count"),
    [(VGG11, 9_217_728, rows, count) for rows, count in ((32, 9002), (64, 2251), (128, 564), (256, 144))]
    + [(RESNET18, 11_166_912, 64, 2727)],
)
def test_tiles_of_published_networks(shapes, weights, rows, count):
    assert sum(map(math.prod, shapes)) == weights
    made = [jax.eval_shape(lambda k: convolution.tiles(k, rows)[0], jax.ShapeDtypeStruct(s, "float32")) for s in shapes]
    assert sum(own.shape[0] * own.shape[1] for own in made) == count


def test_a_crossbar_without_rows_is_refused():
    with pytest.raises(ValueError, match="a crossbar has at least 1 row; got 0"):
        convolution.tiles(np.ones((2, 2)), 0)
