"""Networks of one, a few and 32 bits: their convolutions against NumPy, their parts, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import trees
from subspace_jax.core import binary, convolution
from subspace_jax.nn import build
from subspace_jax.nn.layers.binary import QuantConv

X = np.random.default_rng(0).normal(size=(3, 5, 5, 4)).astype(np.float32)
SIZES = {"classes": 3, "widths": (4, 4, 6), "strides": (1, 1, 2)}
FLOAT32 = 1e-5


@pytest.mark.parametrize(("bits", "scale"), [(1, "mean"), (2, "mean"), (4, "least_squares")])
def test_a_quantised_convolution_is_the_product_of_quantised_patches_and_kernel(bits, scale):
    layer = QuantConv(6, bits, bits, strides=(2, 2), scale=scale)
    variables = layer.init(jax.random.key(0), X)
    kernel = variables["params"]["kernel"]
    rows = convolution.patches(binary.quantize(X, bits), (3, 3), strides=(2, 2), padding="SAME")
    matrix = convolution.kernel_matrix(binary.kbit_weight(kernel, bits, scale=scale))
    expected = np.asarray(rows, np.float64) @ np.asarray(matrix, np.float64)
    for train in (False, True):
        np.testing.assert_allclose(layer.apply(variables, X, train=train), expected, atol=FLOAT32)


def test_thirty_two_bits_are_a_plain_convolution():
    layer = QuantConv(6, 32, 32)
    variables = layer.init(jax.random.key(0), X)
    rows = convolution.patches(jnp.asarray(X), (3, 3), padding="SAME")
    expected = rows @ convolution.kernel_matrix(variables["params"]["kernel"])
    np.testing.assert_allclose(layer.apply(variables, X), expected, atol=FLOAT32)


@pytest.fixture(scope="module")
def nets():
    """skip -> (model, variables, stages)."""
    found = {}
    for skip in (False, True):
        model = build("hybrid_cnn", **SIZES, bits=(32, 1, 2), skip=skip)
        variables = jax.jit(model.init)(jax.random.key(0), X)
        found[skip] = model, variables, jax.jit(model.features)(variables, X)
    return found


def normed(x):
    """A norm before training: running statistics of 0 and 1."""
    return np.asarray(x) / np.sqrt(1 + 1e-4)


def convolved(params, name, x, i, window):
    sizes = ((4, 1, 1), (6, 2, 2))[i - 1]
    return QuantConv(sizes[0], sizes[2], sizes[2], window, (sizes[1],) * 2).apply({"params": params[name]}, normed(x))


@pytest.mark.parametrize("skip", [False, True])
def test_blocks_are_norm_quantisation_convolution_and_relu(nets, skip):
    _, variables, stages = nets[skip]
    assert list(stages) == ["conv0", "conv1", "conv2", "penultimate", "logits"]
    params, x = variables["params"], np.maximum(normed(stages["conv0"]), 0)
    for i, before in ((1, x), (2, None)):
        response = convolved(params, f"conv{i}", x, i, (3, 3))
        np.testing.assert_allclose(stages[f"conv{i}"], response, atol=FLOAT32)
        added = 0 if not skip else before if i == 1 else convolved(params, "shortcut2", x, 2, (1, 1))
        x = np.maximum(response, 0) + added
    np.testing.assert_allclose(stages["penultimate"], normed(x).mean((1, 2)), atol=FLOAT32)


def test_only_shapes_that_change_have_a_shortcut(nets):
    plain, skipped = (set(trees.flatten(nets[skip][1]["params"])) for skip in (False, True))
    assert skipped - plain == {"shortcut2/kernel"}
    model = build("hybrid_resnet", classes=100)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert [path for path in trees.flatten(params) if "shortcut" in path] == ["shortcut13/kernel", "shortcut7/kernel"]
    kernels = sum(
        leaf.size for path, leaf in trees.flatten(params).items() if path.startswith("conv") and "norm" not in path
    )
    assert kernels == 16 * 9 * 3 + 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)


def test_bits_change_neither_names_nor_initial_values(nets):
    full = build("hybrid_cnn", **SIZES, bits=(32, 32, 32))
    variables = jax.jit(full.init)(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, variables, nets[False][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": (1, 1, 1)}, "the first convolution stays in 32 bits; got 1"),
        ({"bits": (32, 1)}, "one stride and bits a width"),
        ({"bits": (32, 9, 1)}, "1 to 8 bits; got 9"),
        ({"bits": (32, 0, 1)}, "bits takes whole numbers of at least 1"),
        ({"bits": 2}, "bits takes whole numbers"),
        ({"scale": "median"}, "scale is one of mean, least_squares; got 'median'"),
        ({"skip": 1}, "skip is one of True, False; got 1"),
        ({"norm": "batch"}, "hybrid_cnn takes no argument 'norm'; it takes classes, widths, strides, bits, skip"),
        ({"widths": (1, 4, 6)}, "2 channels or more"),
    ],
)
def test_what_a_hybrid_network_does_not_take_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("hybrid_cnn", **{**SIZES, "bits": (32, 1, 1)} | arguments).init(jax.random.key(0), X)


def test_one_side_in_32_bits_is_refused():
    with pytest.raises(ValueError, match="both sides are in 32 bits or neither; got 32 and 1"):
        QuantConv(2, 32, 1).init(jax.random.key(0), X)
