"""Adversarial training: the loss is that of attacked images, and the network that comes of it withstands them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import nn, training
from subspace_jax.core import attacks, keys, losses

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(96, 12)).astype(np.float32)
Y = np.asarray(((X - 0.5) @ RNG.normal(size=12) > 0).astype(int))
EPS = 0.08


def apply(params, x):
    return jax.nn.relu(x @ params["first"]) @ params["second"]


def init(key, x):
    first, second = jax.random.split(key)
    return {"first": jax.random.normal(first, (12, 16)) / 3, "second": jax.random.normal(second, (16, 2)) / 4}


MODEL = nn.from_function(init, apply)
WEAK = attacks.pgd(steps=3, step_size=0.5)


def test_the_objective_is_the_loss_of_attacked_images():
    variables, key = MODEL.init(jax.random.key(0), X), jax.random.key(1)
    objective = training.adversarial(MODEL, eps=EPS, attack=WEAK)
    loss, _ = objective(variables["params"], {}, ((X, Y),), None, key)
    own = jax.random.split(jax.random.split(key)[0], len(X))
    changed = attacks.run(own, WEAK, jax.tree_util.Partial(apply, variables["params"]), X, Y, eps=EPS)
    np.testing.assert_allclose(loss, losses.softmax_cross_entropy(apply(variables["params"], changed), Y).mean(), 1e-5)
    assert loss > losses.softmax_cross_entropy(apply(variables["params"], X), jnp.asarray(Y)).mean()
    assert training.adversarial(MODEL, eps=EPS, attack=WEAK) is objective


def test_a_network_trained_on_attacked_images_withstands_more():
    tx, robust = optax.adam(1e-2), {}
    for name, objective in (("plain", None), ("hardened", training.adversarial(MODEL, eps=EPS, attack=WEAK))):
        epoch = training.train_epoch(MODEL, tx, batch=32, objective=objective)
        state, _ = training.fit(epoch, training.create(jax.random.key(0), MODEL, tx, X[:1]), (X, Y), epochs=30)
        fn, own = jax.tree_util.Partial(apply, state.params), keys.sample_keys(jax.random.key(2), np.arange(len(X)))
        found = attacks.run(own, attacks.pgd(steps=20), fn, X, Y, eps=EPS)
        robust[name] = float(attacks.right(own, fn, found, Y).mean())
    assert robust["hardened"] > robust["plain"] + 0.03
