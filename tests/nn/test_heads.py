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
