"""Networks of Equinox and of nnx are attacked and audited as the functions they are, their weights traced."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from subspace_jax.core import attacks, keys
from subspace_jax.robustness import audit, trend

COUNT, WIDTH, HIDDEN, CLASSES, EPS = 20, 6, 5, 3, 0.3
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(COUNT, WIDTH)).astype(np.float32)
FIRST, SECOND = (RNG.normal(size=size).astype(np.float32) for size in ((WIDTH, HIDDEN), (HIDDEN, CLASSES)))
KEYS = keys.sample_keys(jax.random.key(0), np.arange(COUNT))
FEW = {"pgd": attacks.pgd(steps=5), "square": attacks.square(queries=20), "l2": attacks.pgd(steps=3, norm="l2")}


def plain(x):
    return jax.nn.relu(x @ FIRST) @ SECOND


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    drop: eqx.nn.Dropout
    second: eqx.nn.Linear

    def __init__(self):
        key = jax.random.key(0)
        layers = [eqx.nn.Linear(*size, use_bias=False, key=key) for size in ((WIDTH, HIDDEN), (HIDDEN, CLASSES))]
        self.first, self.second = (
            eqx.tree_at(lambda layer: layer.weight, layer, jnp.asarray(kernel.T))
            for layer, kernel in zip(layers, (FIRST, SECOND), strict=True)
        )
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x, key=None):
        return self.second(self.drop(jax.nn.relu(self.first(x)), key=key))


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(WIDTH, HIDDEN, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, use_scale=False, use_bias=False, epsilon=0.0, rngs=rngs)
        self.second = nnx.Linear(HIDDEN, CLASSES, use_bias=False, rngs=rngs)
        self.first.kernel.set_value(jnp.asarray(FIRST))
        self.second.kernel.set_value(jnp.asarray(SECOND))

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(self.norm(x))))


def equinox():
    network = eqx.nn.inference_mode(Equinox())
    return lambda x: jax.vmap(network)(x)


def equinox_traced():
    arrays, rest = eqx.partition(eqx.nn.inference_mode(Equinox()), eqx.is_array)
    return jax.tree_util.Partial(lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x), arrays)


def flax_nnx():
    network = Nnx()
    network.eval()
    return lambda x: network(x)


def flax_nnx_traced():
    network = Nnx()
    network.eval()
    graph, state = nnx.split(network)
    return jax.tree_util.Partial(lambda state, x: nnx.merge(graph, state)(x), state)


@pytest.mark.parametrize("made", [equinox, equinox_traced, flax_nnx, flax_nnx_traced])
def test_a_network_of_another_package_is_audited_as_the_same_function_in_jax(made):
    fn, y = made(), np.asarray(plain(X).argmax(1))
    found, expected = (audit.audit(KEYS, one, X, y, eps=EPS, attacks=FEW) for one in (fn, plain))
    for name in FEW:
        np.testing.assert_array_equal(found.right[name], expected.right[name])
    np.testing.assert_allclose(found.examples, expected.examples, atol=1e-5)
    assert 0 < found.accuracy["min"] < 1


def test_networks_of_several_packages_vote_and_are_attacked_together():
    voters, y = [equinox_traced(), flax_nnx_traced(), plain], np.asarray(plain(X).argmax(1))
    changed = attacks.run(KEYS, trend.ensemble_attack("agd", steps=3), trend.ensemble(voters), X, y, eps=EPS)
    alone = attacks.run(KEYS, attacks.pgd(steps=3), plain, X, y, eps=EPS)
    np.testing.assert_allclose(changed, alone, atol=1e-5)


def test_training_mode_and_dropout_are_refused_or_drawn(unchecked):
    network = Nnx()
    network.train()
    graph, state = nnx.split(network)
    training = jax.tree_util.Partial(lambda state, x: nnx.merge(graph, state)(x), state)
    with pytest.raises(ValueError, match="put the network in inference mode"):
        audit.audit(KEYS, training, X, np.zeros(COUNT, int), eps=EPS, attacks=FEW)
    dropping = jax.vmap(Equinox(), (0, None))
    changed = attacks.run(KEYS, attacks.pgd(steps=2), dropping, X, np.zeros(COUNT, int), eps=EPS, draws=2)
    assert np.abs(changed - X).max() <= EPS + 1e-6
