import functools
import json

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn, trees
from subspace_jax.core import quantize as grid
from subspace_jax.nn.layers.quantized import Observed, Quantized, QuantizedSum, bifurcated

KEY = jax.random.key(0)
# Kernels as they are outside of the tests: the quick ones give NaN for the gradient of a residual network, whose last
# scale starts at zero, and fuse a multiplication with a sum that another program rounds in between.
AS_USERS = functools.partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": True})
FLOAT32 = 1e-5  # sums in another order
LAYERS = {"dense": (linen.Dense(5), (7, 6)), "conv": (linen.Conv(4, (3, 3)), (3, 5, 5, 2))}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def problem(kind):
    """A float layer, its input, its parameters and a cotangent of its output."""
    layer, shape = LAYERS[kind]
    sizes = jax.eval_shape(layer.init, KEY, np.zeros(shape, np.float32))["params"]
    params = {name: draw(i, *leaf.shape) / 3 for i, (name, leaf) in enumerate(sizes.items())}
    return layer, draw(2, *shape), params, draw(3, *shape[:-1], layer.features)


@jax.jit
def on_own_range(x, key=None):
    return grid.quantize(x, 8, x.min(), x.max(), key=key)


@functools.partial(jax.jit, static_argnums=1)
def on_batch_range(x, bits=8):
    return grid.quantize(x, bits, *grid.batch_range(x))


@functools.partial(jax.jit, static_argnums=0)
def train(layer, params, x, stats=None, key=KEY):
    """Output and observers after one training step."""
    stats = layer.init(KEY, x)["batch_stats"] if stats is None else stats
    rngs = {"params": key}
    return layer.apply({"params": params, "batch_stats": stats}, x, rngs=rngs, mutable=["batch_stats"])


@functools.partial(jax.jit, static_argnums=0)
def infer(layer, params, x, stats):
    return layer.apply({"params": params, "batch_stats": stats}, x)


@pytest.mark.parametrize("kind", LAYERS)
def test_bifurcated_rounds_the_cotangent_of_the_input_only(kind):
    layer, x, params, cotangent = problem(kind)

    def run(x, params):
        return layer.apply({"params": params}, x)

    @jax.jit
    def few(x, params, cotangent):
        y, back = jax.vjp(lambda x, params: bifurcated(KEY, run, 8, x, params), x, params)
        return y, *back(cotangent)

    @jax.jit
    def plain(x, params, cotangent):
        y, back = jax.vjp(run, x, params)
        return y, *back(cotangent)

    y, dx, dparams = few(x, params, cotangent)
    expected, dx_plain, dparams_plain = plain(x, params, cotangent)
    chex.assert_trees_all_equal(y, expected)
    chex.assert_trees_all_equal(dparams, dparams_plain)
    chex.assert_trees_all_equal(dx, plain(x, params, on_own_range(cotangent, KEY))[1])
    assert np.abs(np.asarray(dx) - np.asarray(dx_plain)).max() > 0


def test_the_gradients_of_a_dense_layer_by_hand():
    layer, x, params, cotangent = problem("dense")
    few = Quantized(layer, 8)

    @jax.jit
    def gradients(key):
        def loss(x, params):
            return (train(few, params, x, key=key)[0] * cotangent).sum()

        return jax.grad(loss, (0, 1))(x, params)

    (dx, dparams), (dx_other, dparams_other) = jax.device_get((gradients(KEY), gradients(jax.random.key(1))))
    rounded, kernel = np.asarray(on_batch_range(x)), np.asarray(on_own_range(params["kernel"]))
    np.testing.assert_allclose(dparams["kernel"], rounded.T @ cotangent, rtol=FLOAT32, atol=FLOAT32)
    np.testing.assert_allclose(dparams["bias"], cotangent.sum(0), rtol=FLOAT32)
    chex.assert_trees_all_equal(dparams, dparams_other)
    assert np.abs(dx - dx_other).max() > 0
    step = (cotangent.max() - cotangent.min()) / 255
    assert (np.abs(dx - cotangent @ kernel.T) <= step * np.abs(kernel).sum(1) + FLOAT32).all()


def test_inference_is_the_rounded_layer_and_rounds_no_gradient():
    layer, x, params, cotangent = problem("dense")
    few = Quantized(layer, 8)
    stats = {"observer": {"lo": np.float32(-1), "hi": np.float32(2)}}

    @jax.jit
    def run(x):
        y, back = jax.vjp(lambda x: infer(few, params, x, stats), x)
        return y, back(cotangent)[0], grid.quantize(x, 8, -1.0, 2.0)

    y, dx, rounded = map(np.asarray, run(x))
    kernel, bias = (np.asarray(on_own_range(params[name])) for name in ("kernel", "bias"))
    np.testing.assert_allclose(y, rounded @ kernel + bias, atol=FLOAT32)
    np.testing.assert_allclose(dx, cotangent @ kernel.T, atol=FLOAT32)


@jax.jit
def integer_product(x, kernel):
    """Scale and lower end of both grids, signed codes and their product in int32."""
    codes_x, *grid_x = grid.codes(x, 8, *grid.batch_range(x))
    codes_w, *grid_w = grid.codes(kernel, 8, *grid.tensor_range(kernel))
    signed = [(codes.astype(jnp.int32) - 128).astype(jnp.int8) for codes in (codes_x, codes_w)]
    product = jax.lax.dot_general(*signed, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    return grid_x, grid_w, signed, product


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_dense_layer_is_an_integer_product(scale):
    x, params = np.float32(scale) * draw(0, 32, 40), {"kernel": draw(1, 40, 24) / 6, "bias": draw(2, 24)}
    found, _ = train(Quantized(linen.Dense(24), 8), params, x)
    (scale_x, lo_x), (scale_w, lo_w), signed, product = integer_product(x, params["kernel"])
    assert product.dtype == jnp.int32
    # sum (k_x - z_x)(k_w - z_w): the zero points are no integers, so their terms are added behind the product
    k_x, k_w = (np.asarray(codes, np.float64) for codes in signed)
    zero_x, zero_w = (-128 - float(lo / step) for lo, step in ((lo_x, scale_x), (lo_w, scale_w)))
    whole = np.asarray(product) - zero_w * k_x.sum(1)[:, None] - zero_x * k_w.sum(0) + 40 * zero_x * zero_w
    oracle = float(scale_x) * float(scale_w) * whole + np.asarray(on_own_range(params["bias"]))
    np.testing.assert_allclose(found, oracle, atol=1e-5 * np.abs(oracle).max())


def test_inputs_kernels_and_biases_take_256_values():
    many, one = np.random.default_rng(0).random((5000, 1), np.float32), np.ones((1, 1), np.float32)
    narrow, wide = Quantized(linen.Dense(1), 8), Quantized(linen.Dense(5000), 8)
    inputs, _ = train(narrow, {"kernel": one, "bias": np.zeros(1, np.float32)}, many[None])  # one sample: nothing clips
    kernels, _ = train(wide, {"kernel": many.T, "bias": 0 * many[:, 0]}, one)
    biases, _ = train(wide, {"kernel": 0 * many.T, "bias": many[:, 0]}, one)
    assert [len(np.unique(values)) for values in (inputs, kernels, biases)] == [256] * 3


def test_residual_sums_round_both_summands_and_the_cotangent():
    a, b, cotangent = draw(0, 50, 60), 5 * draw(1, 50, 60), draw(2, 50, 60)
    layer = QuantizedSum(8)

    @AS_USERS
    def run(a, b, cotangent):
        variables = layer.init(KEY, a, b)
        y, back, stats = jax.vjp(
            lambda a, b: layer.apply(variables, a, b, rngs={"params": KEY}, mutable=["batch_stats"]), a, b, has_aux=True
        )
        return y, back(cotangent), stats["batch_stats"]

    y, (da, db), stats = jax.device_get(run(a, b, cotangent))
    np.testing.assert_array_equal(y, np.asarray(on_batch_range(a)) + np.asarray(on_batch_range(b)))
    ends = [stats[f"observer{i}"]["hi"] for i in (0, 1)]
    np.testing.assert_allclose(ends, [0.9 * x.max(1).mean() for x in (a, b)], rtol=FLOAT32)
    np.testing.assert_array_equal(da, db)
    assert 100 < len(np.unique(da)) <= 256
    assert np.abs(da - cotangent).max() <= (cotangent.max() - cotangent.min()) / 255 * (1 + FLOAT32)


def test_observers_follow_their_rule_and_serve_inference():
    layer, batches = Observed(8), [draw(i, 20, 3, 4) * (i + 1) for i in range(3)]
    stats, lo, hi = None, 0.0, 0.0
    for x in batches:
        y, new = train(layer, {}, x, stats)
        rows = np.asarray(x).reshape(20, -1)
        batch_lo, batch_hi = rows.min(1).mean(), rows.max(1).mean()
        lo, hi = 0.1 * lo + 0.9 * batch_lo, 0.1 * hi + 0.9 * batch_hi
        stats = new["batch_stats"]
        np.testing.assert_allclose([stats["lo"], stats["hi"]], [lo, hi], rtol=FLOAT32)
        np.testing.assert_allclose([y.min(), y.max()], [batch_lo, batch_hi], rtol=FLOAT32)  # outliers clip
    y = infer(layer, {}, 100 * batches[0], stats)
    np.testing.assert_allclose([y.min(), y.max()], [lo, hi], rtol=FLOAT32)


def test_stochastic_activations_are_unbiased_and_random_in_training_only():
    x, layer = np.random.default_rng(0).random((4, 8), np.float32), Observed(4, stochastic=True)
    keys = jax.random.split(KEY, 2000)
    draws, stats = jax.device_get(jax.jit(jax.vmap(lambda key: train(layer, {}, x, key=key)))(keys))
    lo, hi = x.min(1).mean(), x.max(1).mean()
    inside, step = (x > lo) & (x < hi), (hi - lo) / 15
    far = np.abs(draws.mean(0) - x)[inside] / (step / 2 / np.sqrt(2000))  # a deviation is step / 2 at most
    assert far.max() < 4
    assert draws.std(0)[inside].max() > step / 4
    stats = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stats["batch_stats"])
    nearest = grid.quantize(jnp.asarray(x), 4, stats["lo"], stats["hi"])
    np.testing.assert_allclose(infer(layer, {}, x, stats), nearest, rtol=FLOAT32)


def test_before_training_inference_is_refused_and_under_jit_takes_the_range_at_hand():
    model, x = nn.build("mlp", widths=(), bits=8), draw(0, 6, 5)
    variables = jax.jit(model.init)(KEY, x)
    with pytest.raises(ValueError, match="observer 'head/observer' is not calibrated"):
        model.apply(variables, x)
    trained, stats = jax.jit(model.train_apply)(variables, x, KEY)
    chex.assert_trees_all_close(jax.jit(model.apply)(variables, x), trained, atol=FLOAT32)
    assert model.apply(variables | {"batch_stats": stats}, x).shape == (6, 10)


class Twins(linen.Module):
    """Two layers of the same parameters."""

    @linen.compact
    def __call__(self, x, y):
        ones = {"kernel_init": linen.initializers.ones}
        first, second = (Quantized(linen.Dense(3, name=name, **ones), 8)(z) for name, z in (("a", x), ("b", y)))
        return first + second


def test_every_layer_rounds_with_a_key_of_its_own():
    x = draw(0, 9, 4)
    variables = jax.jit(Twins().init)(KEY, x, x)

    @jax.jit
    def gradients(key):
        def loss(x, y):
            out, _ = Twins().apply(variables, x, y, rngs={"params": key}, mutable=["batch_stats"])
            return (out * jnp.arange(27.0).reshape(9, 3)).sum()

        return jax.grad(loss, (0, 1))(x, x)

    (dx, dy), again, other = gradients(KEY), gradients(KEY), gradients(jax.random.key(1))
    assert np.abs(np.asarray(dx) - np.asarray(dy)).max() > 0
    assert np.abs(np.asarray(dx) - np.asarray(other[0])).max() > 0
    chex.assert_trees_all_equal((dx, dy), again)


RESNET = {"classes": 3, "blocks": (1,), "width": 8, "norm": "range_evonorm"}


@functools.cache
def resnet(bits=None):
    model, x = nn.build("resnet20", bits=bits, **RESNET), jax.random.normal(KEY, (3, 8, 8, 1))
    return model, x, jax.jit(model.init)(KEY, x)


def test_few_bits_keep_the_parameters_and_no_bits_the_network():
    (_, _, plain), (_, _, few) = resnet(), resnet(8)
    chex.assert_trees_all_equal(plain["params"], few["params"])
    assert plain["batch_stats"] == {}
    read = {"stem", "stem_norm", "head", *(f"stage1/block0/{name}" for name in ("conv0", "norm0", "conv1", "norm1"))}
    sums = {f"stage1/block0/sum/observer{i}" for i in (0, 1)}
    ends = {f"{path}/{end}" for path in {f"{name}/observer" for name in read} | sums for end in ("lo", "hi")}
    assert set(trees.flatten(few["batch_stats"])) == ends


def test_more_bits_are_nearer_to_float():
    x = draw(0, 1, 20)  # of one sample the range of a batch clips nothing
    plain = nn.build("mlp", widths=(16, 8))
    params = jax.jit(plain.init)(KEY, x)["params"]
    expected = jax.jit(plain.apply)({"params": params, "batch_stats": {}}, x)
    few = {bits: nn.build("mlp", widths=(16, 8), bits=bits) for bits in (2, 5, 8, 16)}

    @jax.jit
    def outputs(x):  # before training, under jit: the range at hand
        return {bits: model.apply({**model.init(KEY, x), "params": params}, x) for bits, model in few.items()}

    errors = {bits: np.abs(np.asarray(out) - np.asarray(expected)).max() for bits, out in outputs(x).items()}
    assert errors[2] > errors[5] > errors[8] > errors[16]
    assert errors[2] > 0.05 > errors[8]
    assert errors[16] < 1e-3


def test_a_residual_network_trains_under_jit():
    model, x, variables = resnet(8)
    targets = np.eye(3, dtype=np.float32)

    @AS_USERS
    def step(variables, key):
        def loss(params):
            logits, stats = model.train_apply({**variables, "params": params}, x, key)
            return -(targets * jax.nn.log_softmax(logits)).sum(1).mean(), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.3 * g, variables["params"], gradient)
        return {"params": params, "batch_stats": stats}, value, gradient

    losses = []
    for i in range(40):
        variables, value, gradient = step(variables, jax.random.key(i))
        losses.append(float(value))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]  # the float network: 0.3
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_vmap_over_stacked_variables_is_a_loop():
    model, x = nn.build("mlp", widths=(6,), classes=3, bits=8), draw(0, 5, 4)
    keys = jax.random.split(KEY, 3)
    stacked = jax.device_get(jax.jit(jax.vmap(model.init, (0, None)))(keys, x))

    def gradient(variables, key):
        def loss(params):
            logits, stats = model.train_apply({**variables, "params": params}, x, key)
            return (logits**2).sum(), (logits, stats)

        return jax.grad(loss, has_aux=True)(variables["params"])

    mapped, once = jax.device_get(jax.jit(jax.vmap(gradient))(stacked, keys)), jax.jit(gradient)
    for i, variables in enumerate(trees.unstack(stacked)):
        alone = once(variables, keys[i])
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), alone, atol=FLOAT32)


def test_bits_survive_json():
    arguments = json.loads(json.dumps({**RESNET, "bits": 8}))
    shapes = jax.eval_shape(nn.build("resnet20", **arguments).init, KEY, jnp.zeros((3, 8, 8, 1)))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, resnet(8)[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits is one of None, 1, .*, 16; got 0"),
        ({"bits": 17}, "bits is one of None, 1, .*, 16; got 17"),
        ({"bits": True}, "bits is one of .*; got True"),
        ({"bits": 8.0}, "bits is one of .*; got 8.0"),
        ({"bits": 8, "dtype": "bfloat16"}, "bits=8 is simulated in dtype float32; bfloat16 would round its grid again"),
    ],
)
def test_bits_that_no_network_takes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.build("mlp", **arguments)


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_a_network_rounds_its_inputs_at_random_in_training_alone(name):
    sizes = {"widths": (8,)} if name == "mlp" else {"blocks": (1,), "width": 16, "norm": "range_evonorm"}
    x = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    nearest, random = (nn.build(name, bits=4, stochastic_act=at_random, **sizes) for at_random in (False, True))
    variables = jax.jit(nearest.init)(KEY, x)
    trained = [jax.jit(model.train_apply)(variables, x, KEY) for model in (nearest, random)]
    assert not np.allclose(trained[0][0], trained[1][0], atol=1e-4)
    state = variables | {"batch_stats": trained[0][1]}
    outputs = [jax.jit(model.apply)(state, x) for model in (nearest, random)]
    np.testing.assert_array_equal(*outputs)
