import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.core.inference import check_inference

X = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
MODEL = nn.build("resnet20", classes=3, blocks=(1,), width=2)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(1), X)


def test_a_network_in_inference_mode_passes():
    check_inference(MODEL.apply, VARIABLES, X)


def test_batch_statistics_are_refused():
    with pytest.raises(ValueError, match=r"changes by .* with the rest of its batch: put the network in inference"):
        check_inference(lambda v, x: MODEL.train_apply(v, x, jax.random.key(0))[0], VARIABLES, X)


def test_dropout_is_refused():
    def dropped(params, x):
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0.0)

    with pytest.raises(ValueError, match="with the rest of its batch"):
        check_inference(dropped, {}, X)


def test_one_sample_shows_nothing():
    with pytest.raises(ValueError, match="two samples at least show whether they interact; got 1"):
        check_inference(MODEL.apply, VARIABLES, X[:1])
