"""SPACE: its transform and its learner; earlier tasks stay bit for bit."""

import functools
import warnings
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn, training, trees
from subspace_jax.continual import protocol, space, tasks
from subspace_jax.core import capture
from tests.continual.sequences import DATA, IMAGE, KEY, SGD, SHORT, TURNED, drawn, table_of, with_heads

# --- the transform

MODEL, TABLE = with_heads(widths=(12, 8))
PARAMS = drawn(MODEL)["params"]
OWNED = space.channels(TABLE)
ONES = jax.tree.map(np.ones_like, PARAMS)
UPDATE = jax.jit(space.freeze(OWNED).update)
STATE = space.FreezeState(
    {"dense0/kernel": jnp.int32(3), "dense1/kernel": jnp.int32(0)},
    {"dense0/kernel": jnp.int32(7), "dense1/kernel": jnp.int32(8)},
    jnp.int32(1),
)


def test_only_columns_between_the_frozen_and_the_live_learn_and_one_head():
    updates, state = UPDATE(ONES, STATE)
    chex.assert_trees_all_equal(state, STATE)
    between = (np.arange(12) >= 3) & (np.arange(12) < 7)
    np.testing.assert_array_equal(updates["dense0"]["kernel"], np.broadcast_to(between, (6, 12)))
    np.testing.assert_array_equal(updates["dense0"]["bias"], between)
    np.testing.assert_array_equal(updates["dense1"]["kernel"], np.ones((12, 8)))
    np.testing.assert_array_equal(updates["heads"]["kernel"].max((1, 2)), [0, 1, 0])


def test_norms_stand_still_with_their_channels():
    model = nn.multi_head(nn.build("resnet20", classes=0, blocks=(1, 1), width=4, norm="minibatch"), tasks=2, classes=2)
    x = jnp.zeros((2, 4, 4, 1))
    params = drawn(model, x)["params"]
    owned = space.channels(table_of(model, x))
    masks = trees.flatten(jax.jit(lambda p: space.space_masks(owned, p, stop=dict.fromkeys(owned.layers, 3)))(params))
    assert set(masks) == set(trees.flatten(params))
    for path, mask in masks.items():
        expected = np.ones(mask.shape) if path.startswith("heads") else np.arange(mask.shape[-1]) < 3
        np.testing.assert_array_equal(mask, np.broadcast_to(expected, mask.shape), err_msg=path)


def test_at_first_everything_but_the_other_heads_learns():
    updates, _ = UPDATE(ONES, space.freeze(OWNED).init(PARAMS))
    np.testing.assert_array_equal(updates["heads"]["kernel"].max((1, 2)), [1, 0, 0])
    updates["heads"] = ONES["heads"]
    chex.assert_trees_all_equal(updates, ONES)


WRAPPED = {
    "momentum and weight decay": lambda: optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9), space.freeze(OWNED)
    ),
    "adam": lambda: optax.chain(optax.adamw(0.1), space.freeze(OWNED)),
    "every second step": lambda: optax.MultiSteps(optax.chain(optax.sgd(0.1), space.freeze(OWNED)), 2),
    "rate in the state": lambda: optax.chain(
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), space.freeze(OWNED)
    ),
    "without the biases": lambda: optax.chain(
        optax.sgd(0.1),
        optax.masked(space.freeze(OWNED), lambda p: trees.map_with_path(lambda path, _: path.endswith("kernel"), p)),
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_frozen_stands_still_bit_for_bit_in_any_chain(name):
    """Moments from before the freezing push, weight decay pulls; the limits are set midway, without a compilation."""
    chain, params = WRAPPED[name](), PARAMS
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(chain.update, 1))
    state = chain.init(params)
    for step in range(12):
        if step == 6:
            before, state = params, optax.tree.set(state, FreezeState=STATE)
        updates, state = update(jax.tree.map(jnp.add, params, ONES), state, params)
        params = optax.apply_updates(params, updates)
    still = jax.tree.map(lambda a, b: np.asarray(a == b), before, params)
    np.testing.assert_array_equal(still["dense0"]["kernel"].all(0), (np.arange(12) < 3) | (np.arange(12) >= 7))
    assert not still["dense1"]["kernel"].any()
    np.testing.assert_array_equal(still["heads"]["kernel"].all((1, 2)), [True, False, True])
    biases = (np.arange(12) < 3) | (np.arange(12) >= 7)
    np.testing.assert_array_equal(still["dense0"]["bias"], biases & (name != "without the biases"))


def test_the_transform_runs_over_seeds_and_gives_zero_for_zero():
    blank, other = jax.tree.map(np.zeros_like, PARAMS), space.freeze(OWNED).init(PARAMS)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), (ONES, STATE), (blank, other), (ONES, other))
    together, _ = jax.jit(jax.vmap(space.freeze(OWNED).update))(*both)
    alone = [UPDATE(ONES, STATE)[0], blank, UPDATE(ONES, other)[0]]
    chex.assert_trees_all_equal(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


def test_commit_writes_the_widths_and_starts_the_rest_anew():
    start = {path: leaf for path, leaf in trees.flatten(PARAMS).items() if not path.startswith("heads")}
    state = space.SpaceState({path: jnp.zeros(3, jnp.int32) for path in OWNED.layers}, start)
    widths = {"dense0/kernel": 4, "dense1/kernel": 8}
    commit = jax.jit(functools.partial(space.commit, OWNED), static_argnames="task")
    state, params = commit(state, ONES, widths=widths, task=1)
    np.testing.assert_array_equal(state.widths["dense0/kernel"], [0, 4, 0])
    np.testing.assert_array_equal(params["dense0"]["kernel"][:, :4], 1)
    np.testing.assert_array_equal(params["dense0"]["kernel"][:, 4:], PARAMS["dense0"]["kernel"][:, 4:])
    np.testing.assert_array_equal(params["dense1"]["kernel"], 1)
    np.testing.assert_array_equal(params["heads"]["kernel"], 1)
    effective = jax.jit(functools.partial(space.effective, OWNED))
    chex.assert_trees_all_equal(effective(params, state, 0), params)  # not learned: all channels
    narrow = effective(params, state, 1)
    assert (np.asarray(narrow["dense0"]["kernel"]) != 0).any(0).sum() == 4


# --- the learner

SEQUENCE = [DATA, *tasks.permuted(jax.random.key(3), TURNED, tasks=2)[1:], TURNED]
MOMENTUM = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.05, momentum=0.9))


class Run(NamedTuple):
    method: protocol.Learner
    found: protocol.Learned
    seen: list  # after each task: the logits of the tasks so far, and the state
    warned: list


@functools.cache
def learned(name):
    """A sequence, learned once for all tests of a process."""
    if name == "mlp":
        model, table, sequence, length = MODEL, TABLE, SEQUENCE, 60
    else:
        trunk = nn.build("resnet20", classes=0, blocks=(1, 1), width=2, norm="minibatch")
        model, sequence, length = nn.multi_head(trunk, tasks=2, classes=3), SEQUENCE[:2], 4
        table = table_of(model)
    method = space.space_learner(
        model, MOMENTUM, table, tasks=len(sequence), steps=length, batch=10, v=0.9, samples=90
    )  # fmt: skip
    seen = []

    def end(key, state, task, t):
        state = method.end(key, state, task, t)
        seen.append(([method.predict(state, other.test_x, i) for i, other in enumerate(sequence[: t + 1])], state))
        return state

    watched = method._replace(end=end)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        found = protocol.run(KEY, watched, sequence, classes=3, length=length, batch=10)
    return Run(method, found, seen, [str(w.message) for w in warned if w.category is UserWarning])


@pytest.mark.parametrize("name", ["mlp", "residual, minibatch"])
def test_logits_of_learned_tasks_are_bit_identical_for_ever(name):
    method, found, seen, _ = learned(name)
    for t, (at_commit, _) in enumerate(seen):
        for later, _ in seen[t + 1 :]:
            np.testing.assert_array_equal(later[t], at_commit[t])
    assert protocol.measures(found.matrix).backward_transfer == 0
    kept, settings = found.state.kept, method.end.__self__
    for path, own in kept.widths.items():
        assert own[0] >= 1
        assert (np.diff(own) >= 0).all()
        assert own[-1] <= settings.owned.layers[path].d_out
    params = jax.device_get(trees.flatten(found.state.variables["params"]))
    free = jax.jit(lambda params, stop: space.space_masks(settings.owned, params, stop=stop))
    masks = jax.device_get(trees.flatten(free(found.state.variables["params"], space.core(kept))))
    for path, initial in kept.initial.items():
        np.testing.assert_array_equal(params[path][~masks[path]], np.asarray(initial)[~masks[path]])
    tasks_floats = sum(own.size for own in kept.widths.values())
    assert method.held(found.state)["floats"] == tasks_floats + sum(a.size for a in kept.initial.values())


def test_each_task_is_learned_and_nothing_is_warned_of():
    _, found, _, warned = learned("mlp")
    assert (np.diagonal(found.matrix[1:]) > np.diagonal(found.matrix)).all()
    assert warned == []


def test_a_full_layer_is_named_and_the_head_goes_on():
    method, found, *_ = learned("mlp")
    full = {path: jnp.array([1, 1, 0], jnp.int32) * layer.d_out for path, layer in OWNED.layers.items()}
    state = found.state._replace(kept=found.state.kept._replace(widths=full))
    with pytest.warns(UserWarning, match="full: dense0/kernel, dense1/kernel; no channel is left for task 2"):
        state = method.begin(KEY, state, TURNED, 2)
    learned_on = training.repeat(  # with the shapes of the sequence: compiled already
        KEY, method.step, state, [(DATA.x, DATA.y)], steps=60, batch=10, constants=jnp.int32(2), params=PARAMS
    )  # fmt: skip
    accuracy = [np.mean(method.predict(s, DATA.test_x, 2).argmax(-1) == DATA.test_y) for s in (state, learned_on)]
    assert accuracy[1] > accuracy[0] + 0.3
    before, after = state.variables["params"], learned_on.variables["params"]
    chex.assert_trees_all_equal(after | {"heads": 0}, before | {"heads": 0})


def test_an_interrupted_sequence_continues_bit_for_bit(tmp_path):
    method, whole, *_ = learned("mlp")

    def stops(key, state, task, t):
        if t == 2:
            raise KeyboardInterrupt
        return method.begin(key, state, task, t)

    with pytest.raises(KeyboardInterrupt):
        protocol.run(KEY, method._replace(begin=stops), SEQUENCE, **SHORT, directory=tmp_path)
    resumed = protocol.run(KEY, method, SEQUENCE, **SHORT, directory=tmp_path)
    chex.assert_trees_all_equal(resumed, whole)


def test_the_settings_count_channels_on_their_first_samples():
    """A part of a learner on its own: no sequence is run."""
    settings = space.space_learner(MODEL, SGD, TABLE, tasks=3, steps=1, batch=1, v=0.9, samples=4).end.__self__
    empty = space.SpaceState(dict.fromkeys(OWNED.layers, jnp.zeros(3, jnp.int32)), {})
    with pytest.warns(UserWarning, match="4 rows cannot count"):
        found = settings.counted(protocol.State({"params": PARAMS, "batch_stats": {}}, {}, empty), DATA)
    x = DATA.x[:4].reshape(4, 6)
    for name in ("dense0", "dense1"):
        outputs = np.asarray(x @ PARAMS[name]["kernel"], np.float64)
        energies = np.linalg.svd(outputs - outputs.mean(0), compute_uv=False) ** 2
        assert found[f"{name}/kernel"] == max(1, (np.cumsum(energies) / energies.sum() < 0.9).sum())
        x = np.maximum(outputs + PARAMS[name]["bias"][None], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"v": 0.0}, r"v is the share of variance to explain, in \(0, 1\]; got 0.0"),
        ({"v": 1.5}, "got 1.5"),
        ({"v": float("nan")}, "got nan"),
        ({"v": {"dense0/kernel": 0.9, "dense1/kernel": -1.0}}, "got -1.0"),
        ({"v": {"dense0/kernel": 0.9}}, "v is for the layers dense0/kernel, dense1/kernel; got it for dense0/kernel"),
        ({"samples": 0}, "at least 1; got 3, 60, 10, 0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        space.space_learner(MODEL, SGD, TABLE, tasks=3, steps=60, batch=10, **options)


def test_wrong_networks_and_tasks_are_refused():
    with pytest.raises(ValueError, match="no channel owns 'other/kernel'"):
        space.freeze(OWNED).init(PARAMS | {"other": {"kernel": jnp.ones((2, 2))}})
    method, found, *_ = learned("mlp")
    settings = method.end.__self__
    with pytest.raises(ValueError, match="heads are stacked by task: 'heads/kernel' has 3 for 4 tasks"):
        settings._replace(tasks=4).init(KEY, DATA.x)
    for task in (3, -1):
        with pytest.raises(ValueError, match=f"tasks count from 0 to 2; got {task}"):
            method.predict(found.state, DATA.x, task)


def test_running_statistics_are_refused():
    model = nn.multi_head(nn.build("mlp", classes=0, widths=(12, 8), norm="batch"), tasks=3, classes=3)
    fresh = drawn(model)  # traced with its statistics closed over, they are not among the leaves
    hidden = capture.layers(lambda params, x: model.apply(fresh | {"params": params}, x), fresh["params"], IMAGE)
    with pytest.raises(ValueError, match="running statistics change with every task"):
        space.space_learner(model, SGD, hidden, tasks=3, steps=1, batch=1).init(KEY, DATA.x)
