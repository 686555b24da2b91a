"""The loop over steps and the judgement, against doing both by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import exchange, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import gossip, state, train
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, COMM, GRAPHS

KEY = jax.random.key(3)


@functools.cache
def setup(comm=COMM):
    method = gossip.d_psgd(cases.loss, comm=comm, weights=GRAPHS["ring"], lr=0.1)
    start = jax.tree.map(lambda leaf: leaf[0], cases.variables(np.float32))
    sets = tuple(np.concatenate([cases.batch(t, np.float32)[k] for t in (0, 1)], 1) for k in (0, 1))
    return method, train.stacked(jax.random.key(0), method, comm, start), sets


@functools.cache
def trainer(comm=COMM, runner=exchange.vmap, prepare=None):
    return train.trainer(setup(comm)[0], comm=comm, runner=runner, batch=4, prepare=prepare)


@functools.cache
def whole():
    """Six steps as one program."""
    _, begin, sets = setup()
    return trainer()(KEY, begin, sets, 0, 6)


@functools.cache
def half():
    """The first three."""
    _, begin, sets = setup()
    return trainer()(KEY, begin, sets, 0, 3)


def by(predict):
    """apply of a classifier that looks at the bias alone."""
    return lambda variables, x: jax.nn.one_hot(predict(variables["params"]["bias"], x).astype(int), 3)


def test_a_run_cut_in_parts_is_the_whole_run():
    state, first = half()
    both, second = trainer()(KEY, state, setup()[2], 3, 3)
    jax.tree.map(np.testing.assert_array_equal, both, whole()[0])
    assert int(both.step[0]) == 6
    assert second.loss.shape == (AGENTS,)
    assert np.mean(second.loss) < np.mean(first.loss)


def test_agents_start_together_or_each_from_its_own():
    method, together, _ = setup()
    own = [jax.tree.map(lambda leaf, i=i: leaf[i], cases.variables(np.float32, apart=1.0)) for i in range(AGENTS)]
    apart = train.stacked(jax.random.key(0), method, COMM, own)
    assert np.ptp(together.params["kernel"], axis=0).max() == 0
    np.testing.assert_array_equal(apart.params["kernel"], cases.variables(np.float32, apart=1.0)["params"]["kernel"])
    with pytest.raises(ValueError, match="8 agents start from as many variables; got 3"):
        train.stacked(jax.random.key(0), method, COMM, own[:3])


def test_samples_do_not_depend_on_the_runner():
    comm = Comm(AGENTS, 2)
    _, begin, sets = setup(comm)
    found, _ = trainer(comm, exchange.shard_map)(KEY, begin, exchange.place(sets, comm), 0, 3)
    cases.assert_close(exchange.fetch(found.params), half()[0].params, atol=1e-5)


def test_step_by_step_is_one_program(monkeypatch):
    _, begin, sets = setup()
    expected = whole()
    monkeypatch.setattr(train, "likes_scan", lambda params: False)
    monkeypatch.setattr(train, "QUEUE", 4)
    cases.assert_close(trainer()(KEY, begin, sets, 0, 6), expected, atol=1e-5)


def test_inputs_are_prepared_on_the_device():
    _, begin, (x, y) = setup()
    prepared = trainer(prepare=lambda key, x: x / 2)
    cases.assert_close(prepared(KEY, begin, (2 * x, y), 0, 3), half(), atol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_data_that_are_no_numbers_are_refused_before_anything_is_traced(wrong):
    method, begin, (x, y) = setup()
    run = train.trainer(method._replace(step=None), comm=COMM, runner=exchange.vmap, batch=4)
    x = x.copy()
    x[2, 5, 1] = wrong
    with pytest.raises(ValueError, match=rf"x of the agents must be finite; got {wrong} at position \(2, 5, 1\)"):
        run(jax.random.key(0), begin, (x, y), 0, 1)


def test_data_are_looked_at_once(monkeypatch):
    _, begin, sets = setup()
    run, seen = train.trainer(setup()[0]._replace(step=None), comm=COMM, runner=exchange.vmap, batch=4), []
    monkeypatch.setattr(train.checks, "check_finite", lambda name, values: seen.append(name))
    for given in (sets, tuple(sets), tuple(map(jnp.asarray, sets))):
        with pytest.raises(TypeError, match="not callable"):  # the step, after the look
            run(KEY, begin, given, 0, 3)
    assert seen == ["x of the agents", "y of the agents"] * 2


def test_agents_their_neighbourhoods_and_their_mean_are_judged():
    _, begin, _ = setup()
    bias = np.arange(AGENTS, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    begin = begin._replace(params=begin.params | {"bias": bias})
    x, y = np.zeros((10, 5), np.float32), np.arange(10) % 3
    apply = by(lambda b, x: jnp.round(jnp.round(b[0] * 1000) / 1000) % 3 + 0 * x[:, 0])  # class: bias, rounded, mod 3
    judge = train.judge(apply, comm=COMM, runner=exchange.vmap, weights=GRAPHS["ring"], chunk=4)
    found = judge(begin, x, y)
    share = np.array([np.mean(y == k) for k in range(3)])
    own = np.arange(AGENTS)
    mixed = np.round(np.round(topology.weights("ring", AGENTS) @ own, 3))
    np.testing.assert_allclose(found.accuracy, share[own % 3])
    np.testing.assert_allclose(found.gossiped, share[mixed.astype(int) % 3])
    assert found.consensus == share[int(np.round(own.mean())) % 3]
    np.testing.assert_allclose(found.distance, 4 * np.var(own), rtol=1e-6)


def test_the_loss_of_a_classifier_is_its_mean_cross_entropy():
    def train_apply(variables, x, key):
        return x @ variables["params"], {"seen": variables["batch_stats"]["seen"] + 1}

    x, y = np.eye(3, dtype=np.float32), np.arange(3)
    value, stats = state.classification(train_apply)(
        np.eye(3, dtype=np.float32), {"seen": 0}, (x, y), jax.random.key(0)
    )
    np.testing.assert_allclose(value, np.log(np.e + 2) - 1, rtol=1e-6)
    assert stats == {"seen": 1}
