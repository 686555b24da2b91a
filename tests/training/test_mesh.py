"""One network trained over a mesh is that of one device, with its batch statistics and random changes of inputs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from subspace_jax import checkpoint, nn, training

FLOAT64 = 1e-10  # sums over a batch in another order, 20 steps
N, BATCH, EPOCHS = 40, 8, 4  # five steps an epoch
X = np.random.default_rng(0).normal(size=(N, 8, 8, 1)) * 3
Y = (X.mean((1, 2, 3)) > 0).astype(np.int32)
NETWORKS = {
    "mlp": {"widths": (8,), "norm": "batch"},
    "lenet5": {"filters": (2, 2), "widths": (4,), "norm": "batch"},
}


def jittered(key, x):
    return x + jax.random.normal(key, x.shape, x.dtype)


@functools.cache
def recipe(name):
    """The network, and an epoch of it: one program for dense layers, on a CPU a program a step for convolutions."""
    model = nn.build(name, classes=2, dtype="float64", **NETWORKS[name])
    tx = training.optimizer(training.Recipe(lr=0.05, momentum=0.9), EPOCHS * N // BATCH)
    return model, tx, training.train_epoch(model, tx, batch=BATCH, prepare=jittered)


def start(name):
    model, tx, _ = recipe(name)
    state = jax.jit(training.create, static_argnums=(1, 2))(jax.random.key(1), model, tx, X[:1])
    wide = lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf  # noqa: E731
    return jax.tree.map(wide, state)


def mesh(devices):
    return devices and Mesh(np.array(jax.devices()[:devices]), ("data",))


@functools.cache
def alone(name):
    return jax.device_get(training.fit(recipe(name)[2], start(name), (X, Y), epochs=EPOCHS)[0])


def assert_same(state, name):
    for part in ("params", "batch_stats", "opt_state"):
        expected = getattr(alone(name), part)
        assert part == "opt_state" or jax.tree.leaves(expected)[0].dtype == np.float64
        chex.assert_trees_all_close(jax.device_get(getattr(state, part)), expected, rtol=0, atol=FLOAT64)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_eight_devices_train_the_network_of_one(name):
    before = start(name)
    change = {layer: np.abs(leaves["kernel"] - alone(name).params[layer]["kernel"]).max()
              for layer, leaves in before.params.items() if "kernel" in leaves}  # fmt: skip
    assert min(change.values()) > 1e-3, change
    epoch_fn, devices = recipe(name)[2], []

    def watched(state, x, y):
        devices.append(len(jax.tree.leaves(state.params)[0].devices()))
        return epoch_fn(state, x, y)

    state, carries = training.fit(watched, before, (X, Y), epochs=EPOCHS, mesh=mesh(8))
    assert_same(state, name)
    assert devices == [8] * EPOCHS
    assert not np.isnan(carries["metrics"]["loss"]).any()


def test_hooks_score_the_network_and_compute_with_its_state():
    model, _, epoch_fn = recipe("mlp")
    seen = []

    def update(carry, state, epoch):
        seen.append(training.predict(model.apply, training.variables(state), X))
        return carry + state.step  # both on one device

    hooks = {"logits": training.Hook(np.zeros(()), update, 2)}
    _, carries = training.fit(epoch_fn, start("mlp"), (X, Y), epochs=EPOCHS, hooks=hooks, mesh=mesh(4))
    assert float(carries["logits"]) == (2 + 4) * N // BATCH
    expected = training.predict(model.apply, training.variables(alone("mlp")), X)
    np.testing.assert_allclose(seen[-1], expected, rtol=0, atol=1e-8)


def test_a_stopped_run_goes_on_over_other_devices(tmp_path):
    class Stopped(Exception): ...

    def stop(epoch_fn, after):
        def run(state, x, y):
            if int(state.step) == after * (N // BATCH):
                raise Stopped
            return epoch_fn(state, x, y)

        return run

    def run(epoch_fn, devices):
        return checkpoint.resumable_fit(
            tmp_path / "c", epoch_fn, start("mlp"), (X, Y), epochs=EPOCHS, config={}, save_every=1, mesh=mesh(devices)
        )[0]

    for after, devices in ((1, 2), (3, 8)):
        with pytest.raises(Stopped):
            run(stop(recipe("mlp")[2], after), devices)
    assert_same(run(recipe("mlp")[2], None), "mlp")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 8 does not divide over 3 devices: choose a multiple"):
        training.fit(recipe("mlp")[2], start("mlp"), (X, Y), epochs=1, mesh=mesh(3))
