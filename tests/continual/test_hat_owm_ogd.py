"""HAT, OWM and OGD: what each shields, by its own arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn
from subspace_jax.continual import projection, protocol
from subspace_jax.continual.baselines import hat, ogd, owm
from tests.continual.sequences import DATA, KEY, PERMUTED, SGD, TURNED, drawn, table_of, with_heads

SHORT = {"classes": 3, "length": 90, "batch": 10}
SEQUENCE = [DATA, TURNED, PERMUTED[1]]
HEADS, TABLE = with_heads(widths=(12, 8), use_bias=False)
SINGLE = nn.build("mlp", classes=3, widths=(12,), use_bias=False)
LINEAR = nn.build("mlp", classes=3, widths=(), use_bias=False)
OWN = projection.beside(TABLE, ["heads"])


def test_masked_columns_are_masked_outputs_of_relu():
    variables, rng = drawn(HEADS), np.random.default_rng(1)
    masks = {path: jnp.asarray(rng.random(OWN[path].d_out), jnp.float32) for path in OWN}
    apply = jax.jit(lambda v, x: HEADS.apply(v | {"params": hat.masked(OWN, v["params"], masks)}, x))
    hidden = DATA.x.reshape(len(DATA.x), -1)
    for path, name in zip(OWN, ("dense0", "dense1"), strict=True):
        hidden = np.maximum(hidden @ variables["params"][name]["kernel"], 0) * masks[path][None]
    expected = np.einsum("bd,tdc->btc", hidden, variables["params"]["heads"]["kernel"])
    np.testing.assert_allclose(apply(variables, DATA.x), expected, atol=1e-4)


def test_a_weight_between_used_units_stands_still_and_others_move_by_what_is_free():
    used = {"dense0/kernel": jnp.array([1.0, 0.5] + [0.0] * 10), "dense1/kernel": jnp.array([1.0] + [0.0] * 7)}
    moved = hat.shielded(OWN, jax.tree.map(np.ones_like, drawn(HEADS)["params"]), used)
    np.testing.assert_allclose(moved["dense0"]["kernel"], np.broadcast_to(1 - used["dense0/kernel"], (6, 12)))
    np.testing.assert_allclose(moved["dense1"]["kernel"][:3, 0], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(moved["dense1"]["kernel"][:, 1:], 1.0)
    np.testing.assert_array_equal(moved["heads"]["kernel"], 1.0)


def test_convolutional_units_are_the_channels_of_the_next_layer():
    model = nn.multi_head(
        nn.build("lenet5", classes=0, filters=(2, 3), widths=(4,), use_bias=False), tasks=2, classes=2
    )
    x = jnp.zeros((1, 8, 8, 1))
    own = projection.beside(table_of(model, x), ["heads"])
    used = {path: jnp.zeros(layer.d_out) for path, layer in own.items()}
    used["conv1/kernel"], used["dense0/kernel"] = jnp.array([1.0, 0.0, 0.0]), jnp.ones(4)
    ones = jax.tree.map(np.ones_like, drawn(model, x)["params"])
    moved = hat.shielded(own, ones, used)["dense0"]["kernel"].reshape(-1, 3, 4)
    np.testing.assert_array_equal(moved[:, 0], 0.0)
    np.testing.assert_array_equal(moved[:, 1:], 1.0)


def test_the_slope_of_the_masks_rises_in_each_period_and_used_units_only_join():
    """Parts of a learner on their own: no sequence is run."""
    settings = hat.hat_learner(HEADS, SGD, TABLE, tasks=3, period=5).step.__self__
    slopes = np.array([float(settings.slope(step)) for step in range(10)])
    np.testing.assert_allclose(slopes[:5], np.linspace(1 / hat.STEEPEST, hat.STEEPEST, 5))
    np.testing.assert_array_equal(slopes[5:], slopes[:5])
    embeddings = {path: jnp.array([[-6.0, 6.0], [6.0, -6.0]]) for path in OWN}
    used = {path: jnp.array([0.0, 0.3]) for path in OWN}
    state = protocol.State({}, {}, {"embeddings": embeddings, "used": used, "step": 0})
    for t, joined in enumerate([[0.0, 1.0], [1.0, 0.3]]):
        for after in settings.end(KEY, state, DATA, t).kept["used"].values():
            np.testing.assert_allclose(after, joined, atol=1e-6)


def test_hat_keeps_what_it_learned():
    wide, table = with_heads(widths=(40, 40), use_bias=False)
    method = hat.hat_learner(wide, SGD, table, tasks=3, period=9)
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
    x = np.zeros((4, 1, 6, 1), np.float32)
    x[:, 0, 0] = 1.0
    method = owm.owm_learner(LINEAR, SGD, table_of(LINEAR), alpha=1e-6)
    state, y = method.init(KEY, x), np.array([0, 1, 2, 0])
    step = jax.jit(method.step)
    once = step(state, ((x, y),), 0, KEY)
    twice = step(once, ((x, y),), 0, KEY)
    before, after = (np.asarray(s.variables["params"]["head"]["kernel"])[0] for s in (once, twice))
    np.testing.assert_allclose(after, before, atol=1e-4)  # the logits of x: its only pixel that is not 0


def test_ogd_leaves_the_stored_logits_unchanged_to_first_order():
    """For a linear network the logit of a stored sample's class does not move at all."""
    method = ogd.ogd_learner(LINEAR, SGD, tasks=2, samples=4)
    few = DATA._replace(x=DATA.x[:4], y=DATA.y[:4])
    state = method.end(KEY, method.init(KEY, few.x), few, 0)
    basis = state.kept["basis"]
    gram = np.asarray(basis.T @ basis)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram).round()), atol=1e-5)
    moved, step = state, jax.jit(method.step)
    for i in range(5):
        moved = step(moved, ((TURNED.x[:20], TURNED.y[:20]),), 1, jax.random.key(i))
    logits = (few.x.reshape(4, 6) @ s.variables["params"]["head"]["kernel"] for s in (state, moved))
    before, after = (np.asarray(z)[np.arange(4), few.y] for z in logits)
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert (
        np.abs(moved.variables["params"]["head"]["kernel"] - state.variables["params"]["head"]["kernel"]).max() > 1e-3
    )
    assert method.held(state) == {"floats": 4 * 18}


def test_they_forget_less_than_finetuning():
    plain = protocol.measures(protocol.run(KEY, protocol.learner(SINGLE, SGD), SEQUENCE[::2], **SHORT).matrix)
    for method in (
        ogd.ogd_learner(SINGLE, SGD, tasks=2), owm.owm_learner(SINGLE, optax.sgd(0.5), table_of(SINGLE))
    ):  # fmt: skip
        found = protocol.measures(protocol.run(KEY, method, SEQUENCE[::2], **SHORT).matrix)
        assert found.backward_transfer > plain.backward_transfer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hat.hat_learner(HEADS, SGD, TABLE, tasks=3, period=0), "period is at least 1 step"),
        (
            lambda: hat.hat_learner(HEADS, SGD, TABLE, tasks=3, period=1, sparsity=-1.0),
            "sparsity at least 0; got 1 and -1.0",
        ),
        (
            lambda: hat.hat_learner(HEADS, SGD, TABLE, tasks=3, period=1, heads=("dense0", "dense1", "heads")),
            "no layer is left beside the heads",
        ),
        (lambda: owm.owm_learner(SINGLE, SGD, table_of(SINGLE), alpha=0.0), "alpha is above 0"),
        (lambda: ogd.ogd_learner(SINGLE, SGD, tasks=0), "at least 1 task and 1 gradient of each; got 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
