import sys

import chex
import jax
import numpy as np
import optax
import pytest

from subspace_jax import data, nn, training

ROUNDING = 1e-5  # two XLA programs of one computation, a few steps of float32
N, BATCH, EPOCHS = 50, 16, 4


@pytest.fixture(scope="module")
def problem():
    x = np.asarray(jax.random.normal(jax.random.key(0), (N, 6)))
    model = nn.build("mlp", classes=3, widths=(8,))
    recipe = training.Recipe(lr=0.1, epochs=EPOCHS, batch=BATCH)
    tx = training.optimizer(recipe, EPOCHS * (N // BATCH))
    state = jax.jit(training.create, static_argnums=(1, 2))(jax.random.key(1), model, tx, x[:1])
    return model, tx, state, (x, (x[:, 0] > 0).astype(np.int32))


def counting_hook(every=1):
    return training.Hook(np.zeros(()), lambda carry, state, epoch: carry + state.step, every)


def test_training_learns_and_reports_every_epoch(problem):
    model, tx, state, data = problem
    end, carries = training.fit(training.train_epoch(model, tx, batch=BATCH), state, data, epochs=EPOCHS)
    assert int(end.step) == EPOCHS * (N // BATCH)
    loss = carries["metrics"]["loss"]
    assert loss.shape == (EPOCHS,)
    assert loss[-1] < loss[0]


def test_an_objective_replaces_the_loss(problem):
    model, tx, state, data = problem
    plain, row = training.train_epoch(model, tx, batch=BATCH)(state, *data)
    same = training.train_epoch(model, tx, batch=BATCH, objective=training.mean_loss(model.train_apply))
    end, other = same(state, *data)
    chex.assert_trees_all_close(end.params, plain.params, atol=ROUNDING)
    assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=ROUNDING)
    assert np.isnan(other["accuracy"])


def test_one_program_per_epoch_equals_one_per_step(problem, monkeypatch):
    model, tx, state, data = problem
    epoch_fn = training.train_epoch(model, tx, batch=BATCH)
    scanned, rows = epoch_fn(state, *data)
    monkeypatch.setattr(sys.modules["subspace_jax.training.fit"], "RESIDENT_BYTES", 0)
    stepped, step_rows = epoch_fn(state, *data)
    chex.assert_trees_all_close(scanned.params, stepped.params, atol=ROUNDING)
    chex.assert_trees_all_close(rows, step_rows, atol=ROUNDING)


def test_a_run_in_two_parts_is_the_run_bit_for_bit(problem):
    model, tx, state, data = problem
    epoch_fn = training.train_epoch(model, tx, batch=BATCH)
    hooks = {"steps": counting_hook(every=2)}
    whole = training.fit(epoch_fn, state, data, epochs=EPOCHS, hooks=hooks)
    halves = {}
    training.fit(
        epoch_fn, state, data, epochs=EPOCHS, hooks=hooks,
        after_epoch=lambda done, state, carries: halves.update({done: (state, dict(carries))}),
    )  # fmt: skip
    half, carries = halves[2]
    resumed = training.fit(epoch_fn, half, data, epochs=EPOCHS, start=2, hooks=hooks, carries=carries)
    chex.assert_trees_all_equal(whole, resumed)
    assert float(whole[1]["steps"]) == (2 + 4) * (N // BATCH)


def test_one_step_is_the_textbook_update(problem):
    model, _, _, (x, y) = problem
    tx = training.optimizer(training.Recipe(lr=0.1, momentum=0.9, weight_decay=0.01), 10)
    state = jax.jit(training.create, static_argnums=(1, 2))(jax.random.key(1), model, tx, x[:1])

    @jax.jit
    @jax.value_and_grad
    def textbook(params):
        logits = model.apply({"params": params, "batch_stats": {}}, x[:BATCH])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y[:BATCH]).mean()

    loss, grads = textbook(state.params)
    expected = jax.tree.map(
        lambda p, g: np.asarray(p) - 0.1 * (np.asarray(g) + 0.01 * np.asarray(p)), state.params, grads
    )
    stepped, metrics = jax.jit(training.train_step(model, tx))(state, x[:BATCH], y[:BATCH])
    chex.assert_trees_all_close(stepped.params, expected, atol=ROUNDING)
    chex.assert_trees_all_close(metrics["loss"], loss, atol=ROUNDING)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", (1, 1, 1)), ("step", (1, 1, 0.1)), ("cosine", (1, 0.5, 0)), ("one_cycle", (0, None, 0))],
)
def test_schedules_at_start_middle_and_end(schedule, rates):
    rate = training.recipe.schedule(training.Recipe(lr=1.0, schedule=schedule), 100)
    steps = np.array([0, 50, 80 if schedule == "step" else 100])
    for found, expected in zip(jax.jit(jax.vmap(rate))(steps).tolist(), rates, strict=True):
        assert expected is None or found == pytest.approx(expected, abs=1e-6)


def test_bad_recipes_are_refused(problem):
    model, tx, state, data = problem
    with pytest.raises(ValueError, match="lr must be above 0; got 0"):
        training.optimizer(training.Recipe(lr=0.0), 10)
    with pytest.raises(ValueError, match="at least one step; got 0"):
        training.optimizer(training.Recipe(), 0)
    with pytest.raises(ValueError, match=r"batch is in \[1, 50\].*got 51"):
        training.train_epoch(model, tx, batch=51)(state, *data)


def test_crop_flip_keeps_pixels_and_type():
    x = np.random.default_rng(0).integers(1, 255, (8, 5, 5, 1)).astype(np.uint8)
    crop_flip = jax.jit(training.crop_flip, static_argnames="pad")
    out, shifted = (np.asarray(crop_flip(jax.random.key(1), x, pad=pad)) for pad in (0, 2))
    assert out.dtype == np.uint8
    mirrored = (out == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (out == x).all(axis=(1, 2, 3))).all()
    assert 0 < mirrored.sum() < 8
    assert shifted.shape == x.shape
    assert (shifted == 0).any()


def test_pixels_are_prepared_by_one_function_for_one_scaling_also_from_json():
    scaling = data.Scaling(2.0, (0.5,), (4.0,))
    prepare = training.prepare(scaling)
    assert training.prepare(data.Scaling(2.0, [0.5], [4.0])) is prepare
    raw = np.arange(8, dtype=np.uint8).reshape(1, 2, 4, 1)
    np.testing.assert_allclose(prepare(jax.random.key(0), raw), (raw / 2 - 0.5) / 4)
