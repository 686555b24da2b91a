"""HAT, OWM and OGD: what each shields, by its own arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn
from subspace_jax.continual import protocol, tasks
from subspace_jax.continual.baselines import hat, ogd, owm
from subspace_jax.core import capture

CENTRES = np.random.default_rng(0).normal(size=(3, 6)) * 3
KEY = jax.random.key(0)
SGD = optax.sgd(0.05)
SHORT = {"classes": 3, "length": 90, "batch": 10}


def blobs(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (CENTRES[y] + rng.normal(size=(n, 6))).astype(np.float32).reshape(n, 1, 6, 1), y


DATA = tasks.Task(*blobs(90, 1), *blobs(60, 2))
TURNED = DATA._replace(y=(DATA.y + 1) % 3, test_y=(DATA.test_y + 1) % 3)
SEQUENCE = [DATA, TURNED, *tasks.permuted(jax.random.key(3), DATA, tasks=2)[1:]]
HEADS = nn.multi_head(nn.build("mlp", classes=0, widths=(12, 8), use_bias=False), tasks=3, classes=3)
TABLE = capture.layers(HEADS.apply, HEADS.init(KEY, DATA.x[:1]), DATA.x[:1])
SINGLE = nn.build("mlp", classes=3, widths=(12,), use_bias=False)
OWN = capture.Layers({path: layer for path, layer in TABLE.items() if not path.startswith("heads")}, ())


def test_masked_columns_are_masked_outputs_of_relu():
    variables = HEADS.init(KEY, DATA.x[:1])
    masks = {path: jax.random.uniform(jax.random.key(i), (OWN[path].d_out,)) for i, path in enumerate(OWN)}
    got = HEADS.apply(variables | {"params": hat.masked(OWN, variables["params"], masks)}, DATA.x)
    kernels = capture.kernels(TABLE, variables["params"])
    hidden = DATA.x.reshape(len(DATA.x), -1)
    for path in OWN:
        hidden = np.maximum(hidden @ kernels[path], 0) * masks[path][None]
    np.testing.assert_allclose(
        got, jnp.einsum("bd,tdc->btc", hidden, variables["params"]["heads"]["kernel"]), atol=1e-4
    )


def test_a_weight_between_used_units_stands_still_and_others_move_by_what_is_free():
    used = {"dense0/kernel": jnp.array([1.0, 0.5] + [0.0] * 10), "dense1/kernel": jnp.array([1.0] + [0.0] * 7)}
    ones = jax.tree.map(jnp.ones_like, HEADS.init(KEY, DATA.x[:1])["params"])
    moved = hat.shielded(OWN, ones, used)
    np.testing.assert_allclose(moved["dense0"]["kernel"], np.broadcast_to(1 - used["dense0/kernel"], (6, 12)))
    np.testing.assert_allclose(moved["dense1"]["kernel"][:3, 0], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(moved["dense1"]["kernel"][:, 1:], 1.0)
    np.testing.assert_array_equal(moved["heads"]["kernel"], 1.0)


def test_convolutional_units_are_the_channels_of_the_next_layer():
    model = nn.multi_head(
        nn.build("lenet5", classes=0, filters=(2, 3), widths=(4,), use_bias=False), tasks=2, classes=2
    )
    x = np.zeros((1, 8, 8, 1), np.float32)
    variables = jax.eval_shape(model.init, KEY, x)
    table = capture.layers(model.apply, variables, x)
    own = capture.Layers({path: layer for path, layer in table.items() if not path.startswith("heads")}, ())
    used = {path: jnp.zeros(layer.d_out) for path, layer in own.items()}
    used["conv1/kernel"], used["dense0/kernel"] = jnp.array([1.0, 0.0, 0.0]), jnp.ones(4)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables["params"])
    moved = hat.shielded(own, ones, used)["dense0"]["kernel"].reshape(-1, 3, 4)
    np.testing.assert_array_equal(moved[:, 0], 0.0)
    np.testing.assert_array_equal(moved[:, 1:], 1.0)


def test_hat_keeps_what_it_learned():
    wide = nn.multi_head(nn.build("mlp", classes=0, widths=(40, 40), use_bias=False), tasks=3, classes=3)
    table = capture.layers(wide.apply, wide.init(KEY, DATA.x[:1]), DATA.x[:1])
    method = hat.hat(wide, SGD, table, tasks=3, period=9)
    found = protocol.run(KEY, method, SEQUENCE, **SHORT | {"length": 270})
    measured = protocol.measures(found.matrix)
    assert measured.accuracy > 0.7  # chance is a third
    assert abs(measured.backward_transfer) < 0.02
    assert (np.diff(found.held["used/dense0/kernel"]) >= 0).all()


def test_the_recursion_of_owm_is_the_inverse_it_stands_for():
    rows = np.random.default_rng(0).normal(size=(5, 4))
    p = jnp.eye(4)
    for row in rows:
        p = owm.shrink(p, jnp.asarray(row, jnp.float32), 0.7)
    np.testing.assert_allclose(p, np.linalg.inv(np.eye(4) + rows.T @ rows / 0.7), atol=1e-5)


def test_owm_moves_no_output_on_inputs_that_it_has_closed():
    """With a tiny alpha every direction of the mean inputs is closed after its first step."""
    linear = nn.build("mlp", classes=3, widths=(), use_bias=False)
    x = np.zeros((4, 1, 6, 1), np.float32)
    x[:, 0, 0] = 1.0
    table = capture.layers(linear.apply, linear.init(KEY, x[:1]), x[:1])
    method = owm.owm(linear, SGD, table, alpha=1e-6)
    state, y = method.init(KEY, x), np.array([0, 1, 2, 0])
    step = jax.jit(method.step)
    once = step(state, ((x, y),), 0, KEY)
    twice = step(once, ((x, y),), 0, KEY)
    np.testing.assert_allclose(linear.apply(twice.variables, x), linear.apply(once.variables, x), atol=1e-4)


def test_ogd_leaves_the_stored_logits_unchanged_to_first_order():
    """For a linear network the logit of a stored sample's class does not move at all."""
    linear = nn.build("mlp", classes=3, widths=(), use_bias=False)
    method = ogd.ogd(linear, SGD, tasks=2, samples=4)
    few = DATA._replace(x=DATA.x[:4], y=DATA.y[:4])
    state = method.end(KEY, method.init(KEY, few.x), few, 0)
    basis = state.kept["basis"]
    gram = np.asarray(basis.T @ basis)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram).round()), atol=1e-5)
    moved = state
    for i in range(5):
        moved = jax.jit(method.step)(moved, ((TURNED.x[:20], TURNED.y[:20]),), 1, jax.random.key(i))
    before, after = (np.asarray(linear.apply(s.variables, few.x))[np.arange(4), few.y] for s in (state, moved))
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert (
        np.abs(moved.variables["params"]["head"]["kernel"] - state.variables["params"]["head"]["kernel"]).max() > 1e-3
    )
    assert method.held(state) == {"floats": 4 * 18}


def test_they_forget_less_than_finetuning():
    plain = protocol.measures(protocol.run(KEY, protocol.learner(SINGLE, SGD), SEQUENCE[::2], **SHORT).matrix)
    for method in (ogd.ogd(SINGLE, SGD, tasks=2), owm.owm(SINGLE, optax.sgd(0.5), capture.layers(
            SINGLE.apply, SINGLE.init(KEY, DATA.x[:1]), DATA.x[:1]))):  # fmt: skip
        found = protocol.measures(protocol.run(KEY, method, SEQUENCE[::2], **SHORT).matrix)
        assert found.backward_transfer > plain.backward_transfer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hat.hat(HEADS, SGD, TABLE, tasks=3, period=0), "period is at least 1 step"),
        (lambda: hat.hat(HEADS, SGD, TABLE, tasks=3, period=1, sparsity=-1.0), "sparsity at least 0; got 1 and -1.0"),
        (
            lambda: hat.hat(HEADS, SGD, TABLE, tasks=3, period=1, heads=("dense0", "dense1", "heads")),
            "no layer is left beside the heads",
        ),
        (lambda: owm.owm(SINGLE, SGD, TABLE, alpha=0.0), "alpha is above 0"),
        (lambda: ogd.ogd(SINGLE, SGD, tasks=0), "at least 1 task and 1 gradient of each; got 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
