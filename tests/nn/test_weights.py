"""Published weights: logits of the reference libraries, resized positions, and files that do not fit."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn, trees
from subspace_jax.core import capture
from subspace_jax.nn.weights import positions
from subspace_jax.unlearning import class_projection

FILES = pathlib.Path(__file__).parent / "fixtures"
VIT = {"width": 8, "depth": 2, "heads": 2, "patch": 4}
NETWORKS = {
    "vit_google.npz": ("vit_b16", VIT),
    "vit_timm.safetensors": ("vit_b16", VIT),
    "vit_torchvision.safetensors": ("vit_b16", VIT),
    "vit_hugging_face.safetensors": ("vit_s16", VIT),
    "resnet_bottleneck.safetensors": ("resnet50", {"width": 4, "blocks": (2, 1)}),
    "resnet_basic.safetensors": ("resnet18_imagenet", {"width": 4, "blocks": (1, 1)}),
}
HALF, IMAGENET = [0.5] * 3, [0.485, 0.456, 0.406]
LOGITS = 1e-5  # of the largest logit: float32 sums in another order
RESIZED = 1e-6  # scipy's zoom computes with float32 weights


def stored(name):
    return dict(np.load(FILES / name)) if name.endswith(".npz") else safetensors.numpy.load_file(FILES / name)


def write(folder, name, tensors):
    path = pathlib.Path(folder) / name
    np.savez(path, **tensors) if name.endswith(".npz") else safetensors.numpy.save_file(tensors, path)
    return path


def network(name, **arguments):
    kind, sizes = NETWORKS[name]
    return nn.build(kind, **{"classes": 5} | sizes | arguments)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """name -> the file without its test, the loaded network, images, the logits that the reference gives them."""

    @functools.cache
    def make(name):
        tensors = stored(name)
        image, logits = tensors.pop("test/image"), tensors.pop("test/logits")
        path = write(tmp_path_factory.mktemp("weights"), name, tensors)
        return path, nn.weights.load(path, network(name), image_shape=image.shape[1:]), image, logits

    return make


@pytest.fixture
def changed(tmp_path):
    """A file with some of its tensors replaced, or left out."""

    def make(name, *, without=(), cast=None, **tensors):
        found = {key: value for key, value in stored(name).items() if not key.startswith(("test/", *without))}
        found = {key: value if cast is None else value.astype(cast) for key, value in found.items()} | tensors
        return write(tmp_path, name, found)

    return make


def run(model, variables, image):
    return np.asarray(jax.jit(model.apply)(variables, image))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_library_that_the_file_comes_from(name, case):
    _, found, image, logits = case(name)
    np.testing.assert_allclose(
        run(found.model, found.variables, image), logits, rtol=0, atol=LOGITS * np.abs(logits).max()
    )


@pytest.mark.parametrize("name", ["vit_google.npz", "vit_timm.safetensors"])
def test_the_other_gelu_gives_other_logits(name, case):
    _, found, image, logits = case(name)
    other = {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}[found.config["model"]["kwargs"]["activation"]]
    wrong = run(network(name, activation=other), found.variables, image)
    assert np.abs(wrong - logits).max() > 2 * LOGITS * np.abs(logits).max()


@pytest.mark.parametrize(
    ("name", "mean", "epsilon"),
    [
        ("vit_google.npz", HALF, 1e-6),
        ("vit_timm.safetensors", HALF, 1e-6),
        ("vit_torchvision.safetensors", IMAGENET, 1e-6),
        ("vit_hugging_face.safetensors", HALF, 1e-12),
        ("resnet_bottleneck.safetensors", IMAGENET, 1e-5),
    ],
)
def test_the_config_builds_the_network_again_and_scales_as_the_source(name, mean, epsilon, case):
    path, found, image, _ = case(name)
    config = json.loads(json.dumps(found.config))
    assert nn.build(config["model"]["name"], **config["model"]["kwargs"]) is found.model
    assert config["model"]["kwargs"]["epsilon"] == epsilon
    assert config["input_shape"] == list(image.shape[1:])
    assert (config["scaling"]["divisor"], config["scaling"]["mean"]) == (255.0, mean)
    assert config["weights"]["file"] == path.name
    assert config["weights"]["dtype"] == "float32"


def test_without_a_shape_the_images_are_those_of_the_file(case):
    path, *_ = case("vit_timm.safetensors")
    assert nn.weights.load(path, network("vit_timm.safetensors")).config["input_shape"] == [8, 8, 3]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("vit_google.npz", "float16"), ("vit_google.npz", "bfloat16"), ("vit_timm.safetensors", "bfloat16")],
)
def test_half_precision_is_widened_and_said(name, dtype, changed):
    found = nn.weights.load(changed(name, cast=jnp.dtype(dtype)), network(name))
    assert found.config["weights"]["dtype"] == dtype
    patches = found.variables["params"]["patches"]["bias"]
    theirs = "embedding/bias" if name.endswith(".npz") else "patch_embed.proj.bias"
    assert patches.dtype == np.float32
    np.testing.assert_array_equal(patches, stored(name)[theirs].astype(jnp.dtype(dtype)).astype(np.float32))


def test_settings_beside_the_file_go_before_the_habits_of_the_source(case, tmp_path):
    path = shutil.copy(case("vit_hugging_face.safetensors")[0], tmp_path)
    said = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    model = network("vit_hugging_face.safetensors")
    config = nn.weights.load(path, model).config
    assert {"activation": "gelu_tanh", "epsilon": 1e-3}.items() <= config["model"]["kwargs"].items()
    assert config["scaling"] == {"divisor": 255.0, "mean": [0.1] * 3, "std": [0.2] * 3}
    (tmp_path / "config.json").write_text(json.dumps(said | {"num_attention_heads": 4}))
    with pytest.raises(ValueError, match="computes with heads 4, and the network with 2: give 4"):
        nn.weights.load(path, model)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON object"):
        nn.weights.load(path, model)


def test_some_outputs_are_the_classes_of_the_network(case):
    for name in ("vit_google.npz", "resnet_basic.safetensors"):
        path, whole, image, _ = case(name)
        few = nn.weights.load(path, network(name, classes=2), image_shape=image.shape[1:], outputs=(3, 1))
        for leaf in ("kernel", "bias"):
            head, chosen = (found.variables["params"]["head"][leaf] for found in (whole, few))
            np.testing.assert_array_equal(chosen, head[..., np.array([3, 1])])


def test_a_trunk_leaves_the_head_in_the_file(changed):
    path = changed("vit_google.npz", **{"pre_logits/kernel": np.zeros((8, 8), np.float32)})
    found = nn.weights.load(path, network("vit_google.npz", classes=0))
    assert "head" not in found.variables["params"]


@given(st.integers(0, 2**31 - 1), st.sampled_from([(3, 5, 5), (4, 2, 2), (1, 3, 3), (2, 3, 5), (3, 3, 3), (5, 1, 1)]))
def test_positions_are_resized_as_the_original_does(seed, sizes):
    old, height, width = sizes
    table = np.random.default_rng(seed).normal(size=(1, old**2 + 1, 4)).astype(np.float32)
    found = positions.resize(table, height, width)
    zoom = height / old, width / old, 1
    oracle = scipy.ndimage.zoom(table[0, 1:].reshape(old, old, 4), zoom, order=1, mode="nearest")
    np.testing.assert_array_equal(found[:, 0], table[:, 0])
    np.testing.assert_allclose(found[0, 1:], oracle.reshape(-1, 4), atol=RESIZED * np.abs(table).max() * 10)
    if (height, width) == (old, old):
        np.testing.assert_array_equal(found, table)


def test_images_of_another_size_resize_the_positions_with_a_warning(case):
    path, found, _, _ = case("vit_google.npz")
    with pytest.warns(UserWarning, match=r"from 2 x 2 to 3 x 1 patches: images of 8 x 8 pixels .* keep them"):
        other = nn.weights.load(path, found.model, image_shape=(12, 4, 3))
    expected = positions.resize(np.asarray(found.variables["params"]["positions"]), 3, 1)
    np.testing.assert_array_equal(other.variables["params"]["positions"], expected)


def test_capture_follows_a_vit():
    model, x = network("vit_timm.safetensors"), jax.ShapeDtypeStruct((3, 8, 8, 3), "float32")
    table = capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)
    own = [f"attention/{part}" for part in ("query", "key", "value", "out")] + ["dense0", "dense1"]
    encoder = {f"block{i}/{layer}/kernel" for i in range(2) for layer in own}
    assert {layer.leaf for layer in table.values()} == {"patches/kernel", "head/kernel"} | encoder
    by_leaf = {layer.leaf: layer for layer in table.values()}
    assert len({by_leaf[f"block0/attention/{part}/kernel"].shares for part in ("query", "key", "value")}) == 1
    assert (by_leaf["patches/kernel"].rows, by_leaf["patches/kernel"].d_in) == (12, 48)
    assert (by_leaf["block0/dense1/kernel"].rows, by_leaf["block0/dense1/kernel"].d_in) == (15, 32)


def test_a_sample_is_projected_out_of_a_vit(case):
    _, found, image, _ = case("vit_timm.safetensors")
    model, variables = found.model, found.variables
    retain, forget = (capture.collect(model.apply, variables, [part], dtype=float) for part in (image[:1], image[1:]))
    table = capture.layers(model.apply, variables, image)
    edit = functools.partial(class_projection.unlearn_classes, table, variables, retain, forget)
    before, same, edited = (trees.flatten(params) for params in (variables, edit(alpha_f=0), edit(alpha_f=10)))
    for path, leaf in same.items():
        np.testing.assert_array_equal(leaf, before[path])
    moved = {path for path, leaf in edited.items() if (leaf != before[path]).any()}
    assert moved == {f"params/{layer.leaf}" for layer in table.values()}
    stages = jax.jit(model.features)(variables, image)
    (x_r, x_f), bias = np.asarray(stages["penultimate"], float), np.asarray(variables["params"]["head"]["bias"])
    expected = x_f @ x_r / (x_r @ x_r) * (np.asarray(stages["logits"])[0] - bias)  # what x_f shares with x_r
    head = edit(alpha_r=100, alpha_f=100, layers=["head/kernel"])["params"]["head"]["kernel"]
    np.testing.assert_allclose(x_f @ np.asarray(head, float), expected, atol=LOGITS * np.abs(expected).max())


BAD = {
    "missing": ("vit_timm.safetensors", {"without": ("norm.bias",)}, {}, {},
        r"has no tensor norm\.bias \(8,\), which norm/bias \(8,\) of the network needs; it has blocks"),
    "another shape": ("vit_timm.safetensors", {"norm.bias": np.zeros(7, np.float32)}, {}, {},
        r"norm\.bias in .* is \(7,\), and norm/bias \(8,\) of the network needs \(8,\): give the sizes of the file"),
    "width": ("vit_timm.safetensors", {}, {"width": 16}, {},
        r"qkv\.bias in .* is \(24,\), and block0/attention/key/bias \(16,\) of the network needs \(48,\)"),
    "heads": ("vit_google.npz", {}, {"heads": 4}, {},
        r"key/bias in .* is \(2, 4\), and block0/attention/key/bias \(8,\) of the network needs \(4, 2\)"),
    "patch": ("vit_google.npz", {}, {"patch": 2}, {},
        r"embedding/kernel in .* is \(4, 4, 3, 8\), and patches/kernel .* needs \(2, 2, 3, 8\): give patch and width"),
    "classes": ("vit_google.npz", {}, {"classes": 3}, {}, r"head/bias in .* is \(5,\), .* needs \(3,\): give classes"),
    "depth": ("vit_google.npz", {}, {"depth": 1}, {},
        r"no place: Transformer/encoderblock_1/LayerNorm_0/bias \(8,\), .* and 13 more; give the sizes"),
    "another layer": ("vit_google.npz", {"pre_logits/bias": np.zeros(8, np.float32)}, {}, {},
        r"no place: pre_logits/bias \(8,\)"),
    "outputs": ("vit_google.npz", {}, {"classes": 2}, {"outputs": (1, 5)},
        r"outputs names 2 of the 5 outputs of .*, one for each class of the network, each once; got \[1, 5\]"),
    "grey": ("vit_google.npz", {}, {}, {"image_shape": (8, 8, 1)},
        "reads images of 3 channels, and these have 1: convert them to RGB"),
    "grey for a ResNet": ("resnet_basic.safetensors", {}, {}, {"image_shape": (8, 8, 1)},
        "reads images of 3 channels, and these have 1: convert them to RGB"),
    "no multiple": ("vit_google.npz", {}, {}, {"image_shape": (10, 8, 3)}, "patch must divide the image: 4 does not"),
    "no square": ("vit_timm.safetensors", {"pos_embed": np.zeros((1, 7, 8), np.float32)}, {}, {},
        "7 entries are neither"),
    "NaN": ("vit_timm.safetensors", {"norm.bias": np.full(8, np.nan, np.float32)}, {}, {},
        r"norm\.bias in .* nan"),
    "quantised": ("vit_timm.safetensors", {"norm.bias": np.zeros(8, np.int8)}, {}, {},
        "is int8: weights are real numbers; dequantise"),
    "activation": ("vit_google.npz", {}, {"activation": "relu"}, {},
        "computes with activation gelu_tanh, and the network with relu: give gelu_tanh"),
    "epsilon": ("resnet_basic.safetensors", {}, {"epsilon": 1e-3}, {},
        "computes with epsilon 1e-05, and the network with 0.001: give 1e-05"),
    "no known source": ("vit_timm.safetensors", {"without": ("patch_embed",)}, {}, {},
        r"is of no known source: it holds blocks.*, and not what marks the original ViT"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_files_that_do_not_fit_are_refused_with_both_shapes(what, changed):
    name, tensors, arguments, options, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        nn.weights.load(changed(name, **tensors), network(name, **arguments), **options)


def test_another_kind_of_network_is_refused(case):
    path, *_ = case("resnet_basic.safetensors")
    with pytest.raises(ValueError, match=r"holds a ResNet for ImageNet, such as resnet50, .* do not fit vit_b16"):
        nn.weights.load(path, network("vit_google.npz"))
    with pytest.raises(ValueError, match=r"not one of nn\.build"):
        nn.weights.load(path, nn.from_function(lambda key, x: {}, lambda params, x: x))


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.h5", "w.npz", "w.safetensors"])
def test_pickles_and_damaged_files_are_refused(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        nn.weights.load(path, network("vit_google.npz"))
    path.write_bytes(b"\x80\x04damaged")
    message = {".pth": "may run any code", ".bin": "may run any code", ".h5": "read from .npz and"}
    with pytest.raises(ValueError, match=message.get(path.suffix, "is cut or damaged")):
        nn.weights.load(path, network("vit_google.npz"))
