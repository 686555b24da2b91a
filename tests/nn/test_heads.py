import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.core import capture

X = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
TRUNK = nn.build("resnet20", classes=0, blocks=(1,), width=2)
MODEL = nn.multi_head(TRUNK, tasks=3, classes=2)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(1), X)


def test_each_head_is_a_dense_layer_on_the_features():
    def everything(variables):
        return TRUNK.apply(variables, X), MODEL.apply(variables, X), MODEL.features(variables, X)

    features, logits, stages = jax.device_get(jax.jit(everything)(VARIABLES))
    kernels = np.asarray(VARIABLES["params"]["heads"]["kernel"])
    assert logits.shape == (4, 3, 2)
    for task in range(3):
        np.testing.assert_allclose(logits[:, task], features @ kernels[task], atol=1e-6)
    np.testing.assert_array_equal(stages["penultimate"], features)
    np.testing.assert_array_equal(stages["logits"], logits)


def test_a_loss_of_one_task_moves_its_own_head_and_the_statistics_of_the_trunk():
    def loss(params):
        logits, stats = MODEL.train_apply(VARIABLES | {"params": params}, X, jax.random.key(2))
        return jnp.sum(logits[:, 1] ** 2), stats

    grads, stats = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(VARIABLES["params"]))
    moved = np.abs(grads["heads"]["kernel"]).max((1, 2))
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0
    changed = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), stats, VARIABLES["batch_stats"])
    assert min(jax.tree.leaves(changed)) > 0


def test_the_heads_are_a_layer_by_their_name():
    assert "heads/kernel" in {layer.leaf for layer in capture.layers(MODEL.apply, VARIABLES, X).values()}


@pytest.mark.parametrize(("tasks", "classes"), [(0, 2), (2, 0)])
def test_no_task_or_no_class_is_refused(tasks, classes):
    with pytest.raises(ValueError, match="at least 1 task of at least 1 class"):
        nn.multi_head(TRUNK, tasks=tasks, classes=classes)


def test_a_trunk_without_features_is_refused():
    images = nn.from_function(lambda key, x: {}, lambda params, x: x)
    with pytest.raises(ValueError, match=r"heads read features \(batch, d\); the trunk gives \(4, 8, 8, 1\)"):
        nn.multi_head(images, tasks=2, classes=2).init(jax.random.key(0), X)


FINE = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype(np.float32)
CONV = nn.build("cnn", classes=0, widths=(2, 3, 4), pools=(1, 2), norm="batch")
LEVELS = nn.level_heads(CONV, sizes=(2, 3, 5))


def test_the_heads_of_levels_read_their_stages_and_share_the_trunk():
    @jax.jit
    def everything(key, x):
        found, of_one = LEVELS.init(key, x), nn.level_heads(CONV, sizes=(5,)).init(key, x)
        trunk = {kind: part.get("trunk", {}) for kind, part in found.items()}
        alike = jax.tree.map(lambda a, b: (a == b).all(), trunk["params"], of_one["params"]["trunk"])
        return found["params"], alike, CONV.features(trunk, x), LEVELS.features(found, x)

    params, alike, stages, own = jax.device_get(everything(jax.random.key(1), FINE))
    assert all(jax.tree.leaves(alike))
    assert list(own) == list(stages)
    read = stages["conv1"].mean((1, 2)), stages["penultimate"], stages["penultimate"]
    assert [z.shape for z in own["logits"]] == [(4, 2), (4, 3), (4, 5)]
    for number, (z, x) in enumerate(zip(own["logits"], read, strict=True), start=1):
        layer = params[f"level{number}"]
        np.testing.assert_allclose(z, x @ layer["kernel"] + layer["bias"], atol=1e-5)


def test_stages_of_levels_can_be_chosen_and_the_same_request_is_the_same_network():
    early = nn.level_heads(CONV, sizes=(2, 5), stages=("conv0", "conv2"))
    shapes = jax.eval_shape(early.init, jax.random.key(0), FINE)["params"]
    assert (shapes["level1"]["kernel"].shape, shapes["level2"]["kernel"].shape) == ((2, 2), (4, 5))
    assert nn.level_heads(CONV, sizes=[2, 3, 5]) is LEVELS


@pytest.mark.parametrize(("call", "message"), [
    (lambda: nn.level_heads(CONV, sizes=()), "at least 1 head"),
    (lambda: nn.level_heads(CONV, sizes=(2, 3), stages=("stem",)), "got 2 heads and the stages stem"),
    (lambda: nn.level_heads(nn.build("mlp"), sizes=(2,)), r"build\('mlp', classes=0\)"),
    (lambda: nn.level_heads(MODEL, sizes=(2,)), "not one of nn.build"),
    (lambda: jax.eval_shape(nn.level_heads(CONV, sizes=(2,), stages=("conv9",)).init, jax.random.key(0), FINE),
     "no stage 'conv9'; it has conv0, conv1"),
])  # fmt: skip
def test_heads_of_levels_that_cannot_be_put_on_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
