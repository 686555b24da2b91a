"""Federated averaging against the same rounds in NumPy, its compressed forms, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn
from subspace_jax.core import compress, exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.federated import fedavg
from tests.federated import cases

COMM = Comm(cases.CLIENTS)
SEEDS = st.integers(0, 2**31 - 1)
KEY = jax.random.key(0)
PLAIN = fedavg.fedavg(cases.LINEAR, comm=COMM, lr=0.5)
SIGN = fedavg.every(compress.sign())


def by_hand(params, batch, lr, server_lr=1.0):
    """One round in float64, and the update of every client."""
    x, y = batch
    updates = []
    for client in range(cases.CLIENTS):
        own = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
        for step in range(x.shape[1]):
            soft = np.eye(cases.CLASSES)[y[client, step]]
            grads = cases.linear_gradient(own, x[client, step], soft, np.full(cases.ROWS, 1 / cases.ROWS))
            own = {name: own[name] - lr * grads[name] for name in own}
        updates.append({name: np.asarray(params[name], np.float64) - own[name] for name in own})
    mean = {name: np.mean([update[name] for update in updates], axis=0) for name in params}
    return {name: np.asarray(params[name], np.float64) - server_lr * mean[name] for name in params}, updates


def close(tree, expected, client=slice(None)):
    for name, leaf in expected.items():
        np.testing.assert_allclose(
            np.asarray(tree[name])[client], np.broadcast_to(leaf, tree[name].shape)[client], atol=cases.FLOAT32
        )


@given(SEEDS)
def test_rounds_are_those_of_numpy_and_all_clients_hold_the_same_weights(seed):
    state, params = cases.started(PLAIN, seed), cases.draw(seed)
    for k in range(2):
        state, info = cases.rounds(PLAIN, COMM)(KEY, state, cases.batches(seed + k))
        params, _ = by_hand(params, cases.batches(seed + k), 0.5)
        close(state.params, params)
    assert state.round.tolist() == [2] * cases.CLIENTS
    np.testing.assert_allclose(info.cosine, 1, atol=cases.FLOAT32)
    assert set(np.asarray(info.bytes_up)) == set(np.asarray(info.bytes_down)) == {4 * 18}
    assert not info.whole.any()


def test_one_batch_a_round_is_a_step_on_the_batches_of_all():
    method = fedavg.fedavg(cases.LINEAR, comm=COMM, lr=0.25, server_lr=2.0)
    x, y = cases.batches(3, steps=1)
    state, info = cases.rounds(method, COMM)(KEY, cases.started(method), (x, y))
    rows = cases.CLIENTS * cases.ROWS
    soft, params = np.eye(cases.CLASSES)[y.reshape(-1)], cases.draw(0)
    grads = cases.linear_gradient(params, x.reshape(rows, -1), soft, np.full(rows, 1 / rows))
    close(state.params, {name: np.asarray(params[name]) - 0.5 * grads[name] for name in grads})
    p = cases.softmax(x[1, 0] @ np.asarray(params["kernel"]) + np.asarray(params["bias"]))
    np.testing.assert_allclose(info.loss[1], -np.log(p[np.arange(cases.ROWS), y[1, 0]]).mean(), rtol=cases.FLOAT32)


def test_what_a_compressor_lost_is_remembered_and_what_was_sent_is_averaged():
    method = fedavg.fedavg(cases.LINEAR, comm=COMM, lr=0.5, uplink=SIGN, error_feedback=True)
    state, wanted, sent = cases.started(method), 0.0, 0.0
    for k in range(3):
        before = state
        params = jax.tree.map(lambda leaf: leaf[0], state.params)
        state, info = cases.rounds(method, COMM)(KEY, state, cases.batches(k))
        _, updates = by_hand(params, cases.batches(k), 0.5)
        wanted = wanted + np.mean([update["kernel"] for update in updates], axis=0)
        sent = sent + np.asarray(before.params["kernel"] - state.params["kernel"])[0]
    lost = np.asarray(state.memory["kernel"]).mean(axis=0)
    np.testing.assert_allclose(sent + lost, wanted, atol=10 * cases.FLOAT32)
    assert np.abs(lost).max() > 0.01
    assert set(np.asarray(info.bytes_up)) == {2 + 4 + 1 + 4}  # 15 and 3 signs, a scale each
    assert ((info.cosine > 0) & (info.cosine < 1)).all()


def test_a_client_whose_message_is_far_off_sends_its_update_and_the_bytes_count():
    settings = {"comm": COMM, "lr": 0.5, "uplink": SIGN, "error_feedback": True}
    never, always = (fedavg.fedavg(cases.LINEAR, **settings, least_cosine=least) for least in (-1.0, 1.0))
    cosines = cases.rounds(never, COMM)(KEY, cases.started(never), cases.batches(0))[1].cosine
    state, info = cases.rounds(always, COMM)(KEY, cases.started(always), cases.batches(0))
    close(state.params, by_hand(cases.draw(0), cases.batches(0), 0.5)[0])
    assert info.whole.all()
    assert set(np.asarray(info.bytes_up)) == {72}
    assert not np.asarray(state.memory["kernel"]).any()
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, cases.batches(0)[0]), cases.batches(0)[1]
    assert cases.rounds(never, COMM)(KEY, cases.started(never), broken)[1].whole.all()
    some = fedavg.fedavg(cases.LINEAR, **settings, least_cosine=float(np.median(cosines)))
    _, info = cases.rounds(some, COMM)(KEY, cases.started(some), cases.batches(0))
    np.testing.assert_array_equal(info.bytes_up, np.where(info.whole, 72, 11))
    assert 0 < info.whole.sum() < cases.CLIENTS


@pytest.mark.parametrize(("devices", "loop"), [(1, "map"), (2, "vmap"), (4, "vmap")])
def test_clients_in_turn_or_on_other_devices_end_at_the_same_weights(devices, loop):
    settings = {"lr": 0.5, "uplink": fedavg.every(compress.as_vector(compress.top_k(0.5)))}
    one = fedavg.fedavg(cases.LINEAR, comm=COMM, **settings)
    there = Comm(cases.CLIENTS, devices)
    other = fedavg.fedavg(cases.LINEAR, comm=there, **settings, loop=loop)
    runner = exchange.vmap if devices == 1 else exchange.shard_map
    expected, _ = cases.rounds(one, COMM)(KEY, cases.started(one), cases.batches(1))
    state = exchange.place(cases.started(other), there)
    state, _ = cases.rounds(other, there, runner)(KEY, state, exchange.place(cases.batches(1), there))
    close(exchange.fetch(state.params), jax.tree.map(np.asarray, expected.params))


def test_one_vector_of_all_leaves():
    """The largest entries wherever they are: of three here the two of the second leaf."""
    tree = {"a": jnp.array([[0.1, 3.0]]), "b": jnp.array([-4.0, 5.0])}
    compressor = compress.as_vector(compress.top_k(0.5))
    wire = compressor.encode(KEY, tree)
    arrived = compressor.decode(wire, jax.eval_shape(lambda: tree))
    assert compress.nbytes(wire) == 2 * 8
    np.testing.assert_array_equal(arrived["a"], [[0, 0]])
    np.testing.assert_array_equal(arrived["b"], [-4, 5])
    with pytest.raises(ValueError, match="leaf 'b' is int32"):
        compressor.encode(KEY, {"a": jnp.ones(2), "b": jnp.ones(2, jnp.int32)})


@given(SEEDS, st.sampled_from([(7, 3, 4), (10, 2, 5), (3, 4, 5)]))
def test_every_sample_is_drawn_once_before_any_is_drawn_again(seed, numbers):
    samples, steps, batch = numbers
    rows = fedavg.draw(jax.random.key(seed), samples, steps=steps, batch=batch)
    assert rows.shape == (steps, batch)
    flat = rows.reshape(-1)
    for start in range(0, len(flat), samples):
        part = flat[start : start + samples]
        assert len(np.unique(part)) == len(part)
        assert part.max() < samples
    np.testing.assert_array_equal(rows, fedavg.draw(jax.random.key(seed), samples, steps=steps, batch=batch))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.0}, "lr is a step size, above 0 and finite; got 0.0"),
        ({"server_lr": np.inf}, "server_lr is a step size"),
        ({"least_cosine": 1.5}, r"least_cosine is a cosine, in \[-1, 1\]; got 1.5"),
        ({"loop": "scan"}, 'loop is "vmap" or "map"; got \'scan\''),
    ],
)
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        fedavg.fedavg(cases.LINEAR, **({"comm": COMM, "lr": 0.1} | changed))


def test_running_statistics_are_refused():
    variables = nn.build("cnn2", norm="batch", widths=[2, 2], dense=[2]).init(KEY, np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match=r'keeps running statistics.*norm="evonorm"'):
        PLAIN.init(None, variables)
    with pytest.raises(ValueError, match="samples, steps and batch are at least 1; got 0, 1 and 1"):
        fedavg.draw(KEY, 0, steps=1, batch=1)
