"""Kernels that are computed from parameters alone: measured like any other, written where the inverse is known."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from subspace_jax import nn as models
from subspace_jax.continual import gpm
from subspace_jax.continual.baselines import owm
from subspace_jax.core import capture
from subspace_jax.label_noise import verifix
from tests.core.grams import FLOAT32_SUM, assert_grams, draw

N, D = 6, 4
X = draw(0, N, D)
MASK = np.asarray(draw(1, D, D) > 0, np.float32)
LORA = {"w": draw(2, D, D), "a": draw(3, D, 1), "b": draw(4, 1, D)}
STACK = {"w": draw(5, 3, D, D) / 2}


@jax.custom_jvp
def rounded(w):
    return jnp.round(w * 8) / 8


rounded.defjvps(lambda t, y, w: t)


def normed(p):
    return p["v"] * p["g"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True)


def low_rank(p):
    return p["w"] + p["a"] @ p["b"]


def dequantised(p):
    return p["q"].astype(jnp.float32) * p["scale"]


def spectral(p):
    w, u = p["w"], jnp.ones((D, 1)) / 2
    for _ in range(2):
        v = w.T @ u
        u = w @ (v / jnp.linalg.norm(v))
        u = u / jnp.linalg.norm(u)
    return w / jnp.sum(u * (w @ v)) * jnp.linalg.norm(v)


# The kernel of a layer (N, D) @ (D, ...) as a function of the parameters, and whether an edit of it can be written.
KERNELS = {
    "mask": (lambda p: p["w"] * MASK, {"w": LORA["w"]}, True),
    "select": (lambda p: jnp.where(MASK > 0, p["w"], 0.0), {"w": LORA["w"]}, True),
    "scale": (lambda p: p["w"] * 0.25, {"w": LORA["w"]}, True),
    "learned scale": (lambda p: p["w"] * p["s"], {"w": LORA["w"], "s": draw(6, 1, D)}, True),
    "transposed scale": (lambda p: (2 * p["w"]).T, {"w": draw(7, 3, D)}, True),
    "low rank sum": (low_rank, LORA, True),
    "under jit and remat": (lambda p: jax.jit(jax.checkpoint(low_rank))(p), LORA, True),
    "beside a constant": (lambda p: jnp.concatenate([p["w"], jnp.ones((D, 1))], 1), {"w": LORA["w"]}, False),
    "beside a scaled one": (lambda p: jnp.concatenate([p["w"], 2 * p["b"].T], 1),
                            {"w": LORA["w"], "b": LORA["b"]}, False),
    "weight norm": (normed, {"v": LORA["w"], "g": jnp.ones((1, D))}, False),
    "spectral norm": (spectral, {"w": LORA["w"]}, False),
    "fake quantisation": (lambda p: rounded(p["w"]), {"w": LORA["w"]}, False),
    "integer cast": (lambda p: p["w"].astype(jnp.int8).astype(jnp.float32), {"w": 3 * LORA["w"]}, False),
    "integers": (dequantised, {"q": jnp.arange(16, dtype=jnp.int8).reshape(D, D), "scale": draw(8, 1, D)}, False),
    "eight bits": (dequantised, {"q": draw(8, D, D).astype(jnp.float8_e4m3fn), "scale": draw(8, 1, D)}, False),
    "chosen by a parameter": (lambda p: lax.cond(p["s"] > 0, lambda: p["w"], lambda: p["a"]),
                              {"s": jnp.ones(()), "w": LORA["w"], "a": draw(9, D, D)}, False),
    "no leaf of its size": (lambda p: p["a"] @ p["b"], {"a": LORA["a"], "b": LORA["b"]}, False),
}  # fmt: skip


@functools.cache
def case(name):
    kernel, params, _ = KERNELS[name]
    fn = lambda p, x: jnp.tanh(x @ kernel(p))  # noqa: E731
    return fn, params, capture.layers(fn, params, X)


@pytest.mark.parametrize("name", KERNELS)
def test_computed_kernels_are_measured_and_read(name):
    fn, params, table = case(name)
    ((path, layer),) = table.items()
    assert path.endswith(":effective")
    assert (layer.leaves, layer.writes, table.other) == (tuple(sorted(params)), False, ())
    assert f"{path}: from {', '.join(sorted(params))}" in repr(table)
    out, found = capture.observe(fn, params, X)
    np.testing.assert_array_equal(out, fn(params, X))
    assert_grams(found, {path: X})
    np.testing.assert_allclose(capture.kernels(table, params)[path], KERNELS[name][0](params), atol=1e-6)


@pytest.mark.parametrize("name", [name for name, (_, _, writes) in KERNELS.items() if writes])
def test_kernels_of_a_known_inverse_are_written(name):
    _, params, table = case(name)
    kernel, path = KERNELS[name][0], next(iter(table))
    old = np.asarray(kernel(params))
    wanted = old + np.asarray(draw(20, *old.shape))
    new = capture.write_kernels(table, params, {path: wanted})
    shown = MASK > 0 if name in ("mask", "select") else np.full(old.shape, True)
    np.testing.assert_allclose(np.asarray(kernel(new))[shown], wanted[shown], atol=1e-5)
    hidden = np.asarray(new["w"] != params["w"]) & ~shown.reshape(params["w"].shape)
    assert not hidden.any()
    assert all(new[leaf] is params[leaf] for leaf in params if leaf != "w")


@pytest.mark.parametrize("name", [name for name, (_, _, writes) in KERNELS.items() if not writes])
def test_kernels_without_a_known_inverse_are_refused(name):
    _, params, table = case(name)
    path = next(iter(table))
    wanted = capture.kernels(table, params)[path] + draw(20, table[path].d_in, table[path].d_out)
    with pytest.raises(
        ValueError, match=r"is computed from|from which .* is computed, is also read|edit the dequantised"
    ):
        capture.write_kernels(table, params, {path: wanted})


def looped(p, x):
    return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["w"][i]), x)


def stacked(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, jnp.stack([p["c"], p["a"], p["b"]]))[0]


def scanned_sum(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ (w[0] + w[1] @ w[2])), None), x, (p["w"], p["a"], p["b"]))[0]


def carried(p, x):
    return lax.scan(lambda c, _: ((jnp.tanh(c[0] @ c[1]), 2 * c[1]), None), (x, p["w"][0]), None, 3)[0][0]


LOOPS = {
    "index": (looped, STACK, lambda p: p["w"]),
    "stack": (stacked, dict(zip("cab", STACK["w"], strict=True)), lambda p: jnp.stack([p["c"], p["a"], p["b"]])),
    "low rank": (scanned_sum, {"w": STACK["w"], "a": draw(6, 3, D, 1), "b": draw(7, 3, 1, D)},
                 lambda p: p["w"] + p["a"] @ p["b"]),
    "carry": (carried, STACK, lambda p: jnp.stack([p["w"][0], 2 * p["w"][0], 4 * p["w"][0]])),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_kernels_that_change_in_a_loop_have_its_length_in_front(name):
    fn, params, kernel = LOOPS[name]
    table = capture.layers(fn, params, X)
    (path,) = table
    assert table[path].stack == (3,)
    expected, rows = np.asarray(kernel(params)), [np.asarray(X)]
    for w in expected[:-1]:
        rows.append(np.tanh(rows[-1] @ w))
    out, found = capture.observe(fn, params, X)
    np.testing.assert_allclose(out, fn(params, X), atol=1e-6)  # XLA fuses tanh with what else is in a loop
    assert_grams(found, {path: np.stack(rows)})
    np.testing.assert_allclose(capture.kernels(table, params)[path], expected, atol=1e-6)
    if name in ("index", "low rank"):
        new = capture.write_kernels(table, params, {path: expected / 2})
        np.testing.assert_allclose(kernel(new), expected / 2, atol=1e-5)


def test_loops_in_loops_have_their_lengths_in_front_outermost_first():
    def inner(h, w):
        return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ (w[0][i] * w[1])), h), None

    fn = lambda p, x: lax.scan(inner, x, (p["w"], p["s"]))[0]  # noqa: E731
    params = {"w": draw(0, 2, 3, D, D), "s": draw(1, 2, 1, D)}
    ((path, layer),) = capture.layers(fn, params, X).items()
    assert (path, layer.stack, layer.rows) == ("w:effective", (2, 3), N)
    expected = np.asarray(params["w"]) * np.asarray(params["s"])[:, None]
    found = capture.kernels(capture.layers(fn, params, X), params)[path]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    rows, h = [], np.asarray(X)
    for w in expected.reshape(6, D, D):
        rows.append(h)
        h = np.tanh(h @ w)
    assert_grams(capture.observe(fn, params, X)[1], {path: np.stack(rows).reshape(2, 3, N, D)})


def test_a_kernel_that_loops_share_is_read_once_and_its_rows_add_up():
    fn = lambda p, x: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ low_rank(p)), x)  # noqa: E731
    table = capture.layers(fn, LORA, X)
    rows = [np.asarray(X)]
    for _ in range(2):
        rows.append(np.tanh(rows[-1] @ np.asarray(low_rank(LORA))))
    assert_grams(capture.observe(fn, LORA, X)[1], {"w:effective": np.concatenate(rows)})
    np.testing.assert_allclose(capture.kernels(table, LORA)["w:effective"], low_rank(LORA), atol=1e-6)


def test_a_weight_carried_through_a_loop_unchanged_is_the_leaf_itself():
    fn = lambda w, x: lax.scan(lambda c, _: ((jnp.tanh(c[0] @ c[1]), c[1]), None), (x, w), None, 3)[0]  # noqa: E731
    ((path, layer),) = capture.layers(lambda w, x: fn(w, x)[0] @ fn(w, x)[1], LORA["w"], X).items()
    assert (path, layer.rows, layer.writes) == ("kernel", 7 * N, True)  # two loops of three, and after them


def test_constants_that_a_loop_leaves_as_they_are_stay_constants():
    def fn(p, x):
        eye = lax.while_loop(lambda c: c[0] < x[0, 0], lambda c: (c[0] + 1, c[1]), (0.0, jnp.eye(D)))[1]
        return x @ (eye @ p["w"])

    assert list(capture.layers(fn, {"w": LORA["w"]}, X)) == ["w:effective"]


def test_values_after_a_loop_whose_length_data_decide_are_data():
    def fn(p, x):
        w = lax.while_loop(lambda c: c[0] < x[0, 0], lambda c: (c[0] + 1, 2 * c[1]), (0.0, p["w"]))[1]
        return x @ w @ p["v"]

    with pytest.raises(ValueError, match=r"'w'.*data choose"):
        capture.layers(fn, {"w": LORA["w"], "v": LORA["w"]}, X)


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("by", ["a parameter", "a constant"])
def test_branches_that_no_data_choose_are_followed(by, taken):
    def fn(p, x):
        chosen = p["deep"] > 0 if by == "a parameter" else jnp.asarray(taken) > 0
        h = lax.cond(chosen, lambda: jnp.tanh(x @ p["w"]) @ p["v"], lambda: x @ (2 * p["w"]))
        return h @ p["v"]

    params = {"deep": jnp.float32(taken), "w": LORA["w"], "v": draw(9, D, D)}
    table = capture.layers(fn, params, X)
    assert list(table) == ["w:effective", "w", "v"]
    out, found = capture.observe(fn, params, X)
    np.testing.assert_allclose(out, fn(params, X), atol=1e-6)
    inner = np.tanh(np.asarray(X @ params["w"]))
    last = inner @ np.asarray(params["v"]) if taken else np.asarray(X @ (2 * params["w"]))
    empty = np.zeros((0, D))
    own = {"w:effective": empty, "w": X, "v": np.concatenate([inner, last])}
    assert_grams(found, own if taken else {"w:effective": X, "w": empty, "v": last})  # both read x, where they run
    np.testing.assert_allclose(capture.kernels(table, params)["w:effective"], 2 * params["w"], atol=1e-6)
    with pytest.raises(ValueError, match="in a branch that may not be taken"):
        capture.record(fn, params, X)
    swapped = capture.replace(fn, lambda call, matrix: call.linear(matrix))(params, {"v": 2 * params["v"]}, X)
    np.testing.assert_allclose(swapped, fn({**params, "v": 2 * params["v"]}, X), atol=1e-4)


def test_real_and_imaginary_leaves_make_one_complex_kernel():
    fn = lambda p, x: jnp.abs(x.astype(complex) @ lax.complex(p["re"], p["im"]))  # noqa: E731
    params = {"re": draw(0, D, 2), "im": draw(1, D, 2)}
    table = capture.layers(fn, params, X)
    assert table["im:effective"].is_complex
    gram = capture.observe(fn, params, X)[1]["im:effective"].gram
    np.testing.assert_allclose(gram, np.asarray(X).T @ np.asarray(X), atol=FLOAT32_SUM)
    with pytest.raises(ValueError, match="im, re could be the kernel"):
        capture.write_kernels(table, params, {"im:effective": jnp.ones((D, 2))})


def masked_conv(p, x):
    w = p["w"] * jnp.tril(jnp.ones((3, 3)))[:, :, None, None]
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_masked_convolutions_are_edited_where_the_mask_is_open():
    params, x = {"w": draw(0, 3, 3, 2, 3)}, draw(1, 2, 5, 5, 2)
    table = capture.layers(masked_conv, params, x)
    seen = capture.collect(masked_conv, params, [x], dtype="float64")
    edited = verifix.verifix(table, params, seen, alpha=1e3)
    wanted = capture.kernels(table, params)["w:effective"].reshape(3, 3, 2, 3)
    assert float(jnp.abs(edited["w"] - params["w"]).max()) > 1e-3
    hidden = np.triu(np.ones((3, 3)), 1) > 0
    np.testing.assert_array_equal(edited["w"][hidden], params["w"][hidden])
    np.testing.assert_array_equal(wanted[hidden], 0)


class Adapted(nn.Module):
    """A dense layer beside a kernel with an adapter."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(9, name="first")(x))
        shapes = {"kernel": (9, 3), "lora_a": (9, 1), "lora_b": (1, 3)}
        w, a, b = (self.param(name, nn.initializers.normal(1.0), shape) for name, shape in shapes.items())
        return x @ (w + a @ b)


def test_edits_of_an_adapted_network_are_lossless_in_the_limit():
    variables = Adapted().init(jax.random.key(0), X)
    table = capture.layers(Adapted().apply, variables, X)
    seen = capture.collect(Adapted().apply, variables, [X], dtype="float64")
    edited = verifix.verifix(table, variables, seen, alpha=1e12)
    out = Adapted().apply(variables, X)
    np.testing.assert_allclose(Adapted().apply(edited, X), out, atol=1e-4)
    moved = {
        path for path, leaf in edited["params"].items() if path != "first" and leaf is not variables["params"][path]
    }
    assert moved == {"kernel"}
    assert float(jnp.abs(edited["params"]["kernel"] - variables["params"]["kernel"]).max()) > 1e-2


def test_leaves_of_an_effective_kernel_are_not_edited_as_kernels_of_their_own():
    fn = lambda p, x: x @ p["w"] + x @ (2 * p["w"])  # noqa: E731
    table = capture.layers(fn, LORA, X)
    for path in table:
        with pytest.raises(ValueError, match=r"read the same numbers|also read by"):
            capture.write_kernels(table, LORA, {path: jnp.ones((D, D))})


def test_different_values_of_one_leaf_are_different_layers_and_one_value_is_one():
    def fn(p, x):
        twice = 2 * p["w"]
        return jnp.tanh(x @ twice) @ twice + x @ (3 * p["w"])

    table = capture.layers(fn, {"w": LORA["w"]}, X)
    assert {path: layer.rows for path, layer in table.items()} == {"w:effective": 2 * N, "w:effective:2": N}
    found = capture.kernels(table, {"w": LORA["w"]})
    np.testing.assert_allclose(found["w:effective:2"], 3 * LORA["w"], atol=1e-6)


TRAINING = {
    "gpm": lambda table: gpm.gpm(table),
    "owm": lambda table: owm.owm_learner(models.build("mlp", classes=2), optax.sgd(1.0), table),
    "factorise": lambda table: capture.factorise(table, LORA, {"w:effective": 1}),
}


@pytest.mark.parametrize("method", TRAINING)
def test_methods_that_need_the_kernel_as_a_leaf_name_it(method):
    _, _, table = case("low rank sum")
    with pytest.raises(ValueError, match=r"'w:effective' is computed from a, b, w, so that it can be measured but"):
        TRAINING[method](table)


def test_effective_kernels_are_not_written_under_jit():
    _, params, table = case("scale")
    with pytest.raises(ValueError, match="edit it outside jit and vmap"):
        jax.jit(lambda p: capture.write_kernels(table, p, {"w:effective": jnp.ones((D, D))}))(params)
    read = jax.jit(lambda p: capture.kernels(table, p)["w:effective"])(params)
    np.testing.assert_allclose(read, params["w"] / 4, atol=1e-6)
