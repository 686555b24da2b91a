import functools
import json
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import trees
from subspace_jax.nn import Model, build
from subspace_jax.nn.build import NETWORKS
from subspace_jax.nn.parts import ACTIVATIONS, Parts
from subspace_jax.nn.vit import Attention

# Parameters as published for these inputs and classes (ResNet-20 with option B: 2,752 more than with option A).
PUBLISHED = [
    ("mlp", (28, 28, 1), 10, 235_146),
    ("lenet5", (28, 28, 1), 10, 61_706),
    ("lenet5", (32, 32, 1), 10, 61_706),
    ("cnn2", (28, 28, 1), 10, 105_866),  # 160 + 4,640 + 100,416 + 650
    ("cnn5", (32, 32, 3), 10, 76_202),  # 864 + 9,216 + 18,432 + 36,864, three vectors a norm, 10,250
    ("vgg", (32, 32, 3), 10, 14_728_266),
    ("vgg11", (32, 32, 3), 10, 9_231_114),
    ("vgg16", (32, 32, 3), 10, 14_728_266),
    ("resnet18", (32, 32, 3), 10, 11_173_962),
    ("resnet20", (32, 32, 3), 10, 272_474),
    ("resnet18_imagenet", (224, 224, 3), 1000, 11_689_512),
    ("resnet50", (224, 224, 3), 1000, 25_557_032),
    ("vit_s16", (224, 224, 3), 1000, 22_050_664),
    ("vit_b16", (224, 224, 3), 1000, 86_567_656),
]
TINY = {
    "mlp": {"widths": (5, 4)},
    "lenet5": {"filters": (2, 3), "widths": (5, 4)},
    "cnn": {"widths": (2, 3), "pools": (1, 2, 2)},
    "cnn5": {"filters": (8, 8)},
    "vgg11": {"convs": (1, 1), "width": 2},
    "resnet18": {"blocks": (1, 1), "width": 2},
    "vit_tiny": {"width": 6, "depth": 1, "heads": 2},
}
STAGES = {
    "mlp": {"dense0": (5,), "dense1": (4,), "penultimate": (4,)},
    "lenet5": {"conv0": (4, 4, 2), "conv1": (2, 2, 3), "dense0": (5,), "dense1": (4,), "penultimate": (4,)},
    "cnn": {"conv0": (4, 4, 2), "conv1": (1, 1, 3), "penultimate": (3,)},
    "cnn5": {"conv0": (8, 8, 8), "conv1": (4, 4, 8), "penultimate": (128,)},
    "vgg11": {"stage1": (4, 4, 2), "stage2": (2, 2, 4), "penultimate": (4,)},
    "resnet18": {"stem": (8, 8, 2), "stage1": (8, 8, 2), "stage2": (4, 4, 4), "penultimate": (4,)},
    "vit_tiny": {"patches": (5, 6), "block0": (5, 6), "penultimate": (6,)},
}
FLOAT32 = 1e-5  # sums in another order
BFLOAT16 = 0.1  # eight bits of mantissa through a few layers of unit scale


IMAGES = np.random.default_rng(1).random((3, 8, 8, 1), np.float32)


def shapes(name, **arguments):
    """The variables of a tiny network without their values: nothing is compiled."""
    return jax.eval_shape(build(name, classes=3, **TINY[name], **arguments).init, jax.random.key(0), IMAGES)


@functools.cache
def tiny(name, **arguments):
    """A tiny network on 8x8 images, its functions compiled once for the whole file, and its variables."""
    model = Model(*map(jax.jit, build(name, classes=3, **TINY[name], **arguments)))
    return model, model.init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize(("name", "shape", "classes", "count"), PUBLISHED)
def test_full_size_networks_have_the_published_number_of_parameters(name, shape, classes, count):
    model = build(name, classes=classes)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == count


def test_strides_halve_as_poolings_do_and_the_last_one_goes_on():
    """Two convolutions that halve and a dense layer: 160 + 4,640 + 100,416 + 650 on 28x28."""
    model = build("cnn2", strides=[2], pools=[])
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == 105_866
    stages = jax.eval_shape(model.features, variables, jnp.zeros((1, 28, 28, 1)))
    assert [stages[f"conv{i}"].shape for i in range(2)] == [(1, 14, 14, 16), (1, 7, 7, 32)]
    with pytest.raises(ValueError, match=r"one or more, up to one a convolution \(2\); got \(2, 2, 2\)"):
        jax.eval_shape(build("cnn2", strides=(2, 2, 2)).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


@pytest.mark.parametrize("side", [8, 28])  # 32 are halved as 8 are, and are those of PUBLISHED
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("vit_b16", "vit_s16")])
def test_every_network_reads_small_images(name, side):
    model, x = build(name, classes=7), jnp.zeros((2, side, side, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert set(variables) == {"params", "batch_stats"}
    assert jax.eval_shape(model.apply, variables, x).shape == (2, 7)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn5", "hybrid_cnn"])  # dense and convolution, norms, quantised layers
def test_no_image_gives_no_logits_and_complex_images_are_refused(name, unchecked):
    model, x = build(name, classes=7), jnp.zeros((2, 8, 8, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.eval_shape(model.apply, variables, x[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match=r"has no complex form; .* is complex64"):
        jax.eval_shape(model.apply, variables, x.astype(jnp.complex64))


@pytest.mark.parametrize("name", TINY)
def test_features_are_the_named_stages_in_order_under_jit(name):
    model, variables = tiny(name)
    stages = model.features(variables, IMAGES)
    assert {stage: out.shape[1:] for stage, out in stages.items()} == STAGES[name] | {"logits": (3,)}
    assert list(stages) == [*STAGES[name], "logits"]
    stages, head = jax.device_get((stages, variables["params"]["head"]))
    np.testing.assert_allclose(stages["penultimate"] @ head["kernel"] + head["bias"], stages["logits"], atol=FLOAT32)
    np.testing.assert_allclose(model.apply(variables, IMAGES), stages["logits"], atol=FLOAT32)


@pytest.mark.parametrize("name", TINY)
def test_inference_is_deterministic_and_sees_each_sample_alone(name):
    model, variables = tiny(name)
    logits = np.asarray(model.apply(variables, IMAGES))
    np.testing.assert_array_equal(model.apply(variables, IMAGES), logits)
    company = np.concatenate([IMAGES[:1], 1 - IMAGES[1:]])
    np.testing.assert_allclose(np.asarray(model.apply(variables, company))[0], logits[0], atol=FLOAT32)


@pytest.mark.parametrize("name", ["cnn5", "resnet18", "vit_tiny"])  # every kind of layer: dense, conv, norms, attention
def test_vmap_over_stacked_variables_is_a_loop(name):
    model, _ = tiny(name)
    several = [jax.device_get(model.init(jax.random.key(seed), IMAGES)) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
    mapped = jax.jit(jax.vmap(model.apply, (0, None)))(stacked, IMAGES)
    looped = [model.apply(variables, IMAGES) for variables in several]
    np.testing.assert_allclose(mapped, looped, atol=FLOAT32)


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_only_training_moves_the_batch_statistics(name):
    model, variables = tiny(name, norm="batch")

    def loss(params):
        logits, stats = model.train_apply({**variables, "params": params}, IMAGES, jax.random.key(2))
        return (logits**2).sum(), (logits, stats)

    gradient, (logits, stats) = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(variables["params"]))
    chex.assert_trees_all_equal_shapes_and_dtypes(stats, variables["batch_stats"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, jax.device_get(variables["batch_stats"]))
    assert all(jax.tree.leaves(moved))
    assert not np.allclose(logits, model.apply(variables, IMAGES))


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_without_batch_norm_training_is_inference(norm):
    model, variables = tiny("resnet18", norm=norm)
    assert variables["batch_stats"] == {}
    logits, stats = model.train_apply(variables, IMAGES, jax.random.key(2))
    assert stats == {}
    np.testing.assert_allclose(logits, model.apply(variables, IMAGES), atol=FLOAT32)


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_computes_but_does_not_keep(name):
    model, variables = build(name, classes=3, **TINY[name], dtype="bfloat16"), tiny(name)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(name, dtype="bfloat16"))} == {jnp.dtype("float32")}
    stages = jax.jit(model.features)(variables, IMAGES)
    assert {stage: out.dtype for stage, out in stages.items()} == {
        stage: jnp.dtype("float32" if stage in ("penultimate", "logits") else "bfloat16") for stage in stages
    }
    np.testing.assert_allclose(stages["logits"], tiny(name)[0].apply(variables, IMAGES), atol=BFLOAT16)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_by_name(activation):
    variables, model = tiny("mlp")[1], build("mlp", classes=3, **TINY["mlp"], activation=activation)

    @jax.jit
    def both(variables):
        dense = IMAGES.reshape(3, -1) @ variables["params"]["dense0"]["kernel"]
        return model.features(variables, IMAGES)["dense0"], ACTIVATIONS[activation](dense)

    found, expected = both(variables)
    np.testing.assert_allclose(found, expected, atol=FLOAT32)


def test_he_doubles_the_variance_of_hidden_layers_only():
    he, lecun = (jax.device_get(tiny("mlp", init=init)[1]["params"]) for init in ("he", "lecun"))
    np.testing.assert_allclose(he["dense0"]["kernel"], math.sqrt(2) * lecun["dense0"]["kernel"], rtol=FLOAT32)
    chex.assert_trees_all_equal(he["head"], lecun["head"])
    chex.assert_trees_all_equal(tiny("mlp")[1]["params"], lecun)


@pytest.mark.parametrize("name", TINY)
def test_no_bias_leaves_only_the_shift_of_norms(name):
    params = shapes(name, use_bias=False)["params"]
    biases = [path for path in trees.flatten(params) if path.endswith("bias")]
    assert all("norm" in path for path in biases)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("mlp", "dense0/kernel"),
        ("lenet5", "conv1/kernel"),
        ("vgg11", "stage2/conv0/kernel"),
        ("resnet18", "stage1/block0/conv1/kernel"),
        ("resnet18", "stage2/block0/shortcut/kernel"),
        ("vit_tiny", "block0/attention/value/kernel"),
        ("vit_tiny", "positions"),
    ],
)
def test_paths_are_readable_and_unique(name, path):
    params = shapes(name)["params"]
    assert path in trees.flatten(params)
    assert len(trees.flatten(params)) == len(jax.tree.leaves(params))


def test_attention_is_that_of_flax():
    x = np.random.default_rng(3).normal(size=(2, 5, 6)).astype(np.float32)
    ours = Attention(2, Parts())
    params = jax.device_get(jax.jit(ours.init)(jax.random.key(0), x)["params"])
    split = {
        n: {"kernel": params[n]["kernel"].reshape(6, 2, 3), "bias": np.zeros((2, 3), np.float32)}
        for n in ("query", "key", "value")
    }
    split["out"] = {"kernel": params["out"]["kernel"].reshape(2, 3, 6), "bias": np.zeros(6, np.float32)}
    oracle = jax.jit(nn.MultiHeadDotProductAttention(2).apply)({"params": split}, x)
    np.testing.assert_allclose(jax.jit(ours.apply)({"params": params}, x), oracle, atol=FLOAT32)


def test_arguments_survive_json():
    arguments = {"classes": 3, "widths": (4, 2), "norm": "group", "use_bias": False, "activation": "tanh"}
    there_and_back = json.loads(json.dumps(arguments))
    models = build("mlp", **arguments), build("mlp", **there_and_back)
    one, two = (jax.eval_shape(model.init, jax.random.key(0), IMAGES) for model in models)
    assert one == two


@pytest.mark.parametrize("norm", ["evonorm", "group"])
def test_float64_is_computed_throughout(norm):
    with pytest.raises(ValueError, match="needs jax_enable_x64"):
        build("mlp", dtype="float64")
    with jax.enable_x64(True):
        model, x = build("mlp", widths=(32,), norm=norm, dtype="float64"), np.ones((2, 5))
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float64), variables)
        stages = jax.eval_shape(model.features, variables, x)
        assert {out.dtype for out in stages.values()} == {jnp.dtype("float64")}
        program = str(jax.make_jaxpr(model.apply)(variables, x))
        assert "f32" not in program


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet19", {}, "no network 'resnet19'; there are mlp, lenet5"),
        ("mlp", {"depth": 3}, "mlp takes no argument 'depth'; it takes classes, widths, norm"),
        ("mlp", {"activation": "swoosh"}, "activation is one of relu, .*; got 'swoosh'"),
        (
            "vgg11",
            {"norm": ["batch"]},
            "norm is one of batch, minibatch, group, layer, none, evonorm, evonorm_hard, range_evonorm; got",
        ),
        ("vgg11", {"dtype": "float16"}, "dtype is one of float32, bfloat16, float64; got 'float16'"),
        ("mlp", {"classes": -1}, "classes takes whole numbers of at least 1, such as 10; got -1"),
        ("vgg11", {"epsilon": 0.0}, "epsilon is a number above 0, such as 1e-6, or None; got 0.0"),
        ("mlp", {"widths": 64}, r"widths takes whole numbers .* such as \(256, 128\); got 64"),
        ("resnet18", {"width": True}, "width takes whole numbers"),
    ],
)
def test_what_no_network_takes_is_refused_in_one_sentence(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"patch": 3}, "3 does not divide 8x8"), ({"heads": 5, "width": 12}, "5 does not divide 12")],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("vit_tiny", **arguments).init(jax.random.key(0), IMAGES)
