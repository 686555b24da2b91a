import jax
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.nn.alexnet import local_response

KEY = jax.random.key(0)
X = np.random.default_rng(1).normal(size=(6, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("alexnet", [4 * 4 * 3 * 64, 9 * 64 * 128, 4 * 128 * 256, 1024 * 2048, 2048 * 2048, 2048 * 10]),
     ("lenet", [25 * 3 * 20, 25 * 20 * 50, 50 * 8 * 8 * 800, 800 * 500, 500 * 10])],
)  # fmt: skip
def test_kernels_are_those_of_the_papers(name, kernels):
    shapes = jax.eval_shape(nn.build(name).init, KEY, X)["params"]
    found = [leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim > 1]
    assert sorted(found) == sorted(kernels)
    assert not any(name.endswith("bias") for layer in shapes for name in shapes[layer] if "norm" not in layer)


def test_the_local_response_norm_by_its_formula():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 7)).astype(np.float32)
    found = jax.jit(lambda x: local_response(x, alpha=0.3, beta=0.75, k=1.0))(x)
    for c in range(7):
        near = x[..., max(0, c - 2) : c + 2]
        np.testing.assert_allclose(
            found[..., c], x[..., c] / (1 + 0.3 * (near**2).sum(-1) / 4) ** 0.75, rtol=1e-5, atol=1e-6
        )


def test_minibatch_statistics_are_those_of_the_batch_in_both_modes_and_none_are_kept():
    model = nn.build("resnet20", classes=3, blocks=(1,), width=4, norm="minibatch", dtype="float32")
    model, x = nn.Model(*map(jax.jit, model)), X[:, :8, :8]
    variables = model.init(KEY, x)
    assert variables["batch_stats"] == {}
    logits = np.asarray(model.apply(variables, x))
    trained, stats = model.train_apply(variables, x, KEY)
    np.testing.assert_allclose(trained, logits, atol=1e-5)
    assert stats == {}
    # shifting and scaling all images of a batch changes nothing behind the first norm
    np.testing.assert_allclose(model.apply(variables, 3 * x), logits, atol=1e-3)
    assert np.min(model.features(variables, x)["stem"]) >= 0
    other_company = np.asarray(model.apply(variables, np.concatenate([x[:3], x[:3]])))
    assert np.abs(other_company[:3] - logits[:3]).max() > 1e-3


def test_alexnet_drops_units_in_training_only():
    model = nn.Model(*map(jax.jit, nn.build("alexnet", classes=3, filters=(2, 2, 2), widths=(6, 6))))
    variables = model.init(KEY, X)
    np.testing.assert_array_equal(model.apply(variables, X), model.apply(variables, X))
    a, b = (np.asarray(model.train_apply(variables, X, jax.random.key(seed))[0]) for seed in (0, 1))
    assert np.abs(a - b).max() > 1e-3
