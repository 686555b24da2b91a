"""Two tasks, whole networks of any framework: what the first task's samples give must not change."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from subspace_jax.continual import gpm
from subspace_jax.core import capture
from tests.continual.cases import WIDTHS, draw, host, many_kinds, many_kinds_case, noise, plain, plain_case

KEPT = 1e-4  # outputs of order one, after sixty steps in float32
OLD, NEW, STEPS = 2, 6, 60


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in WIDTHS[1:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(WIDTHS[-1])(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(WIDTHS)])

    def __call__(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


def linen_form():
    return Linen().apply, Linen().init(jax.random.key(0), jnp.ones((1, WIDTHS[0])))


def nnx_form():
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(graph, state)(x), state


def equinox_form():
    model = eqx.nn.MLP(4, 3, 4, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static))(x), params


FORMS = {
    "linen": linen_form,
    "nnx": nnx_form,
    "equinox": equinox_form,
    "plain": lambda: (plain, plain_case(0)),
    "every_kind": lambda: (many_kinds, many_kinds_case(0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_first_task_stays_while_the_second_is_learned(form):
    fn, params = FORMS[form]()
    shape = (4, 4, 3) if form == "every_kind" else WIDTHS[:1]
    old, new = (jnp.asarray(host(seed, n, *shape), jnp.float32) for seed, n in [(0, OLD), (1, NEW)])
    targets = jnp.asarray(host(2, NEW, 3), jnp.float32)
    table = capture.layers(fn, params, old)
    moments = capture.collect(fn, params, [old], dtype="float64")

    def loss(params):
        return ((fn(params, new) - targets) ** 2).mean()

    def step(carry, _):
        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    tx = optax.chain(optax.adam(0.02), gpm.gpm(table))
    learn = jax.jit(lambda opt_state: jax.lax.scan(step, (params, opt_state), length=STEPS)[0][0])
    opt_state = tx.init(params)
    bases = gpm.update(optax.tree.get(opt_state, "bases"), moments, energy=1.0)
    protected, free = learn(optax.tree.set(opt_state, bases=bases)), learn(opt_state)
    loss, outputs = jax.jit(loss), jax.jit(lambda params: fn(params, old))
    assert loss(protected) < 0.9 * loss(params)
    np.testing.assert_allclose(outputs(protected), outputs(params), atol=KEPT)
    assert np.abs(np.asarray(outputs(free)) - outputs(params)).max() > 100 * KEPT


def test_a_head_a_task_is_free_and_the_trunk_protects_the_other_heads():
    params = {
        "trunk": draw(0, 4, 9, size=2),
        "heads": {"kernel": jnp.asarray(host(1, 2, 9, 3), jnp.float32)},
    }

    def fn(params, x):
        return jnp.einsum("nd,tdc->ntc", jax.nn.relu(x @ params["trunk"]), params["heads"]["kernel"])

    old = jnp.asarray(host(0, OLD, 4), jnp.float32)
    table = capture.layers(fn, params, old)
    tx = optax.chain(optax.sgd(0.1), gpm.gpm(table, heads=["heads"]))
    opt_state = tx.init(params)
    moments = capture.collect(fn, params, [old], dtype="float64")
    bases = gpm.update(optax.tree.get(opt_state, "bases"), moments, energy=1.0)
    opt_state = optax.tree.set(opt_state, bases=bases)
    gradients = noise(0, params)
    gradients["heads"]["kernel"] = gradients["heads"]["kernel"].at[0].set(0)  # the second task trains its own
    updates, _ = tx.update(gradients, opt_state, params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(fn(after, old)[:, 0], fn(params, old)[:, 0], atol=KEPT)
    assert np.abs(fn(after, old)[:, 1] - fn(params, old)[:, 1]).max() > 0.01
