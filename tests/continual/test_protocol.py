"""A sequence as it is run: its matrix, its measures, its checkpoints, its schedules."""

import functools
from typing import NamedTuple

import chex
import jax
import numpy as np
import optax
import pytest

from subspace_jax import nn
from subspace_jax.continual import protocol
from tests.continual.sequences import DATA, KEY, PERMUTED, SGD

MODEL = nn.build("mlp", classes=3, widths=(16,), use_bias=False)
FINETUNE = protocol.learner(MODEL, SGD)
SHORT = {"classes": 3, "length": 40, "batch": 10}


@functools.cache
def whole():
    return protocol.run(KEY, FINETUNE, PERMUTED, **SHORT)


def test_measures_of_a_matrix_by_hand():
    matrix = np.array([[0.1, 0.2, 0.3], [0.9, 0.3, 0.3], [0.7, 0.8, 0.5], [0.8, 0.6, 1.0]])
    found = protocol.measures(matrix)
    np.testing.assert_allclose(
        found,
        [2.4 / 3, ((0.8 - 0.9) + (0.6 - 0.8)) / 2, ((0.3 - 0.2) + (0.5 - 0.3)) / 2, (0.1 + 0.2) / 2,
         (0.9 + 0.75 + 0.8) / 3],
    )  # fmt: skip


def test_one_task_forgets_and_transfers_nothing():
    assert protocol.measures(np.array([[0.1], [0.9]])) == (0.9, 0.0, 0.0, 0.0, 0.9)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.full((3, 2), np.nan), np.full((3, 2), 1.5)])
def test_what_is_no_matrix_of_accuracies_is_refused(matrix):
    with pytest.raises(ValueError, match=r"R is \(tasks \+ 1, tasks\) of accuracies"):
        protocol.measures(matrix)


def test_finetuning_learns_each_task_and_its_matrix_is_what_its_states_give():
    state, matrix, _ = whole()
    first, head = (np.asarray(state.variables["params"][name]["kernel"]) for name in ("dense0", "head"))
    assert matrix.shape == (4, 3)
    assert np.diagonal(matrix[1:]).min() > 0.9
    for t, task in enumerate(PERMUTED):
        logits = np.maximum(task.test_x.reshape(60, 6) @ first, 0) @ head
        assert matrix[3, t] == pytest.approx(np.mean(logits.argmax(-1) == task.test_y), abs=1e-6)


def test_an_interrupted_sequence_continues_after_its_last_finished_task_bit_for_bit(tmp_path):
    seen = []

    def interrupted(key, state, task, t):
        seen.append(t)
        if t == 2 and len(seen) == 3:
            raise KeyboardInterrupt
        return FINETUNE.begin(key, state, task, t)

    method = FINETUNE._replace(begin=interrupted)
    with pytest.raises(KeyboardInterrupt):
        protocol.run(KEY, method, PERMUTED, **SHORT, directory=tmp_path / "c")
    resumed = protocol.run(KEY, method, PERMUTED, **SHORT, directory=tmp_path / "c")
    assert seen == [0, 1, 2, 2]
    chex.assert_trees_all_equal(resumed, whole())


def test_heads_are_read_at_the_task():
    logits = np.arange(24.0).reshape(4, 2, 3)
    np.testing.assert_array_equal(protocol.own_head(logits, 1), logits[:, 1])
    np.testing.assert_array_equal(protocol.own_head(logits[:, 0], 1), logits[:, 0])
    for t in (-1, logits.shape[1]):
        assert np.isnan(jax.jit(protocol.own_head)(logits, t)).all()


def test_a_task_without_a_head_and_an_unknown_task_are_refused():
    heads = nn.multi_head(nn.build("mlp", classes=0, widths=(4,)), tasks=2, classes=3)
    method = protocol.learner(heads, optax.sgd(0.05), told=True)
    with pytest.raises(ValueError, match="the network has 2 heads, one a task: say which one; got 2"):
        protocol.run(KEY, method, PERMUTED, **SHORT)
    with pytest.raises(ValueError, match="say which one; got None"):
        method.predict(method.init(KEY, DATA.x), DATA.x, None)


def test_a_plateau_needs_a_rate_that_it_can_lower():
    with pytest.raises(ValueError, match=r"make the optimiser by optax\.inject_hyperparams"):
        protocol.run(KEY, FINETUNE, PERMUTED, classes=3, batch=10, length=protocol.Plateau(epochs=1))


def test_a_plateau_keeps_the_best_weights_and_lowers_the_rate():
    linear = nn.build("mlp", classes=3, widths=(), use_bias=False)
    method = protocol.learner(linear, optax.inject_hyperparams(optax.sgd)(learning_rate=20.0))
    seen = []

    def watched(state, x, t):
        logits = method.predict(state, x, t)
        kernel = np.asarray(state.variables["params"]["head"]["kernel"])
        seen.append((float(optax.tree.get(state.opt_state, "learning_rate")), kernel))
        return logits

    length = protocol.Plateau(epochs=30, held_out=0.3, factor=4.0, patience=2, stop=1e-1)
    state, matrix, _ = protocol.run(
        KEY, method._replace(predict=watched), PERMUTED[:1], classes=3, length=length, batch=10
    )  # fmt: skip
    rates = [rate for rate, _ in seen[1:-1]]  # the first and the last call fill the matrix
    assert rates == sorted(rates, reverse=True)
    assert 0.1 <= min(rates) < 20.0
    order = jax.random.permutation(jax.random.split(jax.random.fold_in(KEY, 0), 3)[1], 90)
    judges = np.asarray(order)[:27]
    logits = [DATA.x[judges].reshape(27, 6) @ kernel for _, kernel in seen[1:-1]]
    loss = [np.mean(np.logaddexp.reduce(z, 1) - z[np.arange(27), DATA.y[judges]]) for z in logits]
    np.testing.assert_array_equal(state.variables["params"]["head"]["kernel"], seen[1 + int(np.argmin(loss))][1])
    assert matrix[1, 0] > 0.8


def test_a_method_of_settings_is_compiled_once_and_other_settings_on_their_own():
    class Settings(NamedTuple):
        factor: int

        def scaled(self, x):
            return self.factor * x

    two, same = Settings(2), Settings(2)
    assert protocol.compiled(two.scaled) is protocol.compiled(two.scaled)
    assert protocol.compiled(two.scaled) is not protocol.compiled(same.scaled)
    assert protocol.compiled(Settings(3).scaled)(2) == 6
