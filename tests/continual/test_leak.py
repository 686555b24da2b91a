"""What a chain gives back of a projection: nothing in the right order, a tenth and more in the wrong one."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax.continual import gpm, leak, sgp
from subspace_jax.core import capture
from tests.continual.cases import measured, plain, plain_case, rows

PARAMS = plain_case(0)
X = jnp.asarray(rows(0, 30, 8), jnp.float32)
TABLE, SEEN = measured(plain, PARAMS, X)
PROJECT = gpm.gpm(TABLE)
KEY = jax.random.key(0)
ROUNDING, REACHED = 1e-6, 1e-2

KEEP = {
    "project, sgd": optax.chain(PROJECT, optax.sgd(0.1)),
    "project, fresh momentum": optax.chain(PROJECT, optax.sgd(0.1, momentum=0.9)),
    "momentum, project": optax.chain(optax.sgd(0.1, momentum=0.9), PROJECT),
    "adam, project": optax.chain(optax.adam(0.1), PROJECT),
    "decay, sgd, project": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1), PROJECT),
    "project, global clip": optax.chain(optax.sgd(0.1), PROJECT, optax.clip_by_global_norm(0.1)),
}
BREAK = {
    "project, adam": optax.chain(PROJECT, optax.adam(0.1)),
    "project, decay": optax.chain(PROJECT, optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "project, clip": optax.chain(PROJECT, optax.clip(0.5), optax.sgd(0.1)),
}


def stored(tx, opt_state, energy=0.9):
    """The state of a chain with GPM after one task."""
    return optax.tree.set(opt_state, bases=gpm.update(optax.tree.get(opt_state, "bases"), SEEN, energy=energy))


def leaks(tx, **options):
    return leak.leak(KEY, TABLE, tx, PARAMS, stored(tx, tx.init(PARAMS)), **options)


@pytest.mark.parametrize("name", KEEP)
def test_these_chains_keep_the_projection(name):
    found = leaks(KEEP[name])
    assert list(found) == list(TABLE)
    assert max(found.values()) < ROUNDING


@pytest.mark.parametrize("name", BREAK)
def test_these_chains_bring_it_back(name):
    found = leaks(BREAK[name])
    assert min(found.values()) > REACHED
    assert max(found.values()) <= 1 + ROUNDING


def test_a_momentum_older_than_the_basis_leaks():
    tx = optax.chain(PROJECT, optax.sgd(0.1, momentum=0.9))
    _, opt_state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    assert min(leak.leak(KEY, TABLE, tx, PARAMS, stored(tx, opt_state)).values()) > REACHED


def test_the_leak_is_the_share_of_the_change_of_the_weights():
    tx = BREAK["project, adam"]
    opt_state = stored(tx, tx.init(PARAMS))
    params, state = PARAMS, opt_state
    for i in range(5):
        gradients = optax.tree.random_like(jax.random.fold_in(KEY, i), params)
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    found = leak.leak(KEY, TABLE, tx, PARAMS, opt_state)
    for name in ("first", "second", "head"):
        change = params[name]["kernel"] - PARAMS[name]["kernel"]
        basis = optax.tree.get(opt_state, "bases")[f"{name}/kernel"].basis
        expected = jnp.linalg.norm(basis @ (basis.T @ change)) / jnp.linalg.norm(change)
        assert found[f"{name}/kernel"] == pytest.approx(float(expected), rel=1e-4)


def test_nothing_stored_or_no_update_is_no_leak():
    tx = BREAK["project, adam"]
    assert set(leak.leak(KEY, TABLE, tx, PARAMS, tx.init(PARAMS)).values()) == {0.0}
    assert set(leaks(optax.chain(optax.scale(0.0), PROJECT)).values()) == {0.0}


def test_a_full_layer_is_no_leak_and_its_decay_is_one():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="full:")
        for name, tx in {**KEEP, **BREAK}.items():
            found = leak.leak(KEY, TABLE, tx, PARAMS, stored(tx, tx.init(PARAMS), energy=1.0))
            assert "first/kernel" in found
            if name in KEEP:
                assert max(found.values()) < leak.LIMIT
            if name == "project, decay":
                assert found["first/kernel"] > 0.5


def test_sgp_is_measured_with_its_directions_closed():
    for order, holds in [((optax.adam(0.1), sgp.sgp(TABLE)), True), ((sgp.sgp(TABLE), optax.adam(0.1)), False)]:
        tx = optax.chain(*order)
        opt_state = tx.init(PARAMS)
        state = sgp.update(optax.tree.get(opt_state, "SGPState"), SEEN, energy=0.9, a=1.0)
        found = leak.leak(KEY, TABLE, tx, PARAMS, optax.tree.set(opt_state, SGPState=state))
        assert (max(found.values()) < ROUNDING) is holds


def test_wrapped_chains_are_run_too():
    tx = optax.MultiSteps(optax.chain(PROJECT, optax.adam(0.1)), 3).gradient_transformation()
    assert min(leaks(tx, steps=6).values()) > REACHED
    tx = optax.inject_hyperparams(lambda rate: optax.chain(optax.sgd(rate), PROJECT))(rate=0.1)
    assert max(leaks(tx).values()) < ROUNDING


def test_the_warning_names_the_layer_the_leak_and_the_remedy():
    with pytest.warns(UserWarning, match=r"earlier tasks use: b 18\.7%, c nan%\. Put the projection last in the chain"):
        leak.warn({"a": 1e-7, "b": 0.187, "c": float("nan")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leak.warn({"a": 1e-7})


def test_interference_is_the_energy_of_the_change_on_the_rows():
    after = plain_case(1)
    found = leak.interference(TABLE, PARAMS, after, {"second/kernel": SEEN["second/kernel"]})
    inputs = np.asarray(capture.record(plain, PARAMS, X)[1]["second/kernel"], np.float64)
    change = np.asarray(after["second"]["kernel"], np.float64) - np.asarray(PARAMS["second"]["kernel"], np.float64)
    assert found == {"second/kernel": pytest.approx(((inputs @ change) ** 2).sum(), rel=1e-5)}
    assert set(leak.interference(TABLE, PARAMS, PARAMS, SEEN).values()) == {0.0}


def test_bad_input():
    with pytest.raises(ValueError, match=r"needs a projection in opt_state .*bases=None"):
        leak.leak(KEY, TABLE, optax.sgd(0.1), PARAMS, optax.sgd(0.1).init(PARAMS))
    with pytest.raises(ValueError, match="at least 1 step; got steps=0"):
        leaks(KEEP["project, sgd"], steps=0)
    with pytest.raises(ValueError, match="no moments of any layer; there are first/kernel"):
        leak.interference(TABLE, PARAMS, PARAMS, {})
