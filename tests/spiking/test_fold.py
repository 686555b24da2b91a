"""A folded batch norm leaves the logits at inference as they were."""

import functools

import jax
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.spiking import fold, network

X = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)


SIZES = {"cnn2": {"widths": (3, 4), "dense": (6,), "pool": "average"}, "mlp": {"widths": (4, 3)}}


@functools.cache
def normed(name, use_bias):
    """A network whose statistics are as if trained: neither 0 nor 1."""
    model = nn.build(name, classes=5, norm="batch", use_bias=use_bias, **SIZES[name])
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X[:1])
    return model, jax.tree.map(lambda leaf: rng.uniform(0.1, 0.6, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(("name", "use_bias"), [("cnn2", True), ("mlp", False)])
def test_the_logits_stay(name, use_bias):
    model, variables = normed(name, use_bias)
    folded, own = fold.fold(model, variables)
    assert own["batch_stats"] == {}
    assert not any(name.endswith("_norm") for name in own["params"])
    np.testing.assert_allclose(folded.apply(own, X), model.apply(variables, X), rtol=1e-4, atol=1e-4)


def test_without_shifts_it_can_spike_and_with_them_the_bias_is_named():
    model, variables = normed("cnn2", True)
    folded, own = fold.fold(model, variables, shift=False)
    snn = network.spiking(folded, own)
    with_shift = fold.fold(model, variables)[1]["params"]
    for name, kernel in own["params"].items():
        np.testing.assert_array_equal(kernel["kernel"], with_shift[name]["kernel"])
    assert len(snn.layers) == 4
    with pytest.raises(ValueError, match="'conv0/bias' has no place in a spiking network"):
        network.spiking(*fold.fold(model, variables))


@pytest.mark.parametrize(("name", "arguments"), [("cnn2", {}), ("resnet20", {"norm": "batch"})])
def test_networks_that_cannot_be_folded_are_refused(name, arguments):
    with pytest.raises(ValueError, match=f"norm='batch' can be folded; got {name}"):
        fold.fold(nn.build(name, **arguments), {})
