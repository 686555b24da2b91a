"""What everything promises of number formats: parameters of 16 or 32 bits, with jax_enable_x64 off and on.

Numbers are finite, parameters keep their format, and the switch changes nothing but rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax.compression import utilized_rank
from subspace_jax.continual import gpm, leak, sgp
from subspace_jax.core import capture, exchange, losses, topology
from subspace_jax.core.keys import sample_keys
from subspace_jax.decentralized import methods
from subspace_jax.label_noise import verifix
from subspace_jax.memorization import scores
from subspace_jax.unlearning import class_projection

FORMATS = "float32", "bfloat16", "float16"
ROUNDING = {"float32": 2e-4, "bfloat16": 2**-6, "float16": 2**-9}  # of the largest number: two units in the last place
AGENTS, ROWS, DIM, HIDDEN, CLASSES = 2, 8, 3, 4, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(AGENTS, ROWS, DIM)).astype(np.float32)
Y = (np.arange(AGENTS * ROWS).reshape(AGENTS, ROWS) % CLASSES).astype(np.int32)
WEIGHTS = {"first": RNG.normal(size=(DIM, HIDDEN)), "second": RNG.normal(size=(HIDDEN, CLASSES))}


def network(params, x):
    """Computes in the format of its parameters."""
    hidden = jax.nn.relu(x.astype(params["first"].dtype) @ params["first"])
    return (hidden @ params["second"]).astype(x.dtype)


def in_format(dtype, tree=WEIGHTS):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@functools.cache
def traced(dtype, x64):
    """(params, table, moments of two samples, moments of others), made under this switch."""
    params = in_format(dtype)
    moments = [capture.collect(network, params, [np.tile(x[:2], (4, 1))], dtype="float64") for x in X]
    return params, capture.layers(network, params, X[0]), *moments


def both(compute):
    """compute(dtype) with the switch off and on, in NumPy, once for all tests."""

    @functools.cache
    def run(dtype):
        found = []
        for x64 in (False, True):
            with jax.enable_x64(x64):
                found.append(jax.device_get(compute(dtype)))
        return found

    return run


def assert_same(found, dtype):
    off, on = found
    largest = max(np.abs(np.asarray(leaf, np.float64)).max() for leaf in jax.tree.leaves(off))
    for a, b in zip(jax.tree.leaves(off), jax.tree.leaves(on), strict=True):
        assert a.dtype == b.dtype
        assert np.isfinite(np.asarray(a, np.float64)).all()
        np.testing.assert_allclose(
            np.asarray(b, np.float64), np.asarray(a, np.float64), rtol=0, atol=ROUNDING[dtype] * largest
        )


def assert_format(tree, dtype):
    assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} == {dtype}


# --- scores: float32 for parameters of any format


@both
@functools.partial(jax.jit, static_argnums=0)
def all_scores(dtype):
    keys = sample_keys(jax.random.key(3), np.arange(ROWS))
    fns = {name: scores.scorer(name, network, probes=1, step=0.1) for name in scores.TABLE}
    return {name: fn(keys, in_format(dtype), jnp.asarray(X[0]), jnp.asarray(Y[0])) for name, fn in fns.items()}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", scores.TABLE)
def test_a_score(name, dtype):
    found = [values[name] for values in all_scores(dtype)]
    assert_format(found[0], "float32")
    assert_same(found, dtype)


# --- transforms at the end of a chain


TRANSFORMS = {
    "gpm": (gpm.gpm, "bases", gpm.update),
    "sgp": (sgp.sgp, "SGPState", sgp.update),
}


@both
def all_transforms(dtype):
    """Updates of a gradient of ones before the first task, and after a task whose inputs span two directions."""
    params, table, seen, _ = traced(dtype, jax.config.jax_enable_x64)
    found = {}
    for name, (transform, state_name, update) in TRANSFORMS.items():
        chain = optax.chain(optax.sgd(0.1), transform(table))
        state = chain.init(params)
        later = optax.tree.set(state, **{state_name: update(optax.tree.get(state, state_name), seen, energy=0.9)})
        step = jax.jit(lambda state, chain=chain: chain.update(jax.tree.map(jnp.ones_like, params), state, params)[0])
        found[name] = step(state), step(later)
    return found


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform(name, dtype):
    found = [values[name] for values in all_transforms(dtype)]
    before, after = found[0]
    assert_format(found[0], dtype)
    assert_same(found, dtype)
    assert all((a != b).any() for a, b in zip(before.values(), after.values(), strict=True))


def test_rounding_of_16_bits_is_no_leak_and_a_wrong_order_is():
    params, table, seen, _ = traced("bfloat16", False)
    for chain, leaks in (
        ((optax.sgd(0.1), gpm.gpm(table)), False),
        ((gpm.gpm(table), optax.add_decayed_weights(1.0)), True),
    ):
        chain = optax.chain(*chain)
        state = chain.init(params)
        bases = gpm.update(optax.tree.get(state, "bases"), seen, energy=0.9)
        found = leak.leak(jax.random.key(0), table, chain, params, optax.tree.set(state, bases=bases))
        assert all((value > leak.LIMIT) == leaks for value in found.values())


# --- edits: parameters -> parameters


@both
def all_edits(dtype):
    params, table, some, others = traced(dtype, jax.config.jax_enable_x64)
    return {
        "unlearn_classes": class_projection.unlearn_classes(table, params, some, others),
        "verifix": verifix.verifix(table, params, some, alpha=100),
        "project": utilized_rank.project(table, params, some, energy=0.9),
        "factorise": utilized_rank.factorise(table, params, some, energy=0.5),
    }


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", ["unlearn_classes", "verifix", "project", "factorise"])
def test_an_edit(name, dtype):
    found = [values[name] for values in all_edits(dtype)]
    assert_format(found[0], dtype)
    assert_same(found, dtype)


# --- algorithms: one step of all agents


def loss(params, batch_stats, batch, key):
    x, y = batch
    logits = x.astype(params["first"].dtype) @ params["first"]
    return losses.softmax_cross_entropy(logits, y).mean(), batch_stats


COMM = exchange.Comm(AGENTS)
SETTINGS = {"comm": COMM, "weights": topology.weights("full", AGENTS), "lr": 0.1}
HEAVY = {"momentum": 0.9}  # where a method takes it
ALGORITHMS = {  # low_precision rounds to 8 bits at random, and x64 draws other numbers
    name: methods.build(name, loss, **SETTINGS, **{k: v for k, v in HEAVY.items() if k in methods.settings(name)})
    for name in methods.METHODS
    if name != "low_precision"
}


@both
@functools.partial(jax.jit, static_argnums=0)
def all_algorithms(dtype):
    variables = {"params": in_format(dtype, {"first": WEIGHTS["first"][:, :CLASSES]}), "batch_stats": {}}

    def one(batch):
        key, found = jax.random.key(5), {}
        for name, method in ALGORITHMS.items():
            state = method.init(key, variables)
            after, info = method.step(key, state, batch)
            jax.tree.map(lambda a, b: _alike(a, b), state, after)
            found[name] = after.params, info.loss.astype(jnp.float32)
        return found

    return exchange.vmap(one, COMM)((jnp.asarray(X), jnp.asarray(Y)))


def _alike(before, after):
    assert (before.shape, before.dtype) == (after.shape, after.dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm(name, dtype):
    found = [values[name] for values in all_algorithms(dtype)]
    assert_format(found[0][0], dtype)
    assert_same(found, dtype)
