"""Networks of other libraries, in the development group `models`: skipped where a library is absent.

uv sync --group models && uv run pytest tests/models/test_packages.py
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import capture, subspace
from tests.core.grams import draw

N = 6
LOSSLESS = 1e-4


def haiku():
    hk = pytest.importorskip("haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(jax.nn.relu(hk.Linear(9, name="first")(x)))))
    x = draw(0, N, 5)
    return net.apply, net.init(jax.random.key(0), x), x, ["first/w", "linear/w"]


def haiku_stack():
    """Three layers with one parameter, scanned."""
    hk = pytest.importorskip("haiku")

    def net(x):
        return hk.Linear(3)(hk.experimental.layer_stack(3)(lambda x: jnp.tanh(hk.Linear(8, name="inner")(x)))(x))

    net, x = hk.without_apply_rng(hk.transform(net)), draw(0, N, 8)
    return net.apply, net.init(jax.random.key(0), x), x, ["__layer_stack_no_per_layer/inner/w", "linear/w"]


def haiku_recurrent():
    hk = pytest.importorskip("haiku")
    net = lambda x: hk.dynamic_unroll(hk.GRU(5), x, hk.GRU(5).initial_state(N))[0].sum(0)  # noqa: E731
    net, x = hk.without_apply_rng(hk.transform(net)), draw(0, 3, N, 4)
    return net.apply, net.init(jax.random.key(0), x), x, None


def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Dense(9, "relu", name="first"), keras.layers.Dense(3, name="second")])
    x = draw(0, N, 5)
    model.build(x.shape)
    names = [variable.path.split("/", 1)[1] for variable in model.trainable_variables]

    def fn(weights, x):
        return model.stateless_call(weights, [v.value for v in model.non_trainable_variables], x)[0]

    params = dict(zip(names, (v.value for v in model.trainable_variables), strict=True))
    return capture.named(fn, names), params, x, ["first/kernel", "second/kernel"]


def keras_adapter():
    """`enable_lora` keeps the kernel and trains two factors beside it."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    layer, x = keras.layers.Dense(4, name="dense"), draw(0, N, 9)
    layer.build(x.shape)
    layer.enable_lora(2)
    variables = [*layer.trainable_variables, *layer.non_trainable_variables]
    names = [variable.path.rsplit("/", 1)[1] for variable in variables]
    params = {name: draw(i, *variables[i].shape) / 3 for i, name in enumerate(names)}
    count = len(layer.trainable_variables)
    fn = lambda weights, x: layer.stateless_call(weights[:count], weights[count:], x)[0]  # noqa: E731
    return capture.named(fn, names), params, x, None


def equimo():
    """A small vision transformer; an `eqx.Module` with its functions and flags as parameters."""
    models = pytest.importorskip("equimo.vision.models")
    eqx = pytest.importorskip("equinox")
    model = models.VisionTransformer(
        img_size=8, in_channels=3, dim=12, patch_size=4, num_heads=[2], depths=[1], num_classes=3, key=jax.random.key(0)
    )
    model = eqx.nn.inference_mode(model)
    fn = lambda model, x: jax.vmap(lambda image: model(image, key=jax.random.key(0)))(x)  # noqa: E731
    return fn, model, draw(0, 2, 3, 8, 8), None


def jraph():
    """Messages along the edges of a graph, by dense layers in plain JAX."""
    jraph = pytest.importorskip("jraph")
    x = draw(0, N, 7)
    graph = jraph.GraphsTuple(
        nodes=None, edges=None, senders=jnp.array([0, 1, 2, 3]), receivers=jnp.array([1, 2, 3, 0]),
        n_node=jnp.array([N]), n_edge=jnp.array([4]), globals=None,
    )  # fmt: skip

    def fn(params, x):
        net = jraph.GraphConvolution(lambda nodes: jax.nn.relu(nodes @ params["update"]), add_self_edges=True)
        return net(graph._replace(nodes=x)).nodes @ params["head"]

    return fn, {"update": draw(1, 7, 9) / 3, "head": draw(2, 9, 3) / 3}, x, ["head", "update"]


@pytest.fixture(autouse=True)
def as_users_run(unchecked):
    """These libraries add biases of fewer axes."""
    with jax.numpy_rank_promotion("allow"):
        yield


MADE = {fn.__name__: fn for fn in (haiku, haiku_stack, haiku_recurrent, keras, keras_adapter, equimo, jraph)}


@pytest.mark.parametrize("name", MADE)
def test_layers_of_other_libraries_are_found_and_edited_without_loss(name):
    fn, params, x, expected = MADE[name]()
    table = capture.layers(fn, params, x)
    if expected is not None:
        assert sorted(table) == sorted(expected)
    out = fn(params, x)
    found, own = capture.observe(fn, params, x)
    np.testing.assert_allclose(found, out, atol=1e-6)
    seen = capture.collect(fn, params, [x], dtype="float64")
    edited = {}
    for path, kernel in capture.kernels(table, params).items():
        np.testing.assert_allclose(own[path].gram, seen[path].gram, atol=1e-4 * np.abs(seen[path].gram).max())
        space = subspace.from_gram(seen[path].gram, energy=1)
        edited[path] = subspace.projector(space) @ np.asarray(kernel, np.float64)
    new = capture.write_kernels(table, params, edited)
    np.testing.assert_allclose(fn(new, x), out, atol=LOSSLESS)


def flow(adjoint):
    """Four steps of Euler through a learned field, then a head."""
    diffrax = pytest.importorskip("diffrax")

    def fn(params, x):
        term = diffrax.ODETerm(lambda t, y, p: jnp.tanh(y @ p["field"]))
        options = {"args": params, "adjoint": getattr(diffrax, adjoint)(), "max_steps": 6}
        return diffrax.diffeqsolve(term, diffrax.Euler(), 0.0, 1.0, 0.25, x, **options).ys[0] @ params["head"]

    return fn, {"field": draw(0, 4, 4), "head": draw(1, 4, 3)}, draw(2, N, 4)


@pytest.mark.parametrize("adjoint", ["DirectAdjoint", "RecursiveCheckpointAdjoint"])
def test_a_solver_is_followed(adjoint):
    """Of bounded steps, a scan, and of any number, a while."""
    fn, params, x = flow(adjoint)
    rows, y = [], np.asarray(x)
    for _ in range(4):
        rows.append(y)
        y = y + 0.25 * np.tanh(y @ np.asarray(params["field"]))
    found = capture.collect(fn, params, [x], dtype="float64")
    rows = np.concatenate(rows)
    np.testing.assert_allclose(found["field"].gram, rows.T @ rows, atol=1e-3)
    assert float(found["field"].count) == len(rows)
    np.testing.assert_allclose(found["head"].gram, y.T @ y, atol=1e-3)
