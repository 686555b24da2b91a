"""Bases against the equations of the paper by SVD of the rows; the transform against what it promises of old rows."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax import checkpoint
from subspace_jax.continual import gpm
from subspace_jax.core import capture
from subspace_jax.core.moments import Moments
from subspace_jax.training import TrainState
from tests.continual.cases import (
    FLOAT32,
    basis_by_svd,
    empty,
    host,
    learned,
    many_kinds,
    many_kinds_case,
    measured,
    moments_of,
    noise,
    plain,
    plain_case,
    projector,
    rows,
)

SHAPES = st.sampled_from([(40, 6), (4, 9)])
SEEDS = st.integers(0, 2**31 - 1)
ENERGIES = st.sampled_from([0.5, 0.9, 0.99, 1.0])
ROUNDED = 1e-5  # of parameters that took some ten float32 steps


# ---- bases -----------------------------------------------------------------------------------------------------------


@given(SHAPES, SEEDS, st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from(["paper", "released"]))
def test_the_gram_route_is_the_svd_route(shape, seed, energy, rule):
    tasks = [rows(seed + 2 * t, *shape) for t in range(3)]
    for t, space in enumerate(learned(tasks, energy=energy, rule=rule)[1:]):
        expected = basis_by_svd(tasks[: t + 1], energy, rule)
        assert int(space.rank) == expected.shape[1]
        np.testing.assert_allclose(projector(space), expected @ expected.T, atol=FLOAT32)


@given(SHAPES, SEEDS, ENERGIES)
def test_a_basis_grows_orthonormal_keeps_what_it_has_and_holds_the_energy(shape, seed, energy):
    tasks = [rows(seed + 2 * t, *shape) for t in range(3)]
    found = learned(tasks, energy=energy)
    for x, before, after in zip(tasks, found, found[1:], strict=False):
        old, rank = int(before.rank), int(after.rank)
        assert old <= rank <= shape[1]
        np.testing.assert_array_equal(after.basis[:, :old], before.basis[:, :old])
        np.testing.assert_array_equal(after.basis[:, rank:], 0)
        np.testing.assert_allclose(after.basis.T @ after.basis, np.diag(np.arange(shape[1]) < rank), atol=FLOAT32)
        np.testing.assert_allclose(projector(after) @ projector(after), projector(after), atol=FLOAT32)
        assert (projector(after) * (x.T @ x)).sum() / (x**2).sum() >= energy - FLOAT32


@given(SEEDS, st.integers(1, 5), st.booleans())
def test_all_energy_of_rows_of_rank_r_takes_r_directions(seed, rank, narrow):
    x = host(seed, 20, rank) @ host(seed + 1, rank, 7)
    moments = moments_of(x)
    if narrow:  # a float32 Gram has energy everywhere, by rounding
        moments = {"w": Moments(*(jnp.asarray(part, jnp.float32) for part in moments["w"]))}
    assert int(gpm.update(empty(7), moments, energy=1.0)["w"].rank) == rank


@given(SHAPES, SEEDS, ENERGIES)
def test_the_same_task_twice_adds_nothing_and_energy_zero_never_does(shape, seed, energy):
    x = rows(seed, *shape)
    once, twice, zero = learned([x, x], energy=energy)[1:] + learned([x], energy=0)[1:]
    np.testing.assert_array_equal(twice.basis, once.basis)
    assert int(zero.rank) == 0
    assert not zero.basis.any()


def test_equal_energies_that_just_reach_the_share_are_not_added_again():
    once, twice = learned([np.linalg.qr(host(0, 6, 6))[0]] * 2, energy=0.5)[1:]
    assert int(once.rank) == int(twice.rank) == 3


def test_energy_can_differ_by_layer_and_a_layer_without_energy_adds_nothing():
    x, energies = rows(0, 20, 6), {"a": 0.5, "b": 0.99, "dead": 0.9}
    moments = {"a": moments_of(x)["w"], "b": moments_of(x)["w"], "dead": moments_of(0 * x)["w"]}
    found = gpm.update({name: empty(6)["w"] for name in moments}, moments, energy=energies)
    a, b = (basis_by_svd([x], energies[name]).shape[1] for name in "ab")
    assert a < b
    assert [int(found[name].rank) for name in moments] == [a, b, 0]


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_leading_axes_are_a_batch(rule):
    tasks = [np.stack([rows(6 * t + 2 * i, 20, 6) for i in range(3)]) for t in range(2)]
    together = learned(tasks, energy=0.9, rule=rule)[-1]
    for i in range(3):
        alone = learned([x[i] for x in tasks], energy=0.9, rule=rule)[-1]
        assert int(together.rank[i]) == int(alone.rank)
        np.testing.assert_allclose(together.basis[i], alone.basis, atol=FLOAT32)


def test_a_full_layer_is_named_and_stays_full():
    x = host(0, 20, 6)
    with pytest.warns(UserWarning, match="full: w; these layers learn nothing more"):
        full = gpm.update(empty(6), moments_of(x), energy=1.0)
    assert int(full["w"].rank) == 6
    with pytest.warns(UserWarning, match="full: w"):
        again = gpm.update(full, moments_of(host(1, 20, 6)), energy=1.0)
    np.testing.assert_array_equal(again["w"].basis, full["w"].basis)


# ---- the transform ---------------------------------------------------------------------------------------------------


def train(tx, opt_state, params, steps=10, seed=5):
    """Steps down random gradients, compiled once."""

    def step(carry, key):
        params, opt_state = carry
        updates, opt_state = tx.update(optax.tree.random_like(key, params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(jax.random.key(seed), steps))[0])(
        (params, opt_state)
    )


def linear(params, x):
    return x @ params["w"]


def stored(tx, params, x, energy=1.0):
    """The optimiser's state after a task with the rows x."""
    state = tx.init(params)
    bases = gpm.update(optax.tree.get(state, "bases"), moments_of(np.asarray(x, np.float64)), energy=energy)
    return optax.tree.set(state, bases=bases)


TABLE = capture.layers(linear, {"w": jnp.zeros((4, 5))}, jnp.zeros((1, 4)))
CHAINS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "clip": optax.chain(optax.clip(0.5), optax.sgd(0.1)),
}


@settings(max_examples=3)
@given(st.sampled_from(sorted(CHAINS)), SEEDS)
def test_full_span_rows_keep_their_outputs_under_any_optimiser_before_it(name, seed):
    x, params = host(seed, 3, 4), {"w": jnp.asarray(host(seed + 1, 4, 5), jnp.float32)}
    tx = optax.chain(CHAINS[name], gpm.gpm(TABLE))
    after, _ = train(tx, stored(tx, params, x), params)
    np.testing.assert_allclose(x @ after["w"], x @ params["w"], atol=ROUNDED)
    assert np.abs(after["w"] - params["w"]).max() > 0.1


@given(SEEDS, st.sampled_from([0.5, 0.8, 0.9]))
def test_the_change_on_old_rows_is_bounded_by_the_energy_left_out(seed, energy):
    x, params = rows(seed, 30, 4), {"w": jnp.asarray(host(seed + 2, 4, 5), jnp.float32)}
    tx = optax.chain(optax.sgd(0.1), gpm.gpm(TABLE))
    after, _ = train(tx, stored(tx, params, x, energy), params)
    change = np.asarray(after["w"], np.float64) - np.asarray(params["w"], np.float64)
    bound = np.linalg.norm(change, 2) ** 2 * (1 - energy) * (x**2).sum()
    assert ((x @ change) ** 2).sum() <= bound * (1 + 1e-3) + 1e-6


def test_projected_gradients_with_weight_decay_behind_break_the_promise():
    x, params = host(0, 3, 4), {"w": jnp.asarray(host(1, 4, 5), jnp.float32)}
    tx = optax.chain(gpm.gpm(TABLE), optax.add_decayed_weights(0.1), optax.sgd(0.1))
    after, _ = train(tx, stored(tx, params, x), params)
    assert np.abs(x @ (after["w"] - params["w"])).max() > 1000 * ROUNDED


def test_everything_passes_before_the_first_task():
    params = plain_case(0)
    tx = gpm.gpm(capture.layers(plain, params, jnp.zeros((1, 4))))
    updates = noise(0, params)
    passed, _ = jax.jit(tx.update)(updates, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, passed, updates)


@pytest.mark.parametrize("freeze", [True, False])
def test_heads_stay_free_and_other_leaves_stop_with_the_first_task(freeze):
    params, x = plain_case(0), jnp.asarray(host(0, 3, 4), jnp.float32)
    table, moments = measured(plain, params, x)
    tx = gpm.gpm(table, heads=["head"], freeze=freeze)
    state = tx.init(params)
    assert list(state.bases) == ["first/kernel", "second/kernel"]
    state = gpm.GPMState(gpm.update(state.bases, moments, energy=0.9))
    updates = jax.tree.map(jnp.ones_like, params)
    passed, _ = jax.jit(tx.update)(updates, state, params)
    jax.tree.map(np.testing.assert_array_equal, passed["head"], updates["head"])
    for name in ("first", "second"):
        np.testing.assert_array_equal(passed[name]["bias"], 0.0 if freeze else 1.0)
        inside = np.asarray(state.bases[f"{name}/kernel"].basis).T @ np.asarray(passed[name]["kernel"])
        np.testing.assert_allclose(inside, 0, atol=FLOAT32 * 10)


def test_every_kind_of_layer_is_projected_in_its_own_matrix_under_jit():
    params, x = many_kinds_case(0), jnp.asarray(host(0, 2, 4, 4, 3), jnp.float32)
    table, moments = measured(many_kinds, params, x)
    tx = gpm.gpm(table)
    traced = jax.eval_shape(tx.init, params)
    state = gpm.GPMState(gpm.update(gpm.init(table), moments, energy=0.95))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, traced)
    kernels, updates = jax.jit(lambda tree: capture.kernels(table, tree)), noise(0, params)
    passed, _ = jax.jit(tx.update)(updates, state)
    before, after = kernels(updates), kernels(passed)
    assert len(before) == 6
    for path, space in state.bases.items():
        expected = np.asarray(before[path]) - projector(space) @ np.asarray(before[path])
        np.testing.assert_allclose(after[path], expected, atol=FLOAT32 * 10, err_msg=path)


def test_a_network_that_rounds_its_kernels_is_projected_unrounded():
    params, x = {"w": jnp.asarray(host(0, 4, 5), jnp.float32)}, host(1, 3, 4)
    table = capture.layers(lambda p, x: x @ p["w"].astype(jnp.bfloat16), params, jnp.ones((1, 4), jnp.bfloat16))
    tx = gpm.gpm(table)
    state = stored(tx, params, x)
    passed, _ = tx.update(params, state)
    np.testing.assert_allclose(x @ np.asarray(passed["w"], np.float64), 0, atol=ROUNDED)


def test_zero_updates_stay_zero_and_finite():
    params = {"w": jnp.zeros((4, 5))}
    tx = optax.chain(optax.adam(0.1), gpm.gpm(TABLE))
    updates, _ = tx.update(params, stored(tx, params, host(0, 3, 4)), params)
    np.testing.assert_array_equal(updates["w"], 0)


def test_seeds_side_by_side_are_the_seeds_alone():
    params = {"w": jnp.asarray(host(1, 3, 4, 5), jnp.float32)}
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), gpm.gpm(TABLE))
    x = np.stack([rows(seed, 20, 4) for seed in range(3)])
    together = jax.vmap(tx.init)(params)
    bases = gpm.update(optax.tree.get(together, "bases"), moments_of(x), energy=0.9)
    together = optax.tree.set(together, bases=bases)
    updates, _ = jax.jit(jax.vmap(tx.update))(params, together, params)
    for i in range(3):
        one = {"w": params["w"][i]}
        alone, _ = tx.update(one, stored(tx, one, x[i], 0.9), one)
        np.testing.assert_allclose(updates["w"][i], alone["w"], atol=FLOAT32 * 10)


WRAPPED = {
    "multi_steps": lambda: optax.MultiSteps(optax.chain(optax.sgd(0.1), gpm.gpm(TABLE)), 2),
    "masked": lambda: optax.chain(optax.sgd(0.1), optax.masked(gpm.gpm(TABLE), {"w": True, "free": False})),
    "inject": lambda: optax.inject_hyperparams(lambda rate: optax.chain(optax.sgd(rate), gpm.gpm(TABLE)))(rate=0.1),
    "injected": lambda: optax.chain(optax.sgd(0.1), optax.inject_hyperparams(gpm.gpm)(TABLE)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_wrappers_of_optax_keep_the_promise(name):
    x = host(0, 3, 4)
    params = {"w": jnp.asarray(host(1, 4, 5), jnp.float32), "free": jnp.ones((2, 2))}
    tx = WRAPPED[name]()
    after, _ = train(tx, stored(tx, params, x), params)
    np.testing.assert_allclose(x @ after["w"], x @ params["w"], atol=ROUNDED)
    assert np.abs(after["w"] - params["w"]).max() > 0.1
    assert np.abs(after["free"] - params["free"]).max() > 0.1


def test_masked_layers_have_no_basis():
    params = plain_case(0)
    tx = optax.masked(gpm.gpm(capture.layers(plain, params, jnp.zeros((1, 4)))), lambda p: {
        name: jax.tree.map(lambda _, name=name: name != "head", leaves) for name, leaves in p.items()
    })  # fmt: skip
    assert list(optax.tree.get(tx.init(params), "bases")) == ["first/kernel", "second/kernel"]


@pytest.mark.parametrize("after_first", [False, True])
def test_a_checkpoint_takes_the_state_before_and_after_the_first_task(tmp_path, after_first):
    params = {"w": jnp.asarray(host(1, 4, 5), jnp.float32)}
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), gpm.gpm(TABLE))
    fresh = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
    state = fresh._replace(opt_state=stored(tx, params, host(0, 3, 4))) if after_first else fresh
    with checkpoint.manager(tmp_path) as to:
        checkpoint.save(to, 1, state, config={})
    with checkpoint.manager(tmp_path) as source:
        restored = checkpoint.restore(source, fresh)[1]
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state, state.opt_state)
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(state.opt_state)


def test_running_statistics_are_warned_of():
    variables = {"params": {"w": jnp.ones((3, 2))}, "batch_stats": {"norm": {"mean": jnp.zeros((1, 3))}}}
    fn = lambda v, x: (x - v["batch_stats"]["norm"]["mean"]) @ v["params"]["w"]  # noqa: E731
    table = capture.layers(fn, variables, jnp.ones((4, 3)))
    with pytest.warns(UserWarning, match=r"running statistics \(batch_stats/norm/mean, \.\.\.\) drift"):
        tx = gpm.gpm(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpm.gpm(TABLE)
    assert list(tx.init(variables["params"]).bases) == ["w"]  # the table of the whole variables, updates of params
