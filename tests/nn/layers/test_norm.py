import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn, trees
from subspace_jax.nn.layers.norm import EvoNorm, RangeEvoNorm, range_factor

KEY = jax.random.key(0)
SHAPES = [(3, 4, 5, 8), (3, 8), (3, 6, 8)]  # images, features, tokens
FLOAT32 = 1e-5  # sums in another order


apply = jax.jit(lambda layer, variables, x: layer.apply(variables, x), static_argnums=0)


def draw(layer, shape, seed=0):
    """Random input, and random vectors for the layer."""
    rng = np.random.default_rng(seed)
    x = (2 * rng.normal(size=shape) + 1).astype(np.float32)
    names = trees.flatten(jax.eval_shape(layer.init, KEY, x)["params"])
    return x, {name: rng.normal(size=shape[-1:]).astype(np.float32) for name in names}


def with_louder_others(x):
    return np.concatenate([x[:1], 7 * x[1:]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def each_group(x, groups):
    """Per sample and group: its channels, and its values channel by channel."""
    width = x.shape[-1] // groups
    for i in range(len(x)):
        for g in range(groups):
            channels = slice(g * width, (g + 1) * width)
            yield i, channels, np.moveaxis(x[i, ..., channels], -1, 0).reshape(-1)


@pytest.mark.parametrize("shape", SHAPES, ids=["images", "features", "tokens"])
@pytest.mark.parametrize("hard", [False, True])
def test_evonorm_by_its_formula(shape, hard):
    layer = EvoNorm(groups=4, hard=hard)
    x, params = draw(layer, shape)
    assert set(params) == {"scale", "bias"} | (set() if hard else {"v"})
    p, x = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}, np.asarray(x)
    expected = np.empty(shape)
    for i, channels, values in each_group(x, 4):
        own = x[i, ..., channels]
        active = own * (hard_sigmoid(own) if hard else sigmoid(p["v"][channels] * own))
        expected[i, ..., channels] = active / np.sqrt(values.var() + 1e-5) * p["scale"][channels] + p["bias"][channels]
    found = apply(layer, {"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 64)], ids=["images", "features"])
def test_range_evonorm_by_its_formula(shape):
    layer = RangeEvoNorm(groups=4, chunks=4)
    x, params = draw(layer, shape)
    p, x = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}, np.asarray(x)
    expected = np.empty(shape)
    for i, channels, values in each_group(x, 4):
        chunks = values.reshape(4, -1)
        deviation = (chunks.max(1).mean() - chunks.min(1).mean()) * range_factor(chunks.shape[1])
        own = x[i, ..., channels]
        active = own * hard_sigmoid(p["v"][channels] * own)
        expected[i, ..., channels] = active / (deviation + 1e-5) * p["scale"][channels] + p["bias"][channels]
    found = apply(layer, {"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize(("n", "share"), [(64, 0.88), (256, 0.92), (1024, 0.94)])
def test_the_range_of_normal_values_gives_their_deviation_biased_low(n, share):
    chunks = np.random.default_rng(0).normal(size=(4000, n))
    assert abs((chunks.max(1).mean() - chunks.min(1).mean()) * range_factor(n) - share) < 0.03


@pytest.mark.parametrize("layer", [EvoNorm(), EvoNorm(hard=True), RangeEvoNorm()], ids=["s0", "hard", "range"])
def test_a_sample_does_not_depend_on_its_batch(layer):
    x, params = draw(layer, (4, 8, 8, 8))
    alone, beside = (np.asarray(apply(layer, {"params": params}, batch)) for batch in (x, with_louder_others(x)))
    np.testing.assert_allclose(alone[0], beside[0], rtol=FLOAT32)


def test_in_few_bits_a_sample_shares_the_grid_of_its_batch():
    layer = RangeEvoNorm(bits=8)
    x, params = draw(layer, (4, 8, 8, 8))
    stats = {"observer": {"lo": np.float32(-50), "hi": np.float32(50)}}  # one input grid for both batches
    variables = {"params": params, "batch_stats": stats}
    alone, beside = (np.asarray(apply(layer, variables, batch))[0] for batch in (x, with_louder_others(x)))
    assert 1e-4 < np.abs(alone - beside).max() / np.abs(alone).max() < 0.2


@pytest.mark.parametrize("layer", [EvoNorm(), EvoNorm(hard=True), RangeEvoNorm(bits=8)], ids=["s0", "hard", "range"])
def test_a_constant_image_stays_finite(layer):
    @jax.jit
    def outcome(x):
        variables = layer.init(KEY, x)
        out, back, _ = jax.vjp(
            lambda x: layer.apply(variables, x, rngs={"params": KEY}, mutable=["batch_stats"]), x, has_aux=True
        )
        return out, back(out)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome(np.full((2, 8, 8, 8), 0.5, np.float32))))


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (EvoNorm(), (2, 4, 4, 12), "EvoNorm: groups divide the channels; 8 does not divide 12"),
        (EvoNorm(), (2, 8), "EvoNorm: a group of one value has no deviation; take fewer groups than 8"),
        (RangeEvoNorm(groups=6), (2, 4, 4, 8), "groups divide the channels; 6 does not divide 8"),
        (RangeEvoNorm(), (2, 5, 5, 8), "RangeEvoNorm: 25 values a group do not cut into 16 chunks .* take chunks=1"),
        (RangeEvoNorm(), (2, 4, 4, 8), "16 values a group do not cut into 16 chunks of two or more"),
    ],
)
def test_groups_that_do_not_fit_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, KEY, jnp.zeros(shape))


def test_a_network_names_the_norm_that_does_not_fit():
    with pytest.raises(ValueError, match="dense0_norm: 8 values a group"):
        jax.eval_shape(nn.build("mlp", norm="range_evonorm", widths=(64,)).init, KEY, jnp.zeros((2, 5)))


@pytest.mark.parametrize(
    ("norm", "count"), [("evonorm", 273_258), ("evonorm_hard", 272_474), ("range_evonorm", 273_258)]
)
def test_resnet20_has_v_beside_the_parameters_of_batch_norm(norm, count):
    shapes = jax.eval_shape(nn.build("resnet20", norm=norm).init, KEY, jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    assert shapes["batch_stats"] == {}


def draw_images():
    return np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)


@pytest.mark.parametrize("norm", ["evonorm", "batch"])
def test_only_the_last_evonorm_of_a_block_starts_at_zero(norm):
    model, x = nn.build("resnet20", blocks=(2,), width=8, norm=norm), draw_images()
    variables = jax.device_get(jax.jit(model.init)(KEY, x))
    gains = {path: leaf for path, leaf in trees.flatten(variables["params"]).items() if path.endswith("scale")}
    zero = {path for path, leaf in gains.items() if not leaf.any()}
    assert zero == ({path for path in gains if path.endswith("norm1/scale")} if norm == "evonorm" else set())
    if norm == "evonorm":
        stages = jax.device_get(jax.jit(model.features)(variables, x))
        np.testing.assert_allclose(stages["stage1"], stages["stem"], rtol=FLOAT32)  # two blocks of zero
        assert stages["stem"].min() < 0  # no ReLU behind a norm that holds the activation, nor behind a sum


def test_the_activation_stays_where_no_norm_holds_it():
    x = draw_images()
    plain, evo = (nn.build("lenet", filters=(2, 2), widths=(4, 3), norm=norm) for norm in ("none", "evonorm"))
    variables = jax.jit(plain.init)(KEY, x)
    found, expected = (jax.jit(model.features)(variables, x) for model in (evo, plain))
    chex.assert_trees_all_equal(dict(found), dict(expected))
    with pytest.raises(ValueError, match="norm 'evonorm' would activate what the layers of a ViT read"):
        jax.eval_shape(nn.build("vit_tiny", norm="evonorm").init, KEY, x)
    mlp = nn.build("mlp", widths=(16,), norm="evonorm", activation="relu")
    assert jax.jit(lambda x: mlp.features(mlp.init(KEY, x), x)["dense0"].min())(x) < 0


def test_he_out_has_the_variance_of_the_outputs():
    model = nn.build("cnn5")
    kernel = np.asarray(jax.jit(model.init)(KEY, np.zeros((1, 8, 8, 3), np.float32))["params"]["conv3"]["kernel"])
    deviation = np.sqrt(2 / (9 * 64))
    assert abs(kernel.std() / deviation - 1) < 4 / np.sqrt(2 * kernel.size)
    assert np.abs(kernel).max() > 3 * deviation  # normal, not cut off at two deviations
