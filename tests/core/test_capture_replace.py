"""Functions with layers swapped, edited and factorised."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from subspace_jax.core import capture, subspace
from tests.core.grams import FLOAT32_SUM, draw, drawn

SEEDS = st.integers(0, 2**31 - 1)
LOSSLESS = 2e-5  # what float32 products of a projected kernel differ by, at values of order one


class Net(nn.Module):
    """Strided padded 3x2, grouped and dilated convolutions, attention under remat, a dense head."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1)), name="first")(x))
        x = nn.Conv(8, (3, 3), feature_group_count=2, name="grouped")(x)
        x = nn.relu(nn.Conv(8, (3, 2), kernel_dilation=(1, 2), name="dilated")(x)).reshape(x.shape[0], -1, 8)
        x = nn.remat(nn.MultiHeadDotProductAttention)(2, name="mix")(x)
        return nn.Dense(5, name="head")(x.mean(1))


@pytest.fixture(scope="module")
def net():
    x = draw(0, 4, 6, 5, 3)
    variables = drawn(Net().init, jax.random.key(1), x)
    return Net().apply, variables, x, Net().apply(variables, x)


def test_nothing_swapped_is_the_function_bit_for_bit(net):
    apply, variables, x, expected = net
    np.testing.assert_array_equal(capture.replace(apply, lambda call, part: part)(variables, {}, x), expected)
    np.testing.assert_array_equal(capture.observe(apply, variables, x)[0], expected)


def test_each_layer_is_its_own_matrix(net):
    apply, variables, x, expected = net
    parts = capture.kernels(capture.layers(apply, variables, x), variables)
    assert len(parts) == 8
    for way in (lambda call, matrix: call.linear(matrix), lambda call, matrix: call.inputs() @ matrix):
        run = jax.jit(capture.replace(apply, way))
        np.testing.assert_allclose(run(variables, parts, x), expected, atol=FLOAT32_SUM)


def test_a_swap_is_an_edit(net):
    apply, variables, x, _ = net
    table = capture.layers(apply, variables, x)
    halved = {path: matrix / 2 for path, matrix in capture.kernels(table, variables).items()}
    edited = capture.write_kernels(table, variables, halved)
    swapped = capture.replace(apply, lambda call, matrix: call.linear(matrix))(variables, halved, x)
    np.testing.assert_allclose(apply(edited, x), swapped, atol=FLOAT32_SUM)
    untouched = [a is b for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(edited), strict=True)]
    assert sum(untouched) == len(untouched) - 8


def strided(w, x):
    """The strided, padded 3x2 convolution of the contract."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (2, 2), ((1, 1), (0, 1)), dimension_numbers=numbers)


@settings(max_examples=3)
@given(SEEDS)
def test_projection_on_the_full_input_space_changes_no_output(seed):
    """With more features than rows."""
    x, kernel = draw(seed, 1, 6, 5, 8), draw(seed + 1, 3, 2, 8, 4) / 7
    table = capture.layers(strided, kernel, x)
    gram = capture.collect(strided, kernel, [x], dtype="float64")["kernel"].gram
    space = subspace.from_gram(gram, energy=1)
    assert int(space.rank) == table["kernel"].rows == 9 < table["kernel"].d_in
    matrix = subspace.projector(space) @ np.asarray(capture.kernels(table, kernel)["kernel"], np.float64)
    edited = capture.write_kernels(table, kernel, {"kernel": matrix})
    assert float(jnp.abs(edited - kernel).max()) > 1e-2
    np.testing.assert_allclose(strided(edited, x), strided(kernel, x), atol=LOSSLESS)


def test_scanned_layers_are_swapped_with_their_axes():
    fn = lambda p, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]  # noqa: E731
    params, x = {"w": draw(0, 3, 4, 4)}, draw(1, 5, 4)
    other = draw(2, 3, 4, 4)
    run = capture.replace(fn, lambda call, matrix: call.linear(matrix))
    np.testing.assert_array_equal(run(params, {"w": other}, x), fn({"w": other}, x))
    slopes = jax.grad(lambda w: run(params, {"w": w}, x).sum())(other)
    np.testing.assert_allclose(slopes, jax.grad(lambda w: fn({"w": w}, x).sum())(other), atol=FLOAT32_SUM)


def test_factors_of_full_rank_run_the_same_network(net):
    apply, variables, x, _ = net
    table = capture.layers(apply, variables, x)
    ranks = {"first/kernel": 4, "grouped/kernel": 3, "mix/query/kernel": 3}
    low, matrices = {}, capture.kernels(table, variables)
    for path, rank in ranks.items():
        u, s, vt = np.linalg.svd(matrices[path], full_matrices=False)
        low[path] = (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]
    projected = capture.write_kernels(table, variables, low)
    factorised = capture.factorise(table, projected, ranks)
    run = jax.jit(capture.run_factorised(apply, jax.eval_shape(lambda v: v, variables)))
    np.testing.assert_allclose(run(factorised, x), apply(projected, x), atol=FLOAT32_SUM)
    assert set(factorised["factors"]) == set(ranks)
    assert not set(factorised["params"]) & set(ranks)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert count(factorised) < count(variables)


def test_factors_that_save_nothing_are_not_made():
    params, x = {"w": draw(0, 4, 4)}, draw(1, 5, 4)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    whole = capture.factorise(capture.layers(fn, params, x), params, {"w": 2})
    assert whole["factors"] == {}
    np.testing.assert_array_equal(capture.run_factorised(fn, params)(whole, x), fn(params, x))


def test_factorised_networks_can_be_trained():
    params, x = {"w": draw(0, 6, 6)}, draw(1, 5, 6)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    factorised = capture.factorise(capture.layers(fn, params, x), params, {"w": 2})
    run = capture.run_factorised(fn, params)
    slopes = jax.grad(lambda tree: run(tree, x).sum())(factorised)["factors"]["w"]
    expected = jax.grad(lambda f: (x @ f["A"] @ f["B"]).sum())(factorised["factors"]["w"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=FLOAT32_SUM), slopes, expected)


SHARED = {
    "both sides": (lambda p, x: (x @ p["w"]) @ p["w"].T, "w", "read the same numbers"),
    "overlapping slices": (lambda p, x: x @ p["w"][:, :3] + (x @ p["w"][:, 1:4]), "w[:,:3]", "read the same numbers"),
    "a tied embedding": (lambda p, x: x @ p["w"].T + p["w"][jnp.argmax(x, -1)], "w", "also read by 'gather'"),
}


@pytest.mark.parametrize("case", SHARED)
def test_kernels_that_something_else_reads_are_not_edited(case):
    fn, _, message = SHARED[case]
    params, x = {"w": draw(0, 4, 4)}, draw(1, 5, 4)
    table = capture.layers(fn, params, x)
    path = next(iter(table))
    with pytest.raises(ValueError, match=message):
        capture.write_kernels(table, params, {path: jnp.zeros((table[path].d_in, table[path].d_out))})
    with pytest.raises(ValueError, match=message):
        capture.factorise(table, params, {path: 1})


@pytest.mark.parametrize(
    ("matrices", "message"),
    [({"v": jnp.zeros((4, 4))}, "no layer 'v'; there are w"), ({"w": jnp.zeros((4, 3))}, r"\(4, 4\); got")],
)
def test_bad_edits_are_refused(matrices, message):
    params, x = {"w": draw(0, 4, 4)}, draw(1, 5, 4)
    table = capture.layers(lambda p, x: x @ p["w"], params, x)
    with pytest.raises(ValueError, match=message):
        capture.write_kernels(table, params, matrices)
    with pytest.raises(ValueError, match="ranks are at least 1; got 0 for 'w'"):
        capture.factorise(table, params, {"w": 0})


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_eight_bit_kernels_are_measured_but_not_edited(dtype):
    """An edit would be cut down to the steps of that format, silently."""
    fn = lambda p, x: (x @ p["w"].astype(jnp.float32)) * p["scale"]  # noqa: E731
    params, x = {"w": jnp.arange(-8.0, 8).reshape(4, 4).astype(dtype), "scale": jnp.ones((1, 4))}, draw(1, 5, 4)
    table = capture.layers(fn, params, x)
    for edit in (lambda: capture.write_kernels(table, params, {"w": jnp.ones((4, 4)) / 2}),
                 lambda: capture.factorise(table, params, {"w": 1})):  # fmt: skip
        with pytest.raises(ValueError, match=rf"the kernel of 'w' is {dtype}.*edit the dequantised network"):
            edit()
    floats = params | {"w": params["w"].astype(jnp.float32)}
    edited = capture.write_kernels(table, floats, {"w": jnp.full((4, 4), 0.5)})
    np.testing.assert_array_equal(edited["w"], 0.5)


def test_swaps_of_a_leaf_with_several_layers_are_refused():
    fn = lambda p, x: x @ p["w"][0] + x @ p["w"][1]  # noqa: E731
    with pytest.raises(ValueError, match=r"'w' is a leaf with several layers: swap w\[0\], w\[1\]"):
        capture.replace(fn, lambda call, part: part)({"w": draw(0, 2, 4, 3)}, {"w": jnp.zeros(1)}, draw(1, 5, 4))
