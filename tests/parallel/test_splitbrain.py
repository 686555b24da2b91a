"""A network over eight devices is the one of a NumPy loop, and moves and holds the bytes that were predicted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from subspace_jax import checkpoint, training
from subspace_jax.core import programs
from subspace_jax.parallel import splitbrain

SEEDS = st.integers(0, 2**31 - 1)
FLOAT32 = 1e-5  # twenty steps, sums in another order
EXACT = 1e-12  # float64, sums of 64 samples in another order
BATCH, IN, CLASSES = 64, 6, 4
PATHS = "dense0", "dense1"
WIDTHS = {False: (16, 8), True: (13, 7)}  # padded: no multiple of the members
CASES = [
    (8, 1, "bk", "pair"), (4, 2, "modulo", "gather"), (2, 4, "bk", "pair"), (2, 4, "b", "pair"),
    (2, 4, "modulo", "pair"), (2, 4, "bk", "gather"), (2, 4, "b", "gather"), (1, 8, "bk", "pair"),
    (1, 8, "modulo", "pair"), (1, 8, "b", "gather"),
]  # fmt: skip


def drawn(seed, widths=WIDTHS[False]):
    rng = np.random.default_rng(seed)
    sizes = IN, 8, *widths, CLASSES
    params = {
        name: {"kernel": rng.normal(size=(a, b)) / math.sqrt(a), "bias": rng.normal(size=b) / 4}
        for name, a, b in zip(("trunk", *PATHS, "head"), sizes[:-1], sizes[1:], strict=True)
    }
    return params, rng.normal(size=(BATCH, IN)), rng.integers(0, CLASSES, BATCH)


def dense(layer, h):
    return h @ layer["kernel"] + layer["bias"][None]


def trunk(params, x):
    return jnp.tanh(dense(params["trunk"], x))


def head(params, h):
    return dense(params["head"], h)


def network(activation=jax.nn.relu):
    return splitbrain.Network(trunk, PATHS, head, activation)


def by_hand(params, x, y):
    """Loss and gradients with ReLU by the chain rule, in NumPy."""
    inputs, names = [x], ("trunk", *PATHS, "head")
    for name in names:
        z = dense(params[name], inputs[-1])
        inputs.append({"trunk": np.tanh(z), "head": z}.get(name, np.maximum(z, 0)))
    logits = inputs.pop()
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    back, grads = (p - np.eye(CLASSES)[y]) / len(y), {}
    for name, h in reversed(list(zip(names, inputs, strict=True))):
        grads[name] = {"kernel": h.T @ back, "bias": back.sum(0)}
        back = (back @ params[name]["kernel"].T) * (1 - h**2 if name == "dense0" else h > 0)
    return -np.log(p[np.arange(len(y)), y]).mean(), grads


@functools.cache
def planned(data, model, layout, padded=False):
    params = drawn(0, WIDTHS[padded])[0]
    return splitbrain.plan(params, PATHS, data=data, model=model, batch=8, rule="size", layout=layout, pad=padded)


@functools.cache
def compiled(data, model, scheme, layout, padded=False, activation=jax.nn.relu):
    """Loss and gradients on a mesh, in float64."""
    plan, mesh = planned(data, model, layout, padded), splitbrain.grid(data, model)
    loss = splitbrain.hybrid_loss(network(activation), plan, mesh, scheme=scheme)
    with jax.enable_x64(True):
        return jax.jit(jax.value_and_grad(loss)).lower(*placed(plan, mesh, *drawn(0, WIDTHS[padded]))).compile()


def placed(plan, mesh, params, x, y):
    over = NamedSharding(mesh, P(("data", "model")))
    return splitbrain.shard_params(plan, mesh, params), jax.device_put(x, over), jax.device_put(y, over)


def close(found, expected, atol=EXACT):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), found, expected)


@pytest.mark.parametrize(("data", "model", "scheme", "layout"), CASES)
@given(seed=SEEDS)
def test_loss_and_gradients_are_those_of_one_device(data, model, scheme, layout, seed):
    plan, mesh = planned(data, model, layout), splitbrain.grid(data, model)
    params, x, y = drawn(seed)
    program = compiled(data, model, scheme, layout)
    with jax.enable_x64(True):
        loss, grads = program(*placed(plan, mesh, params, x, y))
    close((loss, splitbrain.gather_params(plan, grads)), by_hand(params, x, y))


@pytest.mark.parametrize(("data", "model", "scheme", "layout"), CASES)
def test_bytes_are_the_predicted_ones(data, model, scheme, layout):
    """Collectives by kind, of groups of one device none; arguments to the byte."""
    plan, (params, x, y) = planned(data, model, layout), drawn(0)
    program = compiled(data, model, scheme, layout)
    found = {kind: total.nbytes for kind, total in programs.collectives(program).items()}
    assert found == splitbrain.comm_model(plan, params, BATCH, scheme=scheme)
    held = splitbrain.memory_model(plan, params, (x, y), optax.set_to_zero())
    assert programs.memory(program).arguments == held.arguments == held.parameters + held.batch


@pytest.mark.parametrize(("scheme", "layout"), [("bk", "pair"), ("modulo", "gather")])
def test_padded_units_stay_out_where_the_activation_of_zero_is_not_zero(scheme, layout):
    plan, mesh = planned(2, 4, layout, padded=True), splitbrain.grid(2, 4)
    params, x, y = drawn(3, WIDTHS[True])
    with jax.enable_x64(True):
        arguments = placed(plan, mesh, params, x, y)
        loss, grads = compiled(2, 4, scheme, layout, True, jax.nn.softplus)(*arguments)
        alone = jax.jit(jax.value_and_grad(splitbrain.plain_loss(network(jax.nn.softplus))))(params, x, y)
    close((loss, splitbrain.gather_params(plan, grads)), alone)
    kernel = np.asarray(grads["dense0"]["kernel"])
    assert kernel.shape[1] == 16
    assert not kernel[:, 13:].any()
    assert not np.asarray(grads["dense1"]["kernel"])[13:].any()


def test_exchanges_are_each_others_transposes_and_inverses():
    """Of whole arrays: gathering is a copy to every member, scattering a sum over them."""
    mesh, rng = splitbrain.grid(2, 4), np.random.default_rng(0)
    u, v = rng.normal(size=(16, 12)), rng.normal(size=(64, 12))  # own rows; rows of the group, a partial sum a member

    def local(u, v):
        gathered, scattered = splitbrain.modulo_gather(u), splitbrain.modulo_scatter(v)
        columns = splitbrain.shard_own(gathered)
        products = [jax.lax.psum((a * b).sum(), ("data", "model")) for a, b in ((gathered, v), (u, scattered))]
        return *products, splitbrain.shard_gather(columns), splitbrain.own_rows(columns), scattered

    over = P(("data", "model"))
    with jax.enable_x64(True):
        run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(over, over), out_specs=(P(), P(), over, over, over)))
        left, right, there_and_back, own, scattered = run(u, v)
    np.testing.assert_allclose(left, right, rtol=EXACT)
    np.testing.assert_array_equal(there_and_back, np.repeat(u.reshape(2, 1, 8, 12), 4, 1).reshape(64, 12))
    np.testing.assert_array_equal(own, u)
    groups = v.reshape(2, 4, 4, 2, 12).sum(1)  # group, member, part of its rows
    np.testing.assert_allclose(scattered, groups.reshape(16, 12), atol=EXACT)


def test_the_check_of_what_varies_stays_on():
    """Without it a gradient taken inside is that of one device's samples, for some leaves, and nothing says so."""
    mesh, (params, x, _) = splitbrain.grid(2, 4), drawn(1)
    kernel, over = params["trunk"]["kernel"], P(("data", "model"))

    def local(kernel, x):
        return jax.grad(lambda w: jax.lax.psum((jnp.tanh(x @ w) ** 2).sum(), ("data", "model")))(kernel)

    def gradient(check):
        run = jax.shard_map(local, mesh=mesh, in_specs=(P(), over), out_specs=P(), check_vma=check)
        return jax.jit(run)(kernel, x)

    with jax.enable_x64(True):
        alone = 2 * x.T @ (np.tanh(x @ kernel) * (1 - np.tanh(x @ kernel) ** 2))
        close(gradient(True), alone)
        assert np.abs(gradient(False) - alone).max() > 0.1 * np.abs(alone).max()


@pytest.mark.parametrize("layout", ["pair", "gather"])
def test_the_compiler_places_the_same_network_by_annotations(layout):
    plan, mesh = planned(2, 4, layout, padded=True), splitbrain.grid(2, 4)
    params, x, y = drawn(5, WIDTHS[True])
    with jax.enable_x64(True):
        arguments = placed(plan, mesh, params, x, y)
        loss, grads = jax.jit(jax.value_and_grad(splitbrain.annotated_loss(network(), plan, mesh)))(*arguments)
    close((loss, splitbrain.gather_params(plan, grads)), by_hand(params, x, y))


def test_a_mesh_with_explicit_axes_serves():
    mesh, automatic = jax.make_mesh((2, 4), ("data", "model")), splitbrain.grid(2, 4)
    plan, (params, x, y) = planned(2, 4, "pair"), drawn(2)
    with jax.enable_x64(True):
        loss, _ = compiled(2, 4, "bk", "pair")(*placed(plan, automatic, params, x, y))
        explicit = splitbrain.hybrid_loss(network(), plan, mesh)(*placed(plan, mesh, params, x, y))
    close(explicit, loss)


@pytest.mark.parametrize("layout", ["pair", "gather"])
def test_parameters_move_to_other_splits_and_back(layout):
    params = first = drawn(4, WIDTHS[True])[0]
    with jax.enable_x64(True):
        for data, model in ((4, 2), (2, 4), (1, 8), (8, 1)):
            plan = planned(data, model, layout, padded=True)
            spread = splitbrain.shard_params(plan, splitbrain.grid(data, model), params)
            here = spread["dense0"]["kernel"].addressable_shards[0].data.shape
            assert here == (8, -(-13 // model))
            params = splitbrain.gather_params(plan, spread)
    jax.tree.map(np.testing.assert_array_equal, params, first)


def test_a_checkpoint_of_one_split_opens_on_another(tmp_path):
    params = drawn(6, WIDTHS[True])[0]
    old, new, adam = planned(4, 2, "pair", True), planned(2, 4, "pair", True), optax.adam(0.1)
    with jax.enable_x64(True):
        spread = splitbrain.shard_params(old, splitbrain.grid(4, 2), params)
        state = training.TrainState(jnp.array(3), spread, {}, adam.init(spread), jax.random.key(0))
        config = {"seed": 0}
        with checkpoint.manager(tmp_path) as to:
            checkpoint.save(to, 1, state, config=config)
            _, restored, _ = checkpoint.restore(to, state)
        moved = splitbrain.shard_params(new, splitbrain.grid(2, 4), splitbrain.gather_params(old, restored.params))
    assert moved["dense0"]["kernel"].addressable_shards[0].data.shape == (8, 4)
    jax.tree.map(np.testing.assert_array_equal, splitbrain.gather_params(new, moved), params)


def test_twenty_steps_in_float32_stay_together():
    """By SGD with momentum, as one device takes them."""
    plan, mesh, tx = planned(2, 4, "pair"), splitbrain.grid(2, 4), optax.sgd(0.05, 0.9)
    params, x, y = drawn(7)
    params = jax.tree.map(np.float32, params)
    losses = splitbrain.hybrid_loss(network(), plan, mesh), splitbrain.plain_loss(network())
    ends = []
    for loss, own in zip(losses, (splitbrain.shard_params(plan, mesh, params), params), strict=True):
        step, state = jax.jit(splitbrain.train_step(loss, tx)), tx.init(own)
        for start in range(20):
            own, state, value, _ = step(own, state, np.float32(np.roll(x, start, 0)), y)
            value.block_until_ready()
        ends.append(jax.device_get(own))
    close(ends[0], ends[1], atol=FLOAT32)


def test_a_step_is_compiled_from_shapes_with_adams_state_beside_its_parameters():
    plan, mesh, adam = planned(2, 4, "pair"), splitbrain.grid(2, 4), optax.adam(0.1)
    params, x, y = jax.tree.map(np.float32, drawn(0)[0]), np.zeros((BATCH, IN), np.float32), np.zeros(BATCH, np.int32)
    specs, loss = splitbrain.param_specs(plan, params), splitbrain.hybrid_loss(network(), plan, mesh)
    program = splitbrain.compile_step(loss, adam, mesh, params, specs, (x, y))
    held, read = splitbrain.memory_model(plan, params, (x, y), adam), programs.memory(program)
    assert read.arguments == held.arguments
    assert read.aliased == held.parameters + held.optimizer
    assert splitbrain.state_specs(adam, params, specs)[0].mu == specs


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_memory_is_counted_leaf_by_leaf(data, model, width, last, adam):
    shapes = {"dense0": {"kernel": (12, width), "bias": (width,)}, "dense1": {"kernel": (width, last)}, "other": (5, 7)}
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, np.float32), shapes, is_leaf=lambda s: isinstance(s, tuple))
    plan = splitbrain.plan(
        params, PATHS, data=data, model=model, batch=3, pad=True, overrides={"dense0": "column", "dense1": "row"}
    )
    batch = np.zeros((3 * data * model, 12), np.float32), np.zeros(3 * data * model, np.int32)
    found = splitbrain.memory_model(plan, params, batch, optax.adam(1) if adam else optax.sgd(1, 0.9))
    each = -(-width // model)
    entries = 12 * each + each + each * last + 35
    assert found.parameters == found.gradients == 4 * entries
    assert found.optimizer == (8 * entries + 4 if adam else 4 * entries)
    assert found.batch == 3 * 13 * 4
    assert found.activations == (0 if model == 1 else 4 * 3 * (12 * model + each * model + last))


@given(st.integers(1, 64), st.sampled_from([(1, 8), (2, 4), (4, 2)]), st.integers(1, 64))
def test_a_layer_is_split_where_that_moves_less(batch, split, width):
    params = {"dense0": {"kernel": np.zeros((16, width)), "bias": np.zeros(width)}}
    data, model = split
    layer = splitbrain.plan(params, PATHS[:1], data=data, model=model, batch=batch, pad=True).layers[0]
    replicated = 2 * 7 / 8 * 17 * width
    moved = 2 * (data - 1) / data * 17 * width / model + 2 * (model - 1) * batch * 16
    assert layer.ratio == pytest.approx(moved / replicated)
    assert layer.kind == ("column" if moved <= replicated else "replicated")


def test_rules_layouts_and_overrides():
    params = drawn(0)[0] | {"huge": np.zeros(10_000)}
    both = functools.partial(splitbrain.plan, params, PATHS, data=2, model=4, batch=8)
    kinds = lambda plan: [layer.kind for layer in plan.layers]  # noqa: E731
    assert kinds(both(rule="size")) == ["replicated"] * 2  # each below a tenth of all parameters
    assert kinds(both(overrides={"dense0": "column", "dense1": "row"})) == ["column", "row"]
    assert kinds(planned(2, 4, "gather")) == ["column", "column"]
    assert kinds(planned(8, 1, "pair")) == ["replicated"] * 2
    assert planned(8, 1, "pair").runs() == [(layer,) for layer in planned(8, 1, "pair").layers]
    assert splitbrain.fsdp_specs({"a": np.zeros((3, 16)), "b": np.zeros(5)}, 8) == {
        "a": P(None, ("data", "model")),
        "b": P(),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "guess"}, "the rule is one of ccr, size; got 'guess'"),
        ({"layout": "rows"}, "the layout is one of pair, gather; got 'rows'"),
        ({"overrides": {"conv": "column"}}, "no dense layer 'conv' to override; there are dense0, dense1"),
        ({"overrides": {"dense0": "split"}}, "dense0 can be replicated, column, row; got 'split'"),
        ({"overrides": {"dense0": "row"}}, "dense0 as row layer reads columns, which no column"),
        ({"batch": 0}, "groups, members and samples are at least 1; got 2, 4 and 0"),
        ({"params": drawn(0, (13, 8))[0], "rule": "size"}, "dense0 has 13 outputs, which 4 members cannot share: make"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be_are_refused(change, message):
    arguments = {"params": drawn(0)[0], "dense": PATHS, "data": 2, "model": 4, "batch": 8} | change
    with pytest.raises(ValueError, match=message):
        splitbrain.plan(**arguments)


def test_what_cannot_be_shared_is_refused():
    plan, (params, x, y) = planned(2, 4, "pair"), drawn(0)
    with pytest.raises(ValueError, match="2x3 is not a split of 8 devices; there are 8x1, 4x2, 2x4, 1x8"):
        splitbrain.grid(2, 3)
    with pytest.raises(ValueError, match="the scheme is one of bk, modulo, b; got 'all'"):
        splitbrain.hybrid_loss(network(), plan, splitbrain.grid(2, 4), scheme="all")
    with pytest.raises(ValueError, match="the plan is for 2x4 devices; the mesh has"):
        splitbrain.hybrid_loss(network(), plan, splitbrain.grid(4, 2))
    mesh = splitbrain.grid(2, 4)
    loss = splitbrain.hybrid_loss(network(), plan, mesh)
    with pytest.raises(ValueError, match="60 samples cannot be shared by 2x4 devices: take 64"):
        loss(params, x[:60], y[:60])
    with pytest.raises(ValueError, match=r"dense0/kernel is \(8, 13\), the plan wants \(8, 16\): pass them through"):
        splitbrain.hybrid_loss(network(), planned(2, 4, "pair", True), splitbrain.grid(2, 4))(
            drawn(0, (13, 7))[0], x, y
        )
    with pytest.raises(ValueError, match="40 samples cannot be shared by 2x4 devices in 4 passes: take 64"):
        splitbrain.comm_model(plan, params, 40, scheme="modulo")
    with pytest.raises(KeyError, match="there is no layer 'fc' with a kernel; there are dense0, dense1, head, trunk"):
        splitbrain.plan(params, ("fc",), data=2, model=4, batch=8)
