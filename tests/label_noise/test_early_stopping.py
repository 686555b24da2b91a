import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn, training
from subspace_jax.core import losses
from subspace_jax.label_noise import early_stopping

CHECKS = 12
LOSSES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, float("nan")]), min_size=CHECKS, max_size=CHECKS)
STEP = jax.jit(early_stopping.update, static_argnames="patience")


def network(number):
    return {"params": {"w": np.full((2, 3), number, np.float32)}, "batch_stats": {"count": np.int32(number)}}


def follow(values, patience):
    state = early_stopping.init(network(0))
    for number, loss in enumerate(values, 1):
        state = STEP(state, network(number), np.float32(loss), patience=patience)
    return state


def by_hand(values, patience):
    """(best check, its loss, checks made) of a loop that really stops."""
    best, lowest = 0, np.inf
    for number, loss in enumerate(values, 1):
        if loss < lowest:
            best, lowest = number, loss
        if number - best == patience:
            return best, lowest, number
    return best, lowest, len(values)


@given(LOSSES, st.sampled_from([1, 2, 5]))
def test_it_keeps_what_a_loop_that_stops_returns(values, patience):
    state, (best, lowest, checks) = follow(values, patience), by_hand(values, patience)
    assert (int(state.best), int(state.checks)) == (best, checks)
    assert np.float32(state.loss) == np.float32(lowest)
    chex.assert_trees_all_equal(state.variables, network(best))


def test_what_comes_after_the_stop_is_ignored():
    stopped = follow([0.3, 0.4, 0.4], 2)
    assert int(stopped.checks) == 3
    chex.assert_trees_all_equal(STEP(stopped, network(4), jnp.float32(0.0), patience=2), stopped)


def test_a_scan_and_many_runs_at_once():
    values = jnp.asarray(np.random.default_rng(0).random((3, CHECKS)), jnp.float32)

    def run(losses):
        def check(state, step):
            number = {"params": {"w": jnp.full((2, 3), step[0], jnp.float32)}, "batch_stats": {"count": step[0]}}
            return early_stopping.update(state, number, step[1]), None

        return jax.lax.scan(check, early_stopping.init(network(0)), (jnp.arange(1, CHECKS + 1), losses))[0]

    together = jax.device_get(jax.jit(jax.vmap(run))(values))
    for k, row in enumerate(np.asarray(values)):
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, k=k: leaf[k], together), follow(row, 5))


def test_as_a_hook_it_keeps_the_network_of_its_epoch():
    model = nn.build("mlp", classes=3, widths=(8,))
    x, y = np.asarray(jax.random.normal(jax.random.key(0), (30, 5))), np.arange(30) % 3
    tx = optax.sgd(1.0)
    start = jax.jit(lambda: training.create(jax.random.key(1), model, tx, x[:1]))()
    seen = [training.variables(start)]

    @jax.jit
    def held_out(variables):
        return losses.softmax_cross_entropy(model.apply(variables, x[20:]), y[20:]).mean()

    def update(carry, state, epoch):
        seen.append(training.variables(state))
        return STEP(carry, seen[-1], held_out(seen[-1]), patience=2)

    hook = training.Hook(early_stopping.init(seen[0]), update)
    epoch_fn = training.train_epoch(model, tx, batch=10)
    _, carries = training.fit(epoch_fn, start, (x[:20], y[:20]), epochs=12, hooks={"stop": hook})
    found = carries["stop"]
    assert 1 <= int(found.best) < 12  # labels without a meaning: it gets worse on others
    chex.assert_trees_all_equal(found.variables, seen[int(found.best)])


def test_no_patience_is_refused():
    with pytest.raises(ValueError, match=r"patience is the number of checks.*got 0"):
        early_stopping.update(early_stopping.init(network(0)), network(1), jnp.float32(0), patience=0)
