"""Kernels that are concatenated before one product, against the same network with a product for each."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from subspace_jax.core import capture
from tests.core.grams import FLOAT32_SUM, draw, drawn

N = 5
NUMBERS = ("NHWC", "HWIO", "NHWC")


def conv(x, w):
    return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=NUMBERS)


def in_one(*ws):
    """Rows by rows."""
    return jnp.concatenate(ws, 0)


def side(*ws):
    """Columns beside columns."""
    return jnp.concatenate(ws, -1)


def scanned(x, kernels):
    return lax.scan(lambda h, w: (jnp.tanh(h @ side(*w)), None), x, kernels)[0]


def scanned_apart(x, kernels):
    return lax.scan(lambda h, w: (jnp.tanh(side(*(h @ v for v in w))), None), x, kernels)[0]


# name: (one product, a product for each leaf, shapes of the leaves "a", "b", ..., features of x)
CASES = {
    "outputs": (lambda x, a, b: x @ side(a, b), lambda x, a, b: side(x @ a, x @ b), [(4, 3), (4, 2)], (4,)),
    "inputs": (lambda x, a, b: x @ in_one(a, b), lambda x, a, b: x[:, :3] @ a + x[:, 3:] @ b, [(3, 2), (1, 2)], (4,)),
    "from the left": (
        lambda x, a, b: (in_one(a.T, b.T) @ x.T).T,
        lambda x, a, b: side(x @ a, x @ b),
        [(4, 3), (4, 2)],
        (4,),
    ),
    "nested, under jit": (
        lambda x, a, b, c: x @ jax.jit(lambda a, b, c: in_one(side(a, b), c))(a, b, c),
        lambda x, a, b, c: side(x[:, :3] @ a, x[:, :3] @ b) + x[:, 3:] @ c,
        [(3, 3), (3, 2), (1, 5)],
        (4,),
    ),
    "heads, cut again": (
        lambda x, a, b: x @ jnp.concatenate([a, b], 1).reshape(4, 6)[:, 1:5],
        lambda x, a, b: side(x @ a.reshape(4, 4)[:, 1:], x @ b.reshape(4, 2)[:, :1]),
        [(4, 2, 2), (4, 1, 2)],
        (4,),
    ),
    "stacked and split": (
        lambda x, a, b: x @ jnp.split(jnp.stack([a, b], 1).reshape(4, 6), [2], 1)[1],
        lambda x, a, b: side(x @ a[:, 2:], x @ b),
        [(4, 3), (4, 3)],
        (4,),
    ),
    "images": (
        lambda x, a, b: conv(x, side(a, b)),
        lambda x, a, b: side(conv(x, a), conv(x, b)),
        [(3, 2, 2, 3), (3, 2, 2, 1)],
        (5, 4, 2),
    ),
    "channels": (
        lambda x, a, b: conv(x, jnp.concatenate([a, b], 2)),
        lambda x, a, b: conv(x[..., :1], a) + conv(x[..., 1:], b),
        [(3, 2, 1, 3), (3, 2, 2, 3)],
        (5, 4, 3),
    ),
    "in a scan": (
        lambda x, a, b: scanned(x, (a, b)),
        lambda x, a, b: scanned_apart(x, (a, b)),
        [(2, 16, 12), (2, 16, 4)],  # XLA may round products of smaller matrices in a loop otherwise
        (16,),
    ),
}


def network(name):
    """The two forms as functions of (params, x), their parameters and rows."""
    one, apart, shapes, features = CASES[name]
    params = {name: draw(i, *shape) for i, (name, shape) in enumerate(zip("abc", shapes, strict=False))}
    return lambda p, x: one(x, *p.values()), lambda p, x: apart(x, *p.values()), params, draw(9, N, *features)


@pytest.mark.parametrize("name", CASES)
def test_joined_kernels_are_the_layers_of_separate_products(name):
    one, apart, params, x = network(name)
    out, rows = capture.record(one, params, x)
    np.testing.assert_array_equal(out, one(params, x))
    expected = capture.record(apart, params, x)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=FLOAT32_SUM), rows, expected)
    table, separate = capture.layers(one, params, x), capture.layers(apart, params, x)
    assert {path: layer.rows for path, layer in table.items()} == {path: r.shape[-2] for path, r in rows.items()}
    for path, kernel in capture.kernels(table, params).items():
        np.testing.assert_array_equal(kernel, capture.kernels(separate, params)[path])


@pytest.mark.parametrize("name", ["nested, under jit", "channels", "in a scan"])
def test_joined_kernels_are_measured_and_swapped_as_separate_ones(name):
    @functools.partial(jax.jit, static_argnums=0)
    def measured(fn, params, other, x):
        loss = lambda p, x: jnp.sin(fn(p, x)).sum()  # noqa: E731
        gradients = capture.observe(loss, params, x, of="gradients")[1]
        swapped = capture.replace(fn, lambda call, matrix: call.linear(matrix))
        return gradients, capture.record(fn, params, x, of="outputs")[1], swapped(params, other, x)

    one, apart, params, x = network(name)
    table = capture.layers(one, params, x)
    doubled = jax.tree.map(lambda w: 2 * w, capture.kernels(table, params))
    found, expected = (measured(fn, params, doubled, x) for fn in (one, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=FLOAT32_SUM), found, expected)
    edited = capture.write_kernels(table, params, doubled)
    np.testing.assert_allclose(found[2], one(edited, x), atol=FLOAT32_SUM)


def test_one_of_several_joined_kernels_can_be_swapped():
    fn = lambda p, x: x @ side(p["a"], p["b"])  # noqa: E731
    params, x = {"a": draw(0, 4, 3), "b": draw(1, 4, 2)}, draw(2, N, 4)
    found = capture.replace(fn, lambda call, matrix: call.linear(matrix))(params, {"b": jnp.zeros((4, 2))}, x)
    np.testing.assert_array_equal(found[:, :3], fn(params, x)[:, :3])
    np.testing.assert_array_equal(found[:, 3:], 0)


# ---- recurrent cells -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recurrent():
    """More features than rows, so that a projection of full energy is no identity."""
    x = draw(0, 1, 3, 5)
    variables = drawn(nn.RNN(nn.OptimizedLSTMCell(6)).init, jax.random.key(1), x)
    return variables, x, capture.observe(nn.RNN(nn.OptimizedLSTMCell(6)).apply, variables, x)


def test_the_optimised_lstm_has_the_grams_of_the_plain_one(recurrent):
    variables, x, (out, found) = recurrent
    np.testing.assert_array_equal(nn.RNN(nn.OptimizedLSTMCell(6)).apply(variables, x), out)
    plain = capture.observe(nn.RNN(nn.LSTMCell(6)).apply, variables, x)[1]
    assert set(found) == set(plain)
    assert found["cell/ii/kernel"] is found["cell/io/kernel"]
    for path in plain:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), found[path], plain[path])


def test_projecting_an_lstm_on_what_it_reads_changes_no_output(recurrent):
    variables, x, (out, _) = recurrent
    apply = nn.RNN(nn.OptimizedLSTMCell(6)).apply
    table = capture.layers(apply, variables, x)
    rows = capture.record(apply, variables, x)[1]
    kernels = capture.kernels(table, variables)
    edited = capture.write_kernels(
        table, variables, {path: np.linalg.pinv(rows[path]) @ rows[path] @ kernels[path] for path in table}
    )
    assert float(jnp.abs(edited["params"]["cell"]["hi"]["kernel"] - kernels["cell/hi/kernel"]).max()) > 1e-2
    np.testing.assert_allclose(apply(edited, x), out, atol=2e-6)


def test_nnx_packs_what_linen_concatenates(recurrent):
    variables, x, (out, found) = recurrent
    zeros = nnx.initializers.zeros
    cell = nnx.OptimizedLSTMCell(5, 6, kernel_init=zeros, recurrent_kernel_init=zeros, rngs=nnx.Rngs(0))
    linen = variables["params"]["cell"]
    for part, dense in (("i", cell.dense_i), ("h", cell.dense_h)):
        dense.kernel[...] = side(*(linen[part + gate]["kernel"] for gate in "ifgo"))
    cell.dense_h.bias[...] = side(*(linen["h" + gate]["bias"] for gate in "ifgo"))
    graph, state = nnx.split(nnx.RNN(cell, rngs=nnx.Rngs(0)))
    theirs, moments = capture.observe(lambda state, x: nnx.merge(graph, state)(x), state, x)
    np.testing.assert_allclose(theirs, out, atol=2e-6)
    for part in "ih":
        np.testing.assert_allclose(
            moments[f"cell/dense_{part}/kernel"].gram, found[f"cell/{part}i/kernel"].gram, atol=2e-7
        )
