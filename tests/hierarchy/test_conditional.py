import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn, training
from subspace_jax.core import losses
from subspace_jax.hierarchy import baselines, conditional, tree
from tests.hierarchy.trees import drawn

B = 8
CASES = st.tuples(st.sampled_from([(1, 3), (3, 8)]), st.integers(0, 2**31 - 1))
TREE = tree.from_nested({"a": {"b": ["x", "y"]}, "c": ["z"]})
TRUNK = nn.build("mlp", classes=0, widths=(6, 5, 4), init="he")
MODEL = nn.level_heads(TRUNK, sizes=TREE.sizes)
X = np.random.default_rng(0).normal(size=(32, 7)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 32).astype(np.int32)
SGD = training.optimizer(training.Recipe(lr=0.1, weight_decay=1e-2), 12)


def outputs(found, seed):
    """Logits that favour the true node, so that masks of all kinds occur, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, found.classes, B)
    own = np.asarray(found.paths)[y].T
    logits = [rng.normal(size=(B, n)) + 2 * np.eye(n)[node] for n, node in zip(found.sizes, own, strict=True)]
    return [z.astype(np.float32) for z in logits], y, own


@given(CASES)
def test_validity_and_losses_are_those_of_a_loop_over_samples(case):
    found = drawn(*case)
    logits, y, own = outputs(found, case[1])
    valid, sums = np.ones((found.levels, B)), np.zeros((2, found.levels))
    for i in range(B):
        for level in range(found.levels):
            z = logits[level][i].astype(float)
            ce = np.log(np.exp(z).sum()) - z[own[level, i]]
            valid[level, i] = all(logits[j][i].argmax() == own[j, i] for j in range(level))
            sums[:, level] += ce, valid[level, i] * ce
    measured = np.asarray(conditional.validity(logits, y, found))
    np.testing.assert_array_equal(measured, valid)
    assert (measured[0] == 1).all()
    assert (np.diff(measured, axis=0) <= 0).all()
    for masked in (False, True):
        means = conditional.level_losses(logits, y, found, masked=masked)
        np.testing.assert_allclose(means, sums[int(masked)] / B, rtol=1e-5, atol=1e-6)


@given(CASES)
def test_masks_compose(case):
    found = drawn((3, 8), case[1])
    logits, y, own = outputs(found, case[1])
    steps = np.stack([logits[level].argmax(1) == own[level] for level in range(2)])
    valid = np.asarray(conditional.validity(logits, y, found))
    np.testing.assert_array_equal(valid[2], valid[1] * steps[1])
    np.testing.assert_array_equal(valid[1], steps[0])


def test_masks_have_no_gradient_and_a_batch_without_valid_samples_has_loss_zero():
    y = np.array([0, 1, 2, 0])
    right, wrong = (np.asarray(TREE.paths)[:, 0][y] ^ flip for flip in (0, 1))
    fine = [np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32)]
    for coarse, weight in ((right, 1.0), (wrong, 0.0)):
        z = jnp.asarray(10 * np.eye(2, dtype=np.float32)[coarse])
        both = [z, jnp.asarray(40 * np.eye(2, dtype=np.float32)[np.asarray(TREE.paths)[:, 1][y]]), *fine[1:]]
        found = conditional.level_losses(both, y, TREE)
        plain = conditional.level_losses(both, y, TREE, masked=False)
        np.testing.assert_array_equal(found[0], plain[0])
        np.testing.assert_array_equal(found[1:], weight * plain[1:])  # right: multi-task; wrong: exactly 0
    slope = jax.jit(jax.grad(lambda z: conditional.level_losses([z, *fine], y, TREE)[1:].sum()))
    assert (slope(jnp.ones((4, 2))) == 0).all()


def variables(model=MODEL):
    return jax.jit(model.init)(jax.random.key(3), X[:1])


def test_heads_behind_a_wrong_one_get_no_gradient():
    start = variables()
    y = np.zeros(4, np.int32)
    params = start["params"] | {"level1": {"kernel": jnp.zeros((5, 2)), "bias": jnp.array([0.0, 9.0])}}
    slope = jax.jit(jax.grad(conditional.objective(MODEL.train_apply, TREE), has_aux=True))
    grads, _ = slope(params, {}, ((X[:4], y),), None, jax.random.key(0))
    assert all((leaf == 0).all() for name in ("level2", "level3") for leaf in jax.tree.leaves(grads[name]))
    assert (np.asarray(grads["level1"]["bias"]) != 0).all()


def trained(objectives, *, model=MODEL, start=None, tx=SGD, steps=6, weights=None):
    start = start or variables(model)
    state = training.TrainState(jnp.int32(0), **start, opt_state=tx.init(start["params"]), key=jax.random.key(0))
    step = conditional.in_turn(tuple(objectives), tx, weights=weights)
    return training.repeat(jax.random.key(5), step, state, [(X, Y)], steps=steps, batch=8, params=state.params)


def close(one, other, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), one, other)


def test_one_level_is_plain_training_step_for_step():
    flat, plain = tree.flat(3), nn.build("mlp", classes=3, widths=(6, 5, 4), init="he")
    model = nn.level_heads(TRUNK, sizes=flat.sizes)
    start = variables(model)
    moved = {"params": start["params"]["trunk"] | {"head": start["params"]["level1"]}, "batch_stats": {}}
    expected = training.minimise(
        jax.random.key(5), training.mean_loss(plain.train_apply), SGD, moved, [(X, Y)], steps=6, batch=8
    )["params"]
    for objective in (conditional.objective(model.train_apply, flat), *conditional.sequential(model.train_apply, flat)):
        found = trained((objective,), model=model, start=start)
        assert int(found.step) == 6
        close(found.params["trunk"] | {"head": found.params["level1"]}, expected)


def test_sequential_is_one_update_a_level_each_with_its_own_forward_pass():
    step = jax.jit(conditional.in_turn(conditional.sequential(MODEL.train_apply, TREE), SGD))
    params = variables()["params"]
    opt_state, paths = SGD.init(params), np.asarray(TREE.paths)
    start = training.TrainState(jnp.int32(0), params, {}, opt_state, jax.random.key(0))
    found = step(start, ((X, Y),), None, jax.random.key(1))
    forward = jax.jit(MODEL.apply)

    @jax.jit
    def update(params, opt_state, valid, choose):
        def loss(params):
            logits = MODEL.apply({"params": params, "batch_stats": {}}, X)
            each = [losses.softmax_cross_entropy(z, paths[Y, level]) for level, z in enumerate(logits)]
            return choose @ (jnp.stack(each) @ valid) / len(X)

        updates, opt_state = SGD.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for level in range(3):  # masks of each update as plain numbers, from a forward pass after the last one
        logits = forward({"params": params, "batch_stats": {}}, X)
        right = [np.asarray(z).argmax(1) == paths[Y, j] for j, z in enumerate(logits[:level])]
        valid = np.prod(np.stack([np.ones(len(X)), *right]), axis=0).astype(np.float32)
        params, opt_state = update(params, opt_state, valid, np.eye(3, dtype=np.float32)[level])
    close(found.params, params, atol=1e-6)


def test_weights_go_by_the_step_and_soft_labels_by_the_table():
    plain = conditional.objective(MODEL.train_apply, TREE, masked=False)
    first = trained((plain,), steps=2, weights=lambda step: jnp.where(step < 2, jnp.array([1.0, 0, 0]), jnp.ones(3)))
    alone = trained((conditional.objective(MODEL.train_apply, TREE, level=1),), steps=2)
    close(first.params, alone.params)
    more = trained((plain,), steps=3, weights=lambda step: jnp.where(step < 2, jnp.array([1.0, 0, 0]), jnp.ones(3)))
    assert np.abs(more.params["level3"]["kernel"] - first.params["level3"]["kernel"]).max() > 1e-4
    sharp = trained((baselines.soft_objective(MODEL.train_apply, TREE, beta=50.0),), steps=3)
    hard = trained((conditional.objective(MODEL.train_apply, TREE, level=3, masked=False),), steps=3)
    close(sharp.params, hard.params)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: conditional.validity([np.zeros((2, 2)), np.zeros((2, 3))], Y[:2], TREE), "level_heads.trunk, sizes="),
    (lambda: conditional.validity([np.zeros((1, n)) for n in TREE.sizes], np.array([3]), TREE), r"in \[0, 3\); got 3"),
    (lambda: conditional.objective(MODEL.train_apply, TREE, level=4), r"level is in \[1, 3\]"),
    (lambda: conditional.in_turn((), SGD), "at least one objective"),
])  # fmt: skip
def test_what_does_not_fit_the_tree_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
