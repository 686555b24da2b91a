"""A sliced network against the masked one: the same logits, and exactly the parameters that its widths leave."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn, trees
from subspace_jax.continual import extract
from subspace_jax.core import capture
from tests.continual.sequences import drawn

KEY = jax.random.key(0)
TASKS, CLASSES = 3, 2
SAME = 1e-5  # of the largest logit: the same sums without their zeros
NETWORKS = {  # kwargs, input shape, widths of task 1
    "mlp": ({"widths": [6, 5]}, (2, 3, 1), {"dense0": 4, "dense1": 2}),
    "mlp, minibatch": ({"widths": [6], "norm": "minibatch"}, (6,), {"dense0": 3}),
    "lenet5": (
        {"filters": [3, 4], "widths": [5]}, (10, 9, 2), {"conv0": 2, "conv1": 3, "dense0": 4},
    ),
    "vgg11": (
        {"convs": [1, 2], "width": 3, "norm": "none"}, (5, 4, 1),
        {"stage1/conv0": 2, "stage2/conv0": 5, "stage2/conv1": 1},
    ),
    "resnet20": (
        {"blocks": [2, 1], "width": 4, "norm": "none", "activation": "gelu"}, (5, 5, 2),
        {"stem": 2, "stage1/block0/conv0": 1, "stage1/block0/conv1": 3, "stage1/block1/conv0": 4,
         "stage1/block1/conv1": 2, "stage2/block0/conv0": 5, "stage2/block0/conv1": 6, "stage2/block0/shortcut": 7},
    ),
    "resnet20, minibatch": (
        {"blocks": [1, 1], "width": 4, "norm": "minibatch"}, (4, 4, 1),
        {"stem": 3, "stage1/block0/conv0": 2, "stage1/block0/conv1": 1, "stage2/block0/conv0": 1,
         "stage2/block0/conv1": 8, "stage2/block0/shortcut": 4},
    ),
}  # fmt: skip
# by hand: rows of each kernel times its columns, biases or scales and shifts, at last the head
COUNTS = {
    "mlp": (6 * 4 + 4) + (4 * 2 + 2) + 2 * 2,
    "mlp, minibatch": (6 * 3 + 3 + 2 * 3) + 3 * 2,
    "lenet5": (25 * 2 * 2 + 2) + (25 * 2 * 3 + 3) + (3 * 3 * 3 * 4 + 4) + 4 * 2,
    "vgg11": (9 * 1 * 2 + 2) + (9 * 2 * 5 + 5) + (9 * 5 * 1 + 1) + 1 * 2,
    "resnet20": (9 * 2 * 2 + 2) + (9 * 2 * 1 + 1) + (9 * 1 * 3 + 3) + (9 * 3 * 4 + 4) + (9 * 4 * 2 + 2)
    + (9 * 3 * 5 + 5) + (9 * 5 * 6 + 6) + (3 * 7 + 7) + 7 * 2,
    "resnet20, minibatch": (9 * 1 * 3 + 6) + (9 * 3 * 2 + 4) + (9 * 2 * 1 + 2) + (9 * 3 * 1 + 2) + (9 * 1 * 8 + 16)
    + (3 * 4 + 8) + 8 * 2,
}  # fmt: skip


@functools.cache
def case(name):
    """Network, its compiled logits, variables, inputs, and widths of all tasks (above: of task 1)."""
    kwargs, shape, widths = NETWORKS[name]
    network = {"name": name.split(",")[0], "kwargs": kwargs}
    model = nn.multi_head(nn.build(network["name"], classes=0, **kwargs), tasks=TASKS, classes=CLASSES)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, *shape)), jnp.float32)
    widths = {f"{folder}/kernel": np.array([1, width, 0]) for folder, width in widths.items()}
    return network, jax.jit(model.apply), drawn(model, x), x, widths


@pytest.mark.parametrize("name", NETWORKS)
def test_a_slice_gives_the_logits_of_the_mask_with_the_parameters_of_its_widths(name):
    network, apply, variables, x, widths = case(name)
    owned = extract.channels(capture.layers(apply, variables, x))
    assert set(owned.layers) == set(widths)
    narrowed = jax.jit(lambda params: extract.narrowed(owned, params, {path: own[1] for path, own in widths.items()}))
    small, own = extract.extract_task(network, variables, widths, 1, x)
    expected = np.asarray(apply(variables | {"params": narrowed(variables["params"])}, x))[:, 1]
    np.testing.assert_allclose(jax.jit(small.apply)(own, x), expected, atol=SAME * np.abs(expected).max())
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == COUNTS[name]
    assert np.abs(np.asarray(apply(variables, x))[:, 1] - expected).max() > 1e-2  # what was cut away did count


@pytest.mark.parametrize("name", NETWORKS)
def test_full_widths_are_the_network_itself_with_one_head(name):
    network, apply, variables, x, widths = case(name)
    leaves = trees.flatten(variables["params"])
    full = {path: np.full(TASKS, leaves[path].shape[-1]) for path in widths}
    small, own = extract.extract_task(network, variables, full, 2, jax.ShapeDtypeStruct(x.shape, x.dtype))
    expected = np.asarray(apply(variables, x))[:, 2]
    np.testing.assert_allclose(jax.jit(small.apply)(own, x), expected, atol=SAME * np.abs(expected).max())
    leaves = jax.tree.leaves(variables["params"])
    heads = variables["params"]["heads"]["kernel"]
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == sum(a.size for a in leaves) - heads.size * 2 // 3


def test_a_slice_is_a_model_that_trains_on_its_own():
    network, _, variables, x, widths = case("lenet5")
    small, own = extract.extract_task(network, variables, widths, 1, x)
    shapes = jax.eval_shape(small.init, KEY, x)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, own)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(small.train_apply(v, x, KEY)[0] ** 2)))(own)
    assert np.abs(gradient["params"]["head"]["kernel"]).max() > 0


def test_every_leaf_has_its_owner_by_name():
    model = nn.multi_head(nn.build("alexnet", classes=0, filters=[2, 2, 2], widths=[3, 3]), tasks=2, classes=2)
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, 32, 32, 3)))
    owned = extract.channels(capture.layers(model.apply, shapes, jnp.zeros((1, 32, 32, 3))))
    assert owned.vectors == {
        f"{folder}_norm/{leaf}": f"{folder}/kernel"
        for folder in ("conv0", "conv1", "conv2", "dense0", "dense1")
        for leaf in ("bias", "scale")
    }


def refused(network, *, task=1, size=6, **kwargs):
    def call():
        built, _, variables, x, own = case("mlp")
        described = {"name": network or built["name"], "kwargs": built["kwargs"] | kwargs}
        return extract.extract_task(described, variables, own, task, x.reshape(len(x), -1)[:, :size])

    return call


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (refused("vit_tiny"), "no table of the channels of 'vit_tiny'; there are mlp, lenet5, vgg11"),
        (refused("alexnet"), "no table of the channels of 'alexnet'"),
        (refused("resnet18"), "norm 'batch' of resnet18 keeps running statistics"),
        (refused("mlp", norm="layer"), "norm 'layer' of mlp mixes channels"),
        (refused("mlp", norm="group"), "norm 'group' of mlp mixes channels"),
        (refused("mlp", activation="softplus"), "activation 'softplus' of mlp does not keep 0"),
        (refused("mlp", task=2), "task 2 was not learned"),
        (refused("mlp", task=3), "task 3 was not learned"),
        (refused("mlp", task=-1), "task -1 was not learned"),
        (refused("mlp", use_bias=False), "the variables are not those of mlp with"),
        (refused("mlp", size=5), "the variables are not those of mlp with"),
    ],
)
def test_what_cannot_be_sliced_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.build("resnet20", classes=0, blocks=(1,), width=2), "running statistics such as 'batch_stats/"),
        (
            lambda: nn.build("vit_tiny", classes=0, depth=1, width=6),
            "no one layer owns 'block0/norm0/bias' by its name",
        ),
    ],
)
def test_leaves_without_a_channel_are_refused_by_name(make, message):
    model, x = nn.multi_head(make(), tasks=2, classes=2), jnp.zeros((1, 8, 8, 1))
    table = capture.layers(model.apply, jax.eval_shape(model.init, KEY, x), x)
    with pytest.raises(ValueError, match=message):
        extract.channels(table)


def test_a_bias_beside_two_kernels_is_refused():
    def flat(params, x):
        return jax.nn.relu(x @ params["first"]) @ params["second"] + params["bias"][None]

    params = {"first": jnp.ones((3, 4)), "second": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    with pytest.raises(ValueError, match="no one layer owns 'bias' by its name"):
        extract.channels(capture.layers(flat, params, jnp.ones((2, 3))), heads=())


def test_groups_and_heads_alone_are_refused():
    def grouped(params, x):
        return jax.lax.conv_general_dilated(
            x, params["conv"]["kernel"], (1, 1), "SAME", None, None, ("NHWC", "HWIO", "NHWC"), 2
        )

    table = capture.layers(grouped, {"conv": {"kernel": jnp.ones((1, 1, 2, 4))}}, jnp.ones((1, 2, 2, 4)))
    with pytest.raises(ValueError, match="'conv/kernel' has groups"):
        extract.channels(table, heads=())
    with pytest.raises(ValueError, match="leave no layer of conv/kernel"):
        extract.channels(table, heads=("conv",))
