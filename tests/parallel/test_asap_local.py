"""The local step against the gradient of softmax regression in NumPy, on the samples that it says it draws."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from subspace_jax.parallel import asap

FLOAT64 = 1e-12
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 20, 4)), RNG.integers(0, 5, (3, 20))
KEY = jax.random.PRNGKey(3)
SETTINGS = {"widths": (), "classes": 5, "dtype": "float64"}


def by_hand(model, worker, iteration):
    """bias (5), kernel (4, 5), in the order of ravel_pytree."""
    key = jax.random.fold_in(jax.random.fold_in(KEY, worker), iteration)
    rows = np.asarray(jax.random.randint(key, (6,), 0, 20))
    x, y, bias, kernel = X[worker, rows], Y[worker, rows], model[:5], model[5:].reshape(4, 5)
    p = np.exp(x @ kernel + bias)
    away = (p / p.sum(1, keepdims=True) - np.eye(5)[y]) / 6
    return model - 0.1 * np.concatenate([away.sum(0), (x.T @ away).ravel()])


def test_a_step_is_the_gradient_of_the_samples_of_worker_and_iteration():
    with jax.enable_x64(True):
        apply, params = asap.classifier("mlp", SETTINGS, X[0, :1])
        given = {"batch": 6, "lr": 0.1}
        step = asap.sgd_step(KEY, apply, params, (X, Y), **given)
        again = asap.classifier_step(KEY, "mlp", SETTINGS, (X, Y), **given)
        model = RNG.normal(size=ravel_pytree(params)[0].shape)
        for worker, iteration in ((0, 1), (2, 1), (2, 7)):
            found = step(worker, iteration, model)
            np.testing.assert_allclose(found, by_hand(model, worker, iteration), atol=FLOAT64)
            np.testing.assert_array_equal(found, again(worker, iteration, model))


def test_a_network_with_running_statistics_is_refused():
    with pytest.raises(ValueError, match="mlp keeps running statistics, which workers do not average"):
        asap.classifier("mlp", {"widths": (3,), "norm": "batch"}, X[0, :1].astype(np.float32))
