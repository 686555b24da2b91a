"""Layers that must be equally wide: found in the program, whoever wrote it."""

import flax.linen as lin
import jax
import jax.numpy as jnp
import pytest

from subspace_jax.compression.channel_groups import INPUT, channel_groups
from subspace_jax.nn import build, from_linen

X = jax.ShapeDtypeStruct((2, 8, 8, 3), "float32")


def of(model, x=X):
    return channel_groups(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)


def test_a_chain_has_no_groups_whatever_its_activation():
    for arguments in ({"norm": "batch", "activation": "gelu"}, {"activation": "softplus"}, {"norm": "evonorm"}):
        groups = of(build("cnn", widths=(8, 8), **arguments))
        assert groups == {path: path for path in ("conv0/kernel", "conv1/kernel", "head/kernel")}


def test_a_resnet_has_one_group_a_stage_and_free_layers_inside_its_blocks():
    groups = of(build("resnet18", blocks=(2, 1), width=4))
    inside = [f"{block}/conv0/kernel" for block in ("stage1/block0", "stage1/block1", "stage2/block0")]
    first = dict.fromkeys(["stem/kernel", "stage1/block0/conv1/kernel", "stage1/block1/conv1/kernel"], "stem/kernel")
    second = ["stage2/block0/conv1/kernel", "stage2/block0/shortcut/kernel"]
    assert groups == first | {path: path for path in (*inside, "head/kernel")} | dict.fromkeys(second, second[0])


class Gated(lin.Module):
    """Squeeze and excitation: each channel of one layer is multiplied by an output of another."""

    @lin.compact
    def __call__(self, x):
        x = lin.Conv(4, (3, 3), name="conv")(x)
        gate = jax.nn.sigmoid(lin.Dense(4, name="gate")(jax.nn.relu(lin.Dense(2, name="squeeze")(x.mean((1, 2))))))
        return lin.Dense(5, name="head")((x * gate[:, None, None]).mean((1, 2)))


class Skipped(lin.Module):
    @lin.compact
    def __call__(self, x):
        return lin.Dense(5, name="head")((x + lin.Conv(3, (3, 3), name="conv")(x)).mean((1, 2)))


class Dense(lin.Module):
    """Channels concatenated, then read by one layer."""

    @lin.compact
    def __call__(self, x):
        y = lin.Conv(4, (3, 3), name="first")(x)
        return lin.Dense(5, name="head")(jnp.concatenate([y, lin.Conv(4, (3, 3), name="second")(y)], -1).mean((1, 2)))


def test_gates_join_and_the_input_fixes():
    assert of(from_linen(Gated())) == {
        "conv/kernel": "conv/kernel", "squeeze/kernel": "squeeze/kernel", "gate/kernel": "conv/kernel",
        "head/kernel": "head/kernel",
    }  # fmt: skip
    assert of(from_linen(Skipped()))["conv/kernel"] == INPUT


def test_channels_that_meet_in_another_way_are_refused_by_name():
    with pytest.raises(ValueError, match="channels of first/kernel, second/kernel meet in 'concatenate'"):
        of(from_linen(Dense()))
    with pytest.raises(ValueError, match="attention/key/kernel, block0/attention/query/kernel meet in"):
        of(build("vit_tiny", width=8, depth=1, heads=2, patch=4))
