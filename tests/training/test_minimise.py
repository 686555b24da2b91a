import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn, training
from subspace_jax.core import losses

MODEL = nn.build("mlp", classes=3, widths=(8,))
KEY = jax.random.key(0)
X = np.asarray(jax.random.normal(jax.random.key(1), (50, 5)))
Y = np.arange(50) % 3
SGD = optax.sgd(0.1, 0.9)


@functools.cache
def start():
    return jax.jit(MODEL.init)(jax.random.key(2), X[:1])


@jax.jit
def loss(params, x, y):
    return losses.softmax_cross_entropy(MODEL.apply({"params": params, "batch_stats": {}}, x), y).mean()


def mean_over(variables, rows):
    return float(loss(variables["params"], X[rows], Y[rows]))


def test_it_is_plain_gradient_descent_on_the_drawn_batches():
    seen = []
    objective = training.mean_loss(MODEL.train_apply)

    def spying(params, stats, batches, constants, key):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), batches[0][0], ordered=True)
        return objective(params, stats, batches, constants, key)

    found = training.minimise(KEY, spying, SGD, start(), [(X, Y)], steps=5, batch=20)
    params, slope = jax.device_get(start()["params"]), jax.jit(jax.grad(loss))
    trace = jax.tree.map(np.zeros_like, params)
    for x in seen:
        y = Y[[int(np.flatnonzero((row == X).all(1))[0]) for row in x]]
        trace = jax.tree.map(lambda t, g: 0.9 * t + np.asarray(g), trace, slope(params, x, y))
        params = jax.tree.map(lambda p, t: p - 0.1 * t, params, trace)
    assert len(seen) == 5
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(found["params"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_pass_sees_every_sample_once_and_a_small_set_gives_all_it_has():
    seen = {0: [], 1: []}

    def objective(params, stats, batches, constants, key):
        for k, (_, y) in enumerate(batches):
            jax.debug.callback(lambda y, k=k: seen[k].append(np.asarray(y)), y, ordered=True)
        return jnp.sum(params["head"]["bias"] ** 2), stats

    numbers = np.arange(50)
    training.minimise(KEY, objective, SGD, start(), [(X, numbers), (X[:3], numbers[:3])], steps=4, batch=25)
    assert sorted(np.concatenate(seen[0][:2])) == sorted(np.concatenate(seen[0][2:])) == list(range(50))
    assert all(sorted(y) == [0, 1, 2] for y in seen[1])


def test_two_sets_pull_in_their_own_directions_and_constants_arrive():
    """Descent on the first set, ascent on the second, weighted by a constant."""

    def objective(params, stats, batches, weight, key):
        means = [losses.softmax_cross_entropy(MODEL.apply({"params": params, "batch_stats": stats}, x), y).mean()
                 for x, y in batches]  # fmt: skip
        return means[0] - weight * means[1], stats

    keep, go = np.arange(0, 40), np.arange(40, 50)
    found = {
        weight: training.minimise(
            KEY, objective, SGD, start(), [(X[keep], Y[keep]), (X[go], Y[go])], steps=30, batch=20,
            constants=jnp.float32(weight),
        )
        for weight in (0.0, 0.5)
    }  # fmt: skip
    assert mean_over(found[0.0], keep) < mean_over(start(), keep)
    assert mean_over(found[0.5], go) > mean_over(found[0.0], go)


def test_convolutions_step_by_step_update_their_statistics():
    model = nn.build("resnet20", classes=3, blocks=(1,), width=2)
    x = np.asarray(jax.random.normal(KEY, (12, 8, 8, 1)))
    before = jax.jit(model.init)(jax.random.key(2), x[:1])
    objective = training.mean_loss(model.train_apply)
    prepared = training.minimise(
        KEY, objective, optax.sgd(0.1), before, [(x, Y[:12])], steps=3, batch=4, prepare=lambda key, x: 2 * x
    )
    before, prepared = jax.device_get((before, prepared))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(prepared))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before["batch_stats"], prepared["batch_stats"])
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize(
    ("options", "sets"), [({"steps": 0, "batch": 2}, [(X, Y)]), ({"steps": 1, "batch": 0}, [(X, Y)]),
                          ({"steps": 1, "batch": 2}, []), ({"steps": 1, "batch": 2}, [(X, Y), (X[:0], Y[:0])])],
)  # fmt: skip
def test_nothing_to_do_is_refused(options, sets):
    with pytest.raises(ValueError, match="there are steps and samples to take"):
        training.minimise(KEY, training.mean_loss(MODEL.train_apply), SGD, start(), sets, **options)
