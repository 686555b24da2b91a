"""What everything of one kind promises: scores of samples, accumulators over epochs, transforms of updates."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax.continual import gpm, sgp
from subspace_jax.core import capture
from subspace_jax.core.keys import sample_keys
from subspace_jax.hardware import adc_pruning
from subspace_jax.memorization import dynamics, epoch_average, scores, second_split

BATCH, DIM, CLASSES = 8, 5, 3
STEP = 0.1  # large enough that float32 keeps four digits of the differences
OTHER_ORDER = 1e-4  # of the largest value: the same sums, rounded in another order


def network(variables, x):
    first, second = variables
    return jax.nn.relu(x @ first) @ second


@functools.cache
def draw(seed):
    """Variables of the network, and (keys, x, y) of two batches."""
    rng = np.random.default_rng(seed)
    first, second, x = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in [(DIM, 6), (6, CLASSES), (2 * BATCH, DIM)]
    )
    y = jnp.asarray(rng.integers(0, CLASSES, 2 * BATCH))
    return (first, second), (sample_keys(jax.random.key(9), jnp.arange(2 * BATCH)), x, y)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=OTHER_ORDER * np.abs(b).max())


# --- scores: fn(keys, variables, x, y) -> (b,)

SCORES = {name: scores.scorer(name, network, probes=1, step=STEP) for name in scores.TABLE}


def every(keys, variables, x, y):
    """All scores: one program is compiled instead of ten."""
    return {name: fn(keys, variables, x, y) for name, fn in SCORES.items()}


jitted_every, jitted_networks = jax.jit(every), jax.jit(jax.vmap(every, in_axes=(None, 0, None, None)))


def call(fn, variables, samples, rows=slice(BATCH)):
    keys, x, y = (part[rows] for part in samples)
    return fn(keys, variables, x, y)


@functools.cache
def found(case, seed=0):
    """All scores of the first samples, or of what the case changes."""
    variables, (keys, x, y) = draw(seed)
    blank, rows = jax.tree.map(jnp.zeros_like, variables), slice(BATCH)
    if case == "blank network":
        variables = blank
    elif case == "blank inputs":
        x = 0 * x
    elif case == "all blank":
        variables, x = blank, 0 * x
    elif case == "nan":
        x = x.at[2].set(jnp.nan)
    elif case == "other order":
        rows = ORDER
    elif case == "other company":
        rows = np.r_[:3, BATCH : 2 * BATCH - 3]
    elif case == "several":
        variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, draw(seed + 1)[0])
        return call(jitted_networks, variables, (keys, x, y))
    return call(jitted_every, variables, (keys, x, y), rows)


ORDER = np.random.default_rng(0).permutation(BATCH)


@pytest.fixture(params=scores.TABLE)
def name(request):
    return request.param


def test_a_score_is_one_finite_number_a_sample_with_or_without_jit(name):
    one = found("whole")[name]
    assert one.shape == (BATCH,)
    assert one.dtype == jnp.float32
    close(call(SCORES[name], *draw(0)), one)
    for case in ("blank network", "blank inputs", "all blank"):
        assert np.isfinite(found(case)[name]).all()


def test_a_score_belongs_to_its_sample_in_any_company_and_order(name):
    reference = found("whole", 1)[name]
    close(found("other order", 1)[name], reference[ORDER])
    close(found("other company", 1)[name][:3], reference[:3])


def test_many_networks_are_scored_by_vmap(name):
    variables, _ = draw(3)
    alone = found("whole", 2)[name], call(jitted_every, variables, draw(2)[1])[name]
    close(found("several", 2)[name], np.stack(alone))


def test_a_sample_without_a_loss_has_no_score(name):
    values = found("nan")[name]  # ReLU passes no gradient for it
    np.testing.assert_array_equal(np.isnan(values), np.arange(BATCH) == 2)


def test_a_score_does_not_depend_on_the_precision_of_the_hardware(name):
    variables, samples = draw(0)
    text = str(call(jax.make_jaxpr(SCORES[name]), variables, samples))
    assert text.count("dot_general[") == text.count("HIGHEST") // 2 > 0


# --- accumulators: init(samples) -> state, update(state, *values of one epoch) -> state, finalize(state)

EPOCHS = 4
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(EPOCHS, BATCH, CLASSES)), jnp.float32)
LABELS = jnp.tile(jnp.arange(BATCH) % CLASSES, (EPOCHS, 1))
ACCUMULATORS = {
    "epoch_average": (epoch_average, (LOGITS[..., 0],)),
    "dynamics": (dynamics, (LOGITS, LABELS)),
    "second_split": (second_split, (LOGITS, LABELS)),
}


@pytest.fixture(params=ACCUMULATORS)
def accumulator(request):
    return ACCUMULATORS[request.param]


def run(module, epochs, update):
    state = module.init(epochs[0].shape[1])
    for values in zip(*epochs, strict=True):
        state = update(state, *values)
    return state


@functools.cache
def jitted(module):
    """Compiled once for every epoch, fresh states and restored ones alike, and all tests."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(lambda state, *values: module.update(state, *values), 1))


def test_a_state_is_arrays_that_a_checkpoint_takes_and_jit_keeps(accumulator):
    module, epochs = accumulator
    update = jitted(module)
    state = module.init(BATCH)
    assert all(isinstance(leaf, jax.Array) and leaf.size for leaf in jax.tree.leaves(state))
    for values in zip(*epochs, strict=True):
        new = update(state, *values)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        saved = jax.tree.map(np.asarray, new)
        state = jax.tree.map(jnp.asarray, saved)
    chex.assert_trees_all_close(module.finalize(state), module.finalize(run(module, epochs, module.update)), rtol=1e-6)


def test_a_scan_over_epochs_is_the_loop(accumulator):
    module, epochs = accumulator
    scanned, _ = jax.lax.scan(lambda state, values: (module.update(state, *values), None), module.init(BATCH), epochs)
    chex.assert_trees_all_close(scanned, run(module, epochs, jitted(module)), rtol=1e-6)


def test_what_is_said_of_a_sample_moves_with_it_and_stays_finite(accumulator):
    module, epochs = accumulator
    order = np.random.default_rng(1).permutation(BATCH)
    moved = module.finalize(run(module, [part[:, order] for part in epochs], jitted(module)))
    found = module.finalize(run(module, epochs, jitted(module)))
    chex.assert_trees_all_equal(moved, jax.tree.map(lambda leaf: leaf[order], found))
    chex.assert_tree_all_finite(found)


def test_many_runs_are_followed_by_vmap(accumulator):
    module, epochs = accumulator
    runs = [epochs, [part[::-1] for part in epochs]]
    update = jitted(module)
    alone = [run(module, one, update) for one in runs]
    stacked = [jnp.stack(parts, axis=1) for parts in zip(*runs, strict=True)]
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), module.init(BATCH))
    together = jax.jit(jax.vmap(module.update))
    for values in zip(*stacked, strict=True):
        state = together(state, *values)
    chex.assert_trees_all_close(state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone), rtol=1e-6)


# --- transforms: optax.GradientTransformation over the updates of a network


def two_layers(params, x):
    return jax.nn.relu(x @ params["first"]) @ params["second"] + params["bias"][None]


WEIGHTS = {"first": jnp.ones((5, 6)), "second": jnp.ones((6, 3)), "bias": jnp.ones(3)}
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
TABLE = capture.layers(two_layers, WEIGHTS, INPUTS)
SEEN = capture.collect(two_layers, WEIGHTS, [INPUTS], dtype="float64")
TRANSFORMS = {  # the transform, and its state after a task
    "gpm": (gpm.gpm(TABLE), lambda state: gpm.GPMState(gpm.update(state.bases, SEEN, energy=0.9))),
    "sgp": (sgp.sgp(TABLE), lambda state: sgp.update(state, SEEN, energy=0.9)),
    "masked": (adc_pruning.masked(("first", "second")), lambda state: state),
}


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    return TRANSFORMS[request.param]


@functools.cache
def jitted_update(update):
    """Compiled once, before the first task and after it."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(lambda *args: update(*args), 1))


def test_a_transform_keeps_structure_dtype_and_compiles_once_for_all_tasks(transform):
    tx, learn = transform
    state = tx.init(WEIGHTS)
    assert all(isinstance(leaf, jax.Array) and leaf.size for leaf in jax.tree.leaves(state))
    for _ in range(2):
        updates, after = jitted_update(tx.update)(WEIGHTS, state, WEIGHTS)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, WEIGHTS)
        chex.assert_trees_all_equal(after, state)
        state = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, learn(state)))
    chex.assert_trees_all_close(
        tx.update(WEIGHTS, state, WEIGHTS)[0], jitted_update(tx.update)(WEIGHTS, state, WEIGHTS)[0], atol=1e-6
    )


def test_a_transform_gives_zero_for_zero_and_runs_over_seeds(transform):
    tx, learn = transform
    state, update = learn(tx.init(WEIGHTS)), jitted_update(tx.update)
    blank = jax.tree.map(jnp.zeros_like, WEIGHTS)
    chex.assert_trees_all_equal(update(blank, state, WEIGHTS)[0], blank)
    stack = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)  # noqa: E731
    together, _ = jax.jit(jax.vmap(tx.update))(stack(WEIGHTS), stack(state), stack(WEIGHTS))
    chex.assert_trees_all_close(together, stack(update(WEIGHTS, state, WEIGHTS)[0]), atol=1e-6)


def test_a_chain_with_a_transform_still_learns_a_quadratic(transform):
    tx, learn = transform
    chain = optax.chain(optax.sgd(0.1), tx)
    name = type(tx.init(WEIGHTS)).__name__
    state = chain.init(WEIGHTS)
    state = optax.tree.set(state, **{name: learn(optax.tree.get(state, name))})
    loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))  # noqa: E731

    @jax.jit
    def step(params, state):
        updates, state = chain.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = WEIGHTS
    for _ in range(20):
        params, state = step(params, state)
    assert loss(params) < loss(WEIGHTS)
