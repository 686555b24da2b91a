"""Arrays over eight devices, on meshes with Auto and Explicit axes, give what one device gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from subspace_jax import nn, training
from subspace_jax.continual import gpm, leak
from subspace_jax.core import capture, curvature, exchange, losses, meshes, subspace
from subspace_jax.core.keys import sample_keys
from subspace_jax.memorization import scores
from tests.core.grams import draw

N, D, H, OUT = 16, 8, 8, 3  # one size of Gram
CLOSE = 1e-5
PARAMS = {"first": draw(0, D, H) / 2, "second": draw(1, H, OUT) / 2}
X, Y = draw(2, N, D), np.arange(N, dtype=np.int32) % OUT
KEYS = sample_keys(jax.random.key(0), np.arange(N))
SHIFT = (*range(1, 8), 0)
ROWS = {"first": P(), "second": P()}
TENSOR = {"first": P(None, "m"), "second": P("m", None)}  # columns, then rows, of one device each


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


@pytest.fixture(params=["Auto", "Explicit"])
def mesh(request):
    kind = AxisType[request.param]
    return jax.make_mesh((4, 2), ("b", "m"), axis_types=(kind, kind))


def placed(mesh, specs=ROWS):
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    return {path: put(PARAMS[path], specs[path]) for path in PARAMS}, put(X, P("b"))


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=CLOSE), found, expected)


@functools.cache
def alone():
    """Everything on one device."""
    loss = losses.cross_entropy(network)
    return {
        "moments": capture.collect(network, PARAMS, [X], dtype="float64"),
        "fd_norm": jax.jit(lambda: curvature.fd_norm(KEYS, loss, PARAMS, X, Y, probes=2))(),
        "ggn_exact": jax.jit(lambda: curvature.ggn_exact(network, PARAMS, X))(),
        "score": scores.score(jax.random.key(0), network, PARAMS, X, Y, probes=2),
    }


@pytest.mark.parametrize("batch", ["ordinary", "sharded"])
def test_collect_takes_a_mesh_of_either_kind(mesh, batch):
    params, x = placed(mesh) if batch == "sharded" else (PARAMS, X)
    close(capture.collect(network, params, [x], dtype="float64", mesh=mesh), alone()["moments"])


@pytest.mark.parametrize("context", ["none", "set"])
def test_collect_and_scores_take_sharded_arrays_under_any_mesh(mesh, context):
    params, x = placed(mesh)
    if context == "set":
        with jax.set_mesh(mesh):
            found = capture.collect(network, params, [x], dtype="float64")
            plain = capture.collect(network, PARAMS, [X], dtype="float64")
            score = scores.score(jax.random.key(0), network, PARAMS, X, Y, probes=2)
        close(plain, alone()["moments"])
    else:
        found = capture.collect(network, params, [x], dtype="float64")
        score = scores.score(jax.random.key(0), network, params, x, Y, probes=2)
    close(found, alone()["moments"])
    np.testing.assert_allclose(score, alone()["score"], atol=CLOSE)


@pytest.mark.parametrize("jit", [False, True])
def test_observe_and_curvature_take_sharded_arrays(mesh, jit):
    params, x = placed(mesh)
    loss = losses.cross_entropy(network)

    def together(params, x):
        out, found = capture.observe(network, params, x)
        scores = curvature.ggn_exact(network, params, x), curvature.fd_norm(KEYS, loss, params, x, Y, probes=2)
        return out, found, scores

    out, found, (trace, norm) = (jax.jit(together) if jit else together)(params, x)
    close(out, network(PARAMS, X))
    for path, own in alone()["moments"].items():
        np.testing.assert_allclose(found[path].gram, own.gram, atol=CLOSE)
    close(trace, alone()["ggn_exact"])
    close(norm, alone()["fd_norm"])


def test_products_whose_sharding_is_named_are_observed_and_replaced():
    mesh = jax.make_mesh((4, 2), ("b", "m"))
    params, x = placed(mesh, TENSOR)

    def named(params, x):
        h = jnp.tanh(jnp.dot(x, params["first"], out_sharding=P("b", "m")))
        return jnp.dot(h, params["second"], out_sharding=P("b", None))

    with jax.set_mesh(mesh):
        _, found = capture.observe(named, params, x)
        swapped = capture.replace(named, lambda call, kernel: call.linear(kernel))
        out = swapped(params, {"first": params["first"] / 2}, x)
    close(found, jax.tree.map(np.float32, alone()["moments"]))
    close(out, network(PARAMS | {"first": PARAMS["first"] / 2}, X))


@pytest.mark.parametrize("check", [True, False])
def test_scores_run_inside_shard_map(mesh, check):
    """A part of the samples on each device, the checker of varying values on, as it is by default."""
    over = Mesh(mesh.devices.reshape(-1), ("b",), axis_types=mesh.axis_types[:1])
    loss, (copied, split) = losses.cross_entropy(network), (P(), P("b"))

    def local(params, keys, x, y):
        moments = jax.lax.psum(capture.observe(network, params, x)[1]["second"].gram, "b")
        norm = curvature.fd_norm(keys, loss, params, x, y, probes=2)
        return norm, curvature.ggn_exact(network, params, x), moments

    mapped = jax.shard_map(
        local, mesh=over, in_specs=(copied, split, split, split), out_specs=(split, split, copied), check_vma=check
    )
    put = lambda tree, spec: jax.device_put(tree, NamedSharding(over, spec))  # noqa: E731
    norm, trace, gram = jax.jit(mapped)(put(PARAMS, copied), *put((KEYS, X, jnp.asarray(Y)), split))
    close(norm, alone()["fd_norm"])
    close(trace, alone()["ggn_exact"])
    close(gram, np.asarray(alone()["moments"]["second"].gram, np.float32))


def test_gpm_protects_kernels_that_are_split_over_devices(mesh):
    params, _ = placed(mesh, TENSOR)
    table = capture.layers(network, PARAMS, X)
    tx = optax.chain(optax.sgd(1.0), gpm.gpm(table))
    state = tx.init(PARAMS)
    bases = gpm.update(optax.tree.get(state, "bases"), alone()["moments"], energy=0.8)
    state = optax.tree.set(state, bases=bases)
    grads = {"first": draw(5, D, H), "second": draw(6, H, OUT)}
    step = jax.jit(lambda grads, params: tx.update(grads, state, params)[0])
    expected = step(grads, PARAMS)
    split = {path: jax.device_put(grads[path], params[path].sharding) for path in grads}
    moved = step(split, params)
    close(moved, expected)
    assert all(moved[path].sharding.is_equivalent_to(params[path].sharding, 2) for path in moved)
    assert max(leak.leak(jax.random.key(0), table, tx, params, state).values()) < leak.LIMIT
    new = optax.apply_updates(params, moved)
    projected = {p: subspace.projector(bases[p]) @ (np.asarray(new[p]) - np.asarray(PARAMS[p])) for p in moved}
    close(projected, jax.tree.map(np.zeros_like, projected))


def test_edits_keep_the_sharding_of_their_leaves(mesh):
    params, _ = placed(mesh, TENSOR)
    table = capture.layers(network, PARAMS, X)
    halved = {path: np.asarray(kernel) / 2 for path, kernel in capture.kernels(table, params).items()}
    edited = capture.write_kernels(table, params, halved)
    close(edited, jax.tree.map(lambda w: w / 2, PARAMS))
    assert all(edited[path].sharding.is_equivalent_to(params[path].sharding, 2) for path in edited)


def test_models_are_trained_side_by_side_under_any_mesh(mesh):
    network, tx = nn.build("mlp", widths=[H], classes=OUT), optax.sgd(0.1)

    def states():
        table = np.stack([np.arange(N), np.arange(N)[::-1]] * 2)
        return training.train_many(jax.random.key(0), network, tx, (X, Y), table, epochs=2, batch=8)[0].params

    expected = states()
    with jax.set_mesh(mesh):
        found = states()
        total = sum(leaf.sum() for leaf in jax.tree.leaves(found))  # they are on the mesh of the user
    close(found, expected)
    np.testing.assert_allclose(total, sum(leaf.sum() for leaf in jax.tree.leaves(expected)), rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_agents_exchange_under_any_mesh(mesh, jit):
    values = np.arange(8.0, dtype=np.float32)

    def shifted(devices):
        comm = exchange.spread(8, devices)
        run = exchange.shard_map(lambda a: a + 2 * comm.permute(a, SHIFT), comm)
        return jax.jit(run) if jit else run

    expected = np.asarray(shifted(8)(values))
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(shifted(8)(values), expected)
        if jit:
            with pytest.raises(ValueError, match="over 8 devices nothing can be traced over 4: take 8"):
                shifted(4)(values)
        else:
            np.testing.assert_array_equal(shifted(4)(values), expected)


class Elsewhere:
    """A device of some process."""

    def __init__(self, process_index):
        self.process_index = process_index


@pytest.mark.parametrize(
    ("owners", "rows"), [([[0, 0], [0, 0]], 2), ([[0, 0], [1, 1]], 1), ([[1, 1], [0, 0], [1, 1], [0, 0]], 2)]
)
def test_of_a_mesh_over_processes_each_has_whole_rows(owners, rows):
    devices = np.array([[Elsewhere(owner) for owner in row] for row in owners])
    mesh = Mesh(devices, ("data", "model"))
    assert meshes.several(mesh) == (len({*np.ravel(owners).tolist()}) > 1)
    own = meshes.local(mesh)
    assert own.devices.shape == (rows, 2)
    assert {device.process_index for device in own.devices.flat} == {0}


@pytest.mark.parametrize("owners", [[[0, 1], [0, 1]], [[1, 1], [2, 2]]])
def test_a_mesh_that_splits_another_axis_over_processes_is_refused(owners):
    mesh = Mesh(np.array([[Elsewhere(owner) for owner in row] for row in owners]), ("data", "model"))
    with pytest.raises(ValueError, match="process 0 has 0 of 2 rows to itself: order the devices by process"):
        meshes.local(mesh)
