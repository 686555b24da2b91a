"""A whole run: what it notes, that an interrupted one ends where the whole one does, and where it stops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import checkpoint
from subspace_jax.core import compress, exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import methods, protocol
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, COMM, GRAPHS

STEPS, EVERY = 7, 2
SETS = tuple(np.concatenate([cases.batch(t, np.float32)[k] for t in (0, 1)], 1) for k in (0, 1))
TEST = SETS[0][0], SETS[1][0]
START = jax.tree.map(lambda leaf: leaf[0], cases.variables(np.float32))


def apply(variables, x):
    params = variables["params"]
    return jnp.tanh(x @ params["kernel"] + params["bias"][None]) @ params["head"]


@functools.cache
def method(name="compngc", devices=1, lr=0.1):
    return methods.build(name, cases.loss, comm=Comm(AGENTS, devices), weights=GRAPHS["ring"], lr=lr)


def infinite_at_the_sixth(step):
    return jnp.where(step == 5, jnp.inf, 0.1)


def run(directory=None, *, own=None, comm=COMM, runner=exchange.vmap, data=SETS, start=START, **changed):
    settings = {"apply": apply, "weights": GRAPHS["ring"], "steps": STEPS, "batch": 4, "every": EVERY} | changed
    return protocol.run(
        jax.random.key(0), own or method(), start, data, TEST, comm=comm, runner=runner, directory=directory, **settings
    )


@functools.cache
def whole():
    return run()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"seconds"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_every_evaluation_is_noted():
    found = whole()
    np.testing.assert_array_equal(found["step"], [2, 4, 6, 7])
    assert found["accuracy"].shape == found["gossiped"].shape == (4, AGENTS)
    assert found["loss"].shape == found["consensus"].shape == found["distance"].shape == (4,)
    entries = sum(leaf.size for leaf in jax.tree.leaves(START))
    np.testing.assert_array_equal(found["bytes_model"], 2 * 4 * entries * found["step"])
    signs = compress.nbytes(compress.sign().encode(jax.random.key(0), START["params"]))
    np.testing.assert_array_equal(found["bytes_cross"], 2 * signs * found["step"])
    assert found["final/params/kernel"].shape == (AGENTS, 5, 4)
    assert found["seconds"] > 0
    assert found["loss"][-1] < found["loss"][0]


@pytest.mark.parametrize(("save_every", "stop"), [(1, 1), (2, 3)])
def test_a_run_that_was_killed_ends_where_the_whole_one_does(tmp_path, monkeypatch, save_every, stop):
    """Killed at its evaluation number `stop`: what was learnt since the last checkpoint is learnt again."""
    note = protocol._note

    def killed(history, e, *rest):
        if e == stop:
            raise KeyboardInterrupt
        note(history, e, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, save_every=save_every)
    with checkpoint.manager(tmp_path) as folder:
        assert folder.latest_step() == stop // save_every * save_every
    assert_same(run(tmp_path, save_every=save_every), whole())
    assert_same(run(tmp_path, save_every=save_every), whole())  # nothing is left to do


def test_a_run_goes_on_from_the_state_that_another_left():
    """As the whole run, by the same key; what was sent is counted anew."""
    first = run(steps=4, final=protocol.PARTS)
    second = run(start=protocol.state_of(first, method(), START, comm=COMM), steps=3)
    np.testing.assert_array_equal(second["step"], [6, 7])
    for name in ("final/params/kernel", "final/params/head"):
        np.testing.assert_array_equal(second[name], whole()[name])
    np.testing.assert_array_equal(second["bytes_model"][-1] + first["bytes_model"][-1], whole()["bytes_model"][-1])
    assert {name.split("/")[1] for name in first if name.startswith("final/")} == {"params", "memory"}


def test_what_was_saved_is_read_over_other_devices(tmp_path):
    there = run(tmp_path)
    assert_same(run(tmp_path, own=method(devices=2), comm=Comm(AGENTS, 2), runner=exchange.shard_map), there)


def test_parameters_that_are_no_numbers_stop_the_run_at_their_step(tmp_path):
    where = r"agents: step 6, at a loss of \S+, made agent 0 and 7 more NaN or infinite; take a smaller learning rate; "
    with pytest.raises(ValueError, match=where + r"the checkpoint of step 4 is kept in /"):
        run(tmp_path, own=method("d_psgd", lr=infinite_at_the_sixth))
    with checkpoint.manager(tmp_path) as folder:
        assert folder.latest_step() == 2


def test_a_run_that_saves_nothing_says_so():
    with pytest.raises(ValueError, match=r"step 6, .* made agent 0 .*; nothing was saved\."):
        run(own=method("d_psgd", lr=infinite_at_the_sixth))


def test_data_that_are_no_numbers_are_refused():
    x = SETS[0].copy()
    x[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"x of the agents must be finite; got nan at position \(3, 1, 2\)"):
        run(data=(x, SETS[1]))


@pytest.mark.parametrize("name", ["steps", "batch", "every", "save_every"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is a number of at least 1; got 0"):
        run(**{name: 0})
