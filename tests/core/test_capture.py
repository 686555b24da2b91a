"""The layers that capture finds, and their Grams, against sums over explicit rows."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from subspace_jax import trees
from subspace_jax.core import capture, convolution
from subspace_jax.core.capture import products
from tests.core.grams import FLOAT32_SUM, assert_grams, draw, drawn, gram

N, D = 7, 4


@jax.custom_jvp
def custom_jvp_product(x, w):
    return x @ w


custom_jvp_product.defjvps(lambda t, y, x, w: t @ w, lambda t, y, x, w: x @ t)


@jax.custom_vjp
def custom_vjp_product(x, w):
    return x @ w


custom_vjp_product.defvjp(lambda x, w: (x @ w, (x, w)), lambda xw, g: (g @ xw[1].T, xw[0].T @ g))


# Each function multiplies x (7, 4) by the one leaf "w": (function, shape of the leaf, name of the layer).
PATHS = {
    "dense": (lambda p, x: x @ p["w"], (D, 3), "w"),
    "transposed": (lambda p, x: x @ p["w"].T, (3, D), "w"),
    "from the left": (lambda p, x: (p["w"] @ x.T).T, (3, D), "w"),
    "einsum": (lambda p, x: jnp.einsum("bd,hdk->bhk", x, p["w"]), (2, D, 3), "w"),
    "reshaped": (lambda p, x: x @ p["w"].reshape(D, 6), (2, 2, 6), "w"),
    "cast": (lambda p, x: x @ p["w"].astype(jnp.float32), (D, 3), "w"),
    "flipped": (lambda p, x: x @ jnp.flip(p["w"], 1), (D, 3), "w[:,::-1]"),
    "indexed": (lambda p, x: x @ p["w"][1], (3, D, 2), "w[1]"),
    "sliced": (lambda p, x: x @ p["w"][:, 2:5], (D, 6), "w[:,2:5]"),
    "vmap over rows": (lambda p, x: jax.vmap(lambda row: p["w"] @ row)(x), (3, D), "w"),
    "jit": (lambda p, x: jax.jit(jax.jit(lambda w, x: x @ w))(p["w"], x), (D, 3), "w"),
    "remat": (lambda p, x: jax.checkpoint(lambda w, x: x @ w)(p["w"], x), (D, 3), "w"),
    "custom_jvp": (lambda p, x: custom_jvp_product(x, p["w"]), (D, 3), "w"),
    "custom_vjp": (lambda p, x: custom_vjp_product(x, p["w"]), (D, 3), "w"),
    "stop_gradient": (lambda p, x: x @ lax.stop_gradient(p["w"]), (D, 3), "w"),
    "1x1 conv": (lambda p, x: conv(x[:, None, None], p["w"], 1, "SAME"), (1, 1, D, 3), "w"),
}


def conv(x, w, stride, padding, dilation=1, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, (stride, 1), padding, None, (dilation, 1), numbers, groups, precision=lax.Precision.HIGHEST
    )


def captured(fn, params, x):
    """(fn seen by capture, fn itself), moments of the inputs, rows of the outputs, kernels: compiled as one."""

    @jax.jit
    def together(params, x):
        out, found = capture.observe(fn, params, x)
        rows = capture.record(fn, params, x, of="outputs")[1]
        return (out, fn(params, x)), found, rows, capture.kernels(capture.layers(fn, params, x), params)

    return together(params, x)


@pytest.mark.parametrize("name", PATHS)
def test_every_way_to_multiply_has_the_gram_of_its_rows(name):
    fn, shape, path = PATHS[name]
    params, x = {"w": draw(0, *shape)}, draw(1, N, D)
    outs, found, rows, kernels = captured(fn, params, x)
    np.testing.assert_array_equal(*outs)
    assert_grams(found, {path: x})
    np.testing.assert_allclose(rows[path], np.asarray(x) @ np.asarray(kernels[path]), atol=FLOAT32_SUM)


CONVS = {
    "strided": ((3, 2, 4, 6), {"stride": 2, "padding": ((1, 1), (0, 1))}),
    "dilated": ((3, 2, 4, 6), {"stride": 1, "padding": "VALID", "dilation": 2}),
    "grouped": ((3, 2, 2, 6), {"stride": 2, "padding": "SAME", "groups": 2}),
    "depthwise": ((3, 3, 1, 4), {"stride": 1, "padding": "SAME", "groups": 4}),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_have_the_gram_of_their_patches(name):
    shape, options = CONVS[name]
    params, x = {"w": draw(0, *shape)}, draw(1, 2, 7, 6, 4)
    fn = lambda p, x: conv(x, p["w"], **options)  # noqa: E731
    outs, found, outputs, kernels = captured(fn, params, x)
    groups = options.get("groups", 1)
    rows = convolution.patches(
        x, shape[:2], strides=(options["stride"], 1), padding=options["padding"],
        dilation=(options.get("dilation", 1), 1), groups=groups,
    )  # fmt: skip
    rows = np.asarray(rows.reshape(*((groups,) if groups > 1 else ()), -1, rows.shape[-1]))
    assert_grams(found, {"w": rows})
    assert capture.layers(fn, params, x)["w"].rows == rows.shape[-2]
    np.testing.assert_allclose(outputs["w"], rows @ np.asarray(kernels["w"]), atol=FLOAT32_SUM)
    np.testing.assert_array_equal(*outs)


def test_patches_of_a_large_batch_are_never_all_there(monkeypatch):
    params, x = {"w": draw(0, 3, 2, 4, 6)}, draw(1, 6, 7, 6, 4)
    fn = lambda p, x: conv(x, p["w"], 2, "SAME")  # noqa: E731
    whole = capture.observe(fn, params, x)[1]["w"]
    monkeypatch.setattr(products, "PATCH_BYTES", 2 * 4 * 6 * 24 * 4 + 1)  # two samples
    text = str(jax.make_jaxpr(lambda x: capture.observe(fn, params, x)[1])(x))
    assert "scan" in text
    assert "144,24]" not in text
    for a, b in zip(capture.observe(fn, params, x)[1]["w"], whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=FLOAT32_SUM)


# ---- one network in five forms -------------------------------------------------------------------------------------
WIDTHS = (16, 16, 16, 3)


def weights(seed):
    return [draw(seed + i, a, b) for i, (a, b) in enumerate(itertools.pairwise(WIDTHS))]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in WIDTHS[1:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(WIDTHS[-1])(x)


def linen_form(ws):
    params = {f"Dense_{i}": {"kernel": w, "bias": jnp.zeros(w.shape[1])} for i, w in enumerate(ws)}
    return Linen().apply, {"params": params}, [f"Dense_{i}/kernel" for i in range(3)]


def nnx_form(ws):
    rngs, zeros = nnx.Rngs(0), nnx.initializers.zeros
    model = nnx.List([nnx.Linear(*w.shape, kernel_init=zeros, rngs=rngs) for w in ws])
    for layer, w in zip(model, ws, strict=True):
        layer.kernel[...] = w
    graph, state = nnx.split(model)

    def fn(state, x):
        *hidden, last = nnx.merge(graph, state)
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)

    return fn, state, [f"{i}/kernel" for i in range(3)]


def equinox_form(ws):
    model = eqx.filter_eval_shape(eqx.nn.MLP, WIDTHS[0], WIDTHS[-1], WIDTHS[1], 2, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: [layer.weight for layer in m.layers], model, [w.T for w in ws])
    model = eqx.tree_at(lambda m: [layer.bias for layer in m.layers], model, [jnp.zeros(w.shape[1]) for w in ws])
    params, static = eqx.partition(model, eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, [f"layers/{i}/weight" for i in range(3)]


def plain_form(ws):
    def fn(params, x):
        *hidden, last = params
        for w in hidden:
            x = jax.nn.relu(x @ w)
        return x @ last

    return fn, ws, ["0", "1", "2"]


def scanned_form(ws):
    def fn(params, x):
        x, _ = lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, params["hidden"])
        return x @ params["last"]

    return fn, {"hidden": jnp.stack(ws[:-1]), "last": ws[-1]}, ["hidden", "last"]


FORMS = {"linen": linen_form, "nnx": nnx_form, "equinox": equinox_form, "plain": plain_form, "scanned": scanned_form}


@pytest.mark.parametrize("form", FORMS)
def test_one_network_in_any_form_has_the_same_grams(form):
    ws, x = weights(0), draw(9, 16, WIDTHS[0])
    fn, params, names = FORMS[form](ws)
    inputs = [np.asarray(x)]
    for w in ws[:-1]:
        inputs.append(np.maximum(inputs[-1] @ np.asarray(w), 0))
    inputs = [np.stack(inputs[:-1]), inputs[-1]] if form == "scanned" else inputs
    out, found = capture.observe(fn, params, x)
    np.testing.assert_array_equal(out, fn(params, x))
    assert_grams(found, dict(zip(names, inputs, strict=True)))


@pytest.mark.parametrize("call", ["method", "object"])
def test_modules_are_parameters_as_they_are(call):
    """With the functions, strings and flags that they hold; and called by something without a hash."""

    class Caller:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, model, x):
            return model["scale"] * jax.vmap(model["mlp"])(x) if model["mode"] == "scaled" else None

    ws, x = weights(0), draw(9, 16, WIDTHS[0])
    caller, (apply, partitioned, names) = Caller(), equinox_form(ws)
    static = eqx.filter_eval_shape(eqx.nn.MLP, WIDTHS[0], WIDTHS[-1], WIDTHS[1], 2, key=jax.random.key(0))
    model = {"mlp": eqx.combine(partitioned, eqx.filter(static, lambda leaf: not hasattr(leaf, "shape")))}
    model |= {"mode": "scaled", "scale": 2.0}
    fn = caller if call == "object" else caller.__call__
    found = capture.collect(fn, model, [x])
    theirs = capture.observe(apply, partitioned, x)[1]
    assert list(found) == [f"mlp/{name}" for name in names]
    for name in names:
        np.testing.assert_allclose(found[f"mlp/{name}"].gram, theirs[name].gram, atol=FLOAT32_SUM)
    table = capture.layers(fn, model, x)
    doubled = capture.write_kernels(table, model, {path: 2 * k for path, k in capture.kernels(table, model).items()})
    swapped = capture.replace(fn, lambda call, matrix: call.linear(matrix))
    kernels = capture.kernels(table, doubled)
    np.testing.assert_allclose(swapped(model, kernels, x), caller(doubled, x), atol=FLOAT32_SUM)


def test_channels_first_convolutions_have_the_features_of_channels_last():
    x, w = draw(0, 2, 5, 6, 4), draw(1, 3, 2, 4, 6)
    options = {"use_bias": False, "key": jax.random.key(0)}
    model = eqx.filter_eval_shape(eqx.nn.Conv2d, 4, 6, (3, 2), (2, 1), ((1, 1), (0, 1)), **options)
    model = eqx.tree_at(lambda m: m.weight, model, w.transpose(3, 2, 0, 1))
    fn = lambda m, x: jax.vmap(m)(x.transpose(0, 3, 1, 2))  # noqa: E731
    theirs = capture.observe(fn, model, x)[1]["weight"]
    ours = capture.observe(lambda p, x: conv(x, p["w"], 2, ((1, 1), (0, 1))), {"w": w}, x)[1]["w"]
    np.testing.assert_allclose(theirs.gram, ours.gram, atol=FLOAT32_SUM)
    table = capture.layers(fn, model, x)
    np.testing.assert_array_equal(capture.kernels(table, model)["weight"], w.reshape(-1, 6))


# ---- attention -----------------------------------------------------------------------------------------------------
def test_attention_has_four_layers_and_three_share_a_gram():
    x = draw(0, 2, 6, 8)
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    variables = drawn(model.init, jax.random.key(1), x)
    table = capture.layers(model.apply, variables, x)
    prefix = [path.removeprefix("params/") for path in trees.flatten(variables) if path.endswith("kernel")]
    assert sorted(table) == sorted(prefix)
    assert {table[name].shares for name in prefix if not name.startswith("out")} == {"query/kernel"}
    _, found = capture.observe(model.apply, variables, x)
    assert found["key/kernel"] is found["query/kernel"]
    np.testing.assert_allclose(found["key/kernel"].gram, gram(x.reshape(-1, 8)), atol=FLOAT32_SUM)
    out, kept = capture.record(model.apply, variables, x)
    kernel = capture.kernels(table, variables)["out/kernel"]
    bias = variables["params"]["out"]["bias"]
    np.testing.assert_allclose(kept["out/kernel"] @ kernel + bias[None], out.reshape(-1, 8), atol=FLOAT32_SUM)


@pytest.mark.parametrize("packing", ["split", "slice", "reshape"])
def test_a_packed_kernel_is_three_layers(packing):
    def fn(params, x):
        w = params["qkv"]
        if packing == "split":
            q, k, v = jnp.split(w, 3, 1)
        elif packing == "slice":
            q, k, v = w[:, :D], w[:, D : 2 * D], w[:, 2 * D :]
        else:
            q, k, v = w.reshape(D, 3, D).swapaxes(0, 1)
        return jax.nn.softmax((x @ q) @ (x @ k).T) @ (x @ v)

    params, x = {"qkv": draw(0, D, 3 * D)}, draw(1, N, D)
    table = capture.layers(fn, params, x)
    assert len(table) == 3
    matrices = capture.kernels(table, params)
    np.testing.assert_array_equal(jnp.concatenate(list(matrices.values()), 1), params["qkv"])
    edited = capture.write_kernels(table, params, {path: 2 * m for path, m in list(matrices.items())[:2]})
    np.testing.assert_array_equal(edited["qkv"][:, : 2 * D], 2 * params["qkv"][:, : 2 * D])
    np.testing.assert_array_equal(edited["qkv"][:, 2 * D :], params["qkv"][:, 2 * D :])


# ---- loops and ties ------------------------------------------------------------------------------------------------
def test_a_shared_weight_in_a_scan_adds_up_over_the_steps():
    def fn(params, x):
        hidden, _ = lax.scan(lambda h, step: (jnp.tanh(step @ params["in"] + h @ params["back"]), None), x[:, 0] * 0,
                             x.swapaxes(0, 1))  # fmt: skip
        return hidden

    params, x = {"in": draw(0, D, D), "back": draw(1, D, D)}, draw(2, N, 7, D)
    hidden = [jnp.zeros((N, D))]
    for t in range(6):
        hidden.append(jnp.tanh(x[:, t] @ params["in"] + hidden[-1] @ params["back"]))
    expected = {"in": x.reshape(-1, D), "back": jnp.concatenate(hidden)}
    assert_grams(capture.observe(fn, params, x)[1], expected)
    assert capture.layers(fn, params, x)["back"].rows == 7 * N
    kept = capture.record(fn, params, x)[1]
    np.testing.assert_allclose(kept["back"], expected["back"], atol=FLOAT32_SUM)


def test_scans_in_scans_with_remat_and_groups_keep_their_axes():
    def fn(params, x):
        def block(x, w):
            return jax.checkpoint(lambda x: x + conv(x, w["conv"], 1, "SAME", groups=2) @ w["mix"])(x), None

        return lax.scan(lambda x, w: (lax.scan(block, x, w)[0], None), x, params)[0]

    params = {"conv": draw(0, 2, 3, 3, 1, 2, 4), "mix": draw(1, 2, 3, 4, 4) / 9}
    x = draw(2, 2, 5, 1, 4)
    table = capture.layers(fn, params, x)
    assert (table["conv"].stack, table["conv"].groups, table["conv"].d_in) == ((2, 3), 2, 6)
    out, found = capture.observe(fn, params, x)
    np.testing.assert_array_equal(out, fn(params, x))
    rows = capture.record(fn, params, x)[1]
    assert found["conv"].gram.shape == (2, 3, 2, 6, 6)
    assert_grams(found, rows)
    flat = jax.tree.map(lambda w: w.reshape(6, *w.shape[2:]), params)
    h = x
    for i in range(6):
        patches = convolution.patches(h, (3, 1), groups=2)
        np.testing.assert_allclose(rows["conv"].reshape(6, 2, -1, 6)[i], patches.reshape(2, -1, 6), atol=FLOAT32_SUM)
        h = h + conv(h, flat["conv"][i], 1, "SAME", groups=2) @ flat["mix"][i]


def test_tied_weights_add_where_the_same_axes_are_contracted():
    params, x = {"w": draw(0, D, D)}, draw(1, N, D)
    _, found = capture.observe(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], params, x)
    assert_grams(found, {"w": jnp.concatenate([x, jnp.tanh(x @ params["w"])])})


@pytest.mark.parametrize("order", [0, 1])
def test_a_leaf_used_from_both_sides_gives_two_layers(order):
    params, x = {"w": draw(0, D, D)}, draw(1, N, D)
    sides = {"w": lambda w: w, "w:transposed": lambda w: w.T}
    first, second = list(sides)[:: 1 - 2 * order]
    fn = lambda p, x: jnp.tanh(x @ sides[first](p["w"])) @ sides[second](p["w"])  # noqa: E731
    assert_grams(capture.observe(fn, params, x)[1], {first: x, second: jnp.tanh(x @ sides[first](params["w"]))})


def test_expert_weights_are_followed_when_they_are_named():
    params, x = {"experts": draw(0, 3, D, 2)}, draw(1, 3, N, D)
    fn = lambda p, x: jnp.einsum("end,edk->enk", x, p["experts"])  # noqa: E731
    out, found = capture.observe(fn, params, x, layers=["experts"])
    np.testing.assert_array_equal(out, fn(params, x))
    assert_grams(found, {"experts": x})


# ---- the table -----------------------------------------------------------------------------------------------------
def test_the_table_needs_no_arrays_and_reads_well():
    fn = lambda p, x: (x @ p["a"]["kernel"] + p["a"]["bias"], x @ p["b"])  # noqa: E731
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    params = {"a": {"kernel": shape(D, 3), "bias": shape(1, 3)}, "b": shape(D, 2), "unused": shape(9)}
    table = capture.layers(fn, params, shape(1000, D))
    assert repr(table).splitlines() == [
        "path      kind   kernel  matrix  rows  reads as",
        "a/kernel  dense  (4, 3)  4x3     1000",
        "b         dense  (4, 2)  4x2     1000  a/kernel",
        "other: a/bias, unused",
    ]


def test_layers_picks_by_layer_or_by_leaf():
    ws, x = weights(0), draw(9, 16, WIDTHS[0])
    assert list(capture.observe(*plain_form(ws)[:2], x, layers=["1"])[1]) == ["1"]
    fn = lambda p, x: (x @ p["w"][0], x @ p["w"][1])  # noqa: E731
    table = capture.layers(fn, {"w": draw(0, 2, 16, 3)}, x, layers=["w"])
    assert list(table) == ["w[0]", "w[1]"]
