"""What capture cannot follow is refused by name, and never skipped."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental import sparse

from subspace_jax.core import capture

X = jnp.ones((5, 4))
W = jnp.ones((4, 4))


@jax.custom_vjp
def product(x, w):
    return x @ w


product.defvjp(lambda x, w: (x @ w, (x, w)), lambda xw, g: (2 * g @ xw[1].T, xw[0].T @ g))

product_jvp = jax.custom_jvp(lambda x, w: x @ w)
product_jvp.defjvps(lambda t, y, x, w: t @ w, lambda t, y, x, w: x @ t)

REFUSED = {}


def refused(message, **params):
    """Register a function of (params, X) whose weight cannot be followed, with what the refusal must say."""
    return lambda fn: REFUSED.setdefault(fn.__name__, (fn, params, message))


@refused("'w'.*inside the condition of a 'while'", w=W)
def while_condition(p, x):
    return lax.while_loop(lambda h: (h @ p["w"]).sum() > 0, lambda h: h - 1, x)


@refused("'a', 'b'.*'cond'", a=W, b=W)
def chosen_by_cond(p, x):
    return x @ lax.cond(x[0, 0] > 0, lambda: p["a"], lambda: p["b"])


@refused("'a', 'b'.*'select_n'", a=W, b=W)
def chosen_by_data(p, x):
    return x @ jnp.where(x[:4] > 0, p["a"], p["b"])


@refused("'w'.*batch axes.*name it in layers=", w=jnp.stack([W] * 5))
def vmapped_weights(p, x):
    return jax.vmap(lambda w, x: x @ w)(p["w"], x)


@refused("'w'.*batch axes.*name it in layers=", w=W)
def broadcast_weights(p, x):
    return jnp.einsum("bd,bdk->bk", x, jnp.broadcast_to(p["w"], (5, 4, 4)))


@refused("'w'.*primitive 'shard_map'", w=W)
def unknown_call(p, x):
    mesh, spec = jax.sharding.Mesh(jax.devices()[:1], ("i",)), jax.sharding.PartitionSpec()
    return jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=spec, out_specs=spec)(p["w"], x)


@refused("'w'.*'pallas_call', which capture does not know", w=W)
def own_kernel(p, x):
    def product(x, w, out):
        out[...] = x[...] @ w[...]

    return pl.pallas_call(product, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x, p["w"])


@refused("'w'.*'ragged_dot", w=W)
def unknown_product(p, x):
    return lax.ragged_dot(x, p["w"][None], jnp.array([5]))


@refused("'w'.*'triangular_solve'", w=W)
def solve(p, x):
    return jax.scipy.linalg.solve_triangular(p["w"], x.T)


@refused("'w'.*concatenated with data", w=W)
def beside_data(p, x):
    return x @ jnp.concatenate([p["w"], jnp.sin(x[:4])], 1)


@refused("'a', 'b'.*batch axes.*name it in layers=", a=W, b=W)
def stacked_experts(p, x):
    return jnp.einsum("end,edk->enk", jnp.stack([x, -x]), jnp.stack([p["a"], p["b"]]))


@refused("'w'.*multiplied with data and summed", w=W)
def multiplied_and_summed(p, x):
    return (x[..., None] * p["w"][None]).sum(-2)


@refused("'g', 'w'.*multiplied with data and summed", w=W, g=jnp.ones(4))
def summed_under_jit_and_vmap(p, x):
    return jax.vmap(lambda row: jax.jit(lambda y: jnp.mean(y, 0))(row[:, None] * p["w"] * p["g"][None]))(x)


@refused("'data', 'indices'.*'bcoo_dot_general'", data=jnp.ones(4), indices=jnp.stack([jnp.arange(4)] * 2, 1))
def sparse_product(p, x):
    return x @ sparse.BCOO((p["data"], p["indices"]), shape=(4, 4))


@refused("'w'.*concatenated with data", w=W)
def learned_memory_in_a_call(p, x):
    return jnp.einsum("nd,md->nm", x, jnp.concatenate([p["w"], jnp.sin(x)]))


@refused("'w'.*data pick it from several", w=jnp.stack([W] * 3))
def expert_of_each_sample(p, x):
    return jnp.einsum("nd,ndk->nk", x, p["w"][jnp.argmax(x[:, :3], 1)])


@refused("'w'.*data pick it from several", w=jnp.stack([W] * 3))
def expert_of_the_batch(p, x):
    return x @ lax.dynamic_index_in_dim(p["w"], jnp.argmax(x[0, :3]), keepdims=False)


@refused("'w'.*is the image", w=jnp.ones((2, 1, 4, 4)))
def kernel_as_image(p, x):
    return lax.conv(p["w"], x[None, None, :2, :2], (1, 1), "SAME")


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_cannot_be_followed_are_named(case):
    fn, params, message = REFUSED[case]
    jax.eval_shape(fn, params, X)  # it runs; only capture refuses it
    with pytest.raises(ValueError, match=f"cannot follow the weight {message}"):
        capture.layers(fn, params, X)


# What one leaf does to rows (5, 4), and whether it mixes their features, as a kernel does.
STEPS = {
    "matmul": (lambda x, w: x @ w, True),
    "from the left": (lambda x, w: (w.T @ x.T).T, True),
    "multiply and sum": (lambda x, w: (x[:, :, None] * w[None]).sum(1), True),
    "mean under vmap": (lambda x, w: jax.vmap(lambda row: jnp.mean(row[:, None] * w, 0))(x), True),
    "beside data": (lambda x, w: (x @ jnp.concatenate([w, jnp.tanh(x)]).T)[:, :4], True),
    "beside itself": (lambda x, w: x @ jnp.concatenate([w[:, 2:], w[:, :2]], 1), True),
    "scaled kernel": (lambda x, w: x @ (2 * w), True),
    "masked kernel": (lambda x, w: x @ jnp.where(jnp.tril(jnp.ones((4, 4))) > 0, w, 0.0), True),
    "indexed in a loop": (lambda x, w: lax.fori_loop(0, 2, lambda i, h: h @ jnp.stack([w, w])[i], x), True),
    "carried unchanged": (lambda x, w: lax.scan(lambda c, _: ((c[0] @ c[1], c[1]), None), (x, w), None, 2)[0][0], True),
    "its own sign decides": (lambda x, w: lax.cond(w[0, 0] > 0, lambda: x @ w, lambda: x - x @ w), True),
    "squared and added": (lambda x, w: x + (w @ w)[:1], False),
    "loop": (lambda x, w: lax.scan(lambda h, row: (h + 1, (h[0] @ row)), x, jnp.stack([w] * 5))[1], True),
    "scale": (lambda x, w: x * w[:1], False),
    "scale and pool": (lambda x, w: x + (x * w[:1]).mean(0, keepdims=True), False),
    "shift": (lambda x, w: jax.nn.relu(x + w[:1]), False),
    "norm": (lambda x, w: nn.LayerNorm(use_scale=False, use_bias=False).apply({}, x * w[:1]), False),
}


@settings(max_examples=12)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4))
def test_every_leaf_is_a_layer_or_refused_or_only_scales_and_shifts(names):
    def fn(params, x):
        for leaf, name in zip(params, names, strict=True):
            x = STEPS[name][0](x, params[leaf])
        return x

    params = {f"w{i}": W for i in range(len(names))}
    for leaf, name in zip(params, names, strict=True):
        try:
            assert STEPS[name][1] == (leaf in {layer.leaf for layer in table(fn, params, leaf).values()})
        except ValueError as error:
            assert STEPS[name][1] == (re.search(f"cannot follow .*'{leaf}'", str(error)) is not None)  # noqa: PT017


def table(fn, params, leaf):
    return capture.layers(fn, params, X, layers=[leaf])


def test_a_refused_weight_can_be_left_out_but_not_asked_for():
    params = {"v": W, "w": W}
    fn = lambda p, x: (x @ jnp.where(x[:4] > 0, p["v"], 0.0)) @ p["w"]  # noqa: E731
    out, found = capture.observe(fn, params, X, layers=["w"])
    np.testing.assert_array_equal(out, fn(params, X))
    assert list(found) == ["w"]
    with pytest.raises(ValueError, match="cannot follow the weight 'v'"):
        capture.layers(fn, params, X, layers=["v", "w"])


@pytest.mark.parametrize("on", [1.0, "threshold"])
def test_spikes_are_data_although_their_values_are_constants_or_weights(on):
    def fn(p, x):
        return jnp.where(x > 0, p["threshold"] if on == "threshold" else on, 0.0) @ p["w"]

    assert list(capture.layers(fn, {"w": W, "threshold": jnp.ones(())}, X)) == ["w"]


@pytest.mark.parametrize(
    "fn",
    [
        lambda p, x: (p["scale"] * x).sum(0),  # the same for all that is summed
        lambda p, x: (jnp.broadcast_to(1 + p["scale"], x.shape) * x).sum(0),
        lambda p, x: nn.LayerNorm(use_scale=False, use_bias=False).apply({}, x * p["scale"]),  # a norm after a norm
        lambda p, x: (x + p["scale"]).sum(1),
    ],
)
def test_scales_and_shifts_before_a_sum_are_no_kernels(fn):
    table = capture.layers(lambda p, x: fn(p, x @ p["w"]), {"w": W, "scale": jnp.ones((1, 4))}, X)
    assert (list(table), table.other) == (["w"], ("scale",))


def test_a_slice_of_a_leaf_that_is_also_refused_is_not_counted_in_part():
    fn = lambda p, x: x @ p["w"][0] + x @ jnp.where(x[:4] > 0, p["w"][1], 0.0)  # noqa: E731
    with pytest.raises(ValueError, match=r"cannot follow the weight 'w'.*data choose"):
        capture.layers(fn, {"w": jnp.stack([W, W])}, X, layers=["w[0]"])


@pytest.mark.parametrize("multiply", [product, product_jvp])
def test_own_derivative_rules_are_not_silently_lost(multiply):
    fn = lambda w, x: jnp.tanh(multiply(x, w)).sum()  # noqa: E731
    assert capture.observe(fn, W, X)[0] == fn(W, X)
    with pytest.raises(ValueError, match=r"cannot differentiate through 'custom_.*', which holds the weight 'kernel'"):
        jax.grad(lambda w: capture.observe(fn, w, X)[0])(W)
    with pytest.raises(ValueError, match="cannot differentiate"):
        capture.observe(fn, W, X, of="gradients")


def test_rules_without_a_weight_are_kept():
    fn = lambda w, x: product(x @ w, jnp.eye(4)).sum()  # noqa: E731
    found = jax.grad(lambda w: capture.observe(fn, w, X)[0])(W)
    np.testing.assert_array_equal(found, jax.grad(fn)(W, X))


@pytest.mark.parametrize("fn", [lambda p, x: x * p["scale"], lambda p, x: x @ x.T, lambda p, x: p["w"] @ p["w"]])
def test_a_function_without_layers_is_refused(fn):
    with pytest.raises(ValueError, match="no layer: no product of data with a parameter; the leaves are scale, w"):
        capture.layers(fn, {"scale": jnp.ones((1, 4)), "w": W}, X)


@pytest.mark.parametrize(
    ("names", "message"), [(["v"], "no layer 'v'; there are w"), ("w", "single string"), ([], "no layer")]
)
def test_names_of_no_layer_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        capture.layers(lambda p, x: x @ p["w"], {"w": W}, X, layers=names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 3}, "give a key"),
        ({"max_rows": -1, "key": jax.random.key(0)}, "no negative cap"),
        ({"dtype": "float64"}, "enable_x64"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        capture.observe(lambda p, x: x @ p["w"], {"w": W}, X, **options)


def test_bad_streams_are_refused():
    fn, params = lambda p, x: x @ p["w"], {"w": W}
    with pytest.raises(ValueError, match="batches is empty"):
        capture.collect(fn, params, [])
    with pytest.raises(ValueError, match="as a list, not as a generator"):
        capture.collect(fn, params, iter([X]), max_rows=3, key=jax.random.key(0))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("batch",))
    with pytest.raises(ValueError, match="a batch of 5 does not divide over 4 devices"):
        capture.collect(fn, params, [X], mesh=mesh)
