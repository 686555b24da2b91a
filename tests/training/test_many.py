import functools

import chex
import jax
import numpy as np
import pytest

from subspace_jax import nn, training, trees
from tests.several import together

CLOSE = 2e-5  # vmapped and single programs round differently over a dozen steps
EPOCHS, BATCH, CHUNK = 3, 8, 3  # of four models: a chunk of three, then one of one
X = np.asarray(jax.random.normal(jax.random.key(0), (40, 6)))
Y = (X[:, 0] > 0).astype(np.int32)
TABLE = np.stack([np.random.default_rng(t).permutation(40)[:24] for t in range(4)])
MODEL = nn.build("mlp", classes=2, widths=(8,))
TX = training.optimizer(training.Recipe(lr=0.1), EPOCHS * 3)
HOOK = training.Hook(np.zeros(()), lambda carry, states, epoch: carry + len(states.step))


@functools.cache
def many(**more):
    """Stacked parameters on the host, and the carries: one training a set of options for the whole file."""
    states, carries = training.train_many(
        jax.random.key(3), MODEL, TX, (X, Y), TABLE, epochs=EPOCHS, batch=BATCH, hooks={"models": HOOK}, **more
    )
    return jax.device_get((training.variables(states), carries))


def test_each_model_is_what_training_it_alone_gives():
    variables, carries = many()
    create = jax.jit(lambda key: training.create(key, MODEL, TX, X[:1]))
    epoch_fn = training.train_epoch(MODEL, TX, batch=BATCH)
    for t, rows in enumerate(TABLE):
        state = create(jax.random.fold_in(jax.random.key(3), t))
        alone, alone_carries = training.fit(epoch_fn, state, (X[rows], Y[rows]), epochs=EPOCHS)
        chex.assert_trees_all_close(trees.unstack(variables["params"])[t], alone.params, atol=CLOSE)
    assert carries["metrics"]["loss"].shape == (EPOCHS,)
    assert not np.isnan(alone_carries["metrics"]["loss"]).any()


def test_loop_and_chunk_change_nothing():
    chex.assert_trees_all_close(many()[0], many(loop="map", chunk=CHUNK)[0], atol=CLOSE)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_share_the_models(processes, monkeypatch):
    """Each gets all states, and its hooks see all models; of four models three processes train six."""
    alone = many()

    def share():
        return many.__wrapped__()

    for found in together(monkeypatch, processes, share):
        chex.assert_trees_all_close(found, alone, atol=CLOSE)


def test_convolutions_on_cpu_train_one_by_one():
    def apply(params, x):
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=order).mean((1, 2))

    model = nn.from_function(lambda key, x: jax.random.normal(key, (3, 3, 1, 2)), apply)
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    tx = training.optimizer(training.Recipe(), 2)
    table = np.stack([np.arange(8), np.arange(8, 16)])
    states, _ = training.train_many(
        jax.random.key(0), model, tx, (images, np.zeros(16, np.int32)), table, epochs=1, batch=4
    )
    assert states.step.tolist() == [2, 2]


def test_training_goes_on_from_given_variables():
    first, _ = many()
    frozen = training.optimizer(training.Recipe(lr=1e-12, weight_decay=0.0), 9)
    states, _ = training.train_many(jax.random.key(9), MODEL, frozen, (X, Y), TABLE, epochs=1, batch=BATCH, start=first)
    chex.assert_trees_all_close(states.params, first["params"], atol=1e-8)


def test_hooks_see_all_models_and_go_on_from_chunk_to_chunk():
    assert float(many(loop="map", chunk=CHUNK)[1]["models"]) == EPOCHS * len(TABLE)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="24 samples, fewer than batch 25"):
        training.train_many(jax.random.key(0), MODEL, TX, (X, Y), TABLE, epochs=1, batch=25)
    with pytest.raises(ValueError, match=r"names samples 10\.\.49 of a data set of 40"):
        training.train_many(jax.random.key(0), MODEL, TX, (X, Y), np.arange(10, 50)[None], epochs=1, batch=8)
