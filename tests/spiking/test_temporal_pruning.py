"""Stages of fewer time steps: what each starts from, that a schedule of one is plain training, what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.spiking import temporal_pruning
from subspace_jax.spiking.network import Layer, Spiking

PARAMS = {"a": np.ones((4, 3), np.float32), "b": np.ones((3, 2), np.float32)}
NETWORK = Spiking(PARAMS, (Layer("a", True, 0), Layer("b", True, 0)), print)
X = np.random.default_rng(0).uniform(0, 1, (5, 4)).astype(np.float32)


def moved(key, params, thresholds, steps, x):
    """A stage that depends on all that it is given."""
    return jax.tree.map(lambda p: p + steps * thresholds[0] * x.mean() * jax.random.normal(key, p.shape), params)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 0.95))
def test_schedules_fall_from_first_to_last(one, other, factor):
    first, last = max(one, other), min(one, other)
    found = temporal_pruning.schedule(first, last, factor=factor)
    assert (found[0], found[-1]) == (first, last)
    assert all(less < more for more, less in itertools.pairwise(found))


def test_a_schedule_of_one_stage_is_plain_training():
    method = temporal_pruning.shorten(NETWORK, [0.5], (6,), moved, order="update_first")
    key = jax.random.key(1)
    state, info = method.step(key, method.init(key, {"params": PARAMS}), X)
    jax.tree.map(np.testing.assert_array_equal, state.params, moved(key, PARAMS, jnp.float32([0.5]), 6, X))
    assert (int(info["steps"]), int(state.stage)) == (6, 1)
    assert not np.array_equal(state.params["a"], PARAMS["a"])


@pytest.mark.parametrize("rescale", [False, True])
def test_each_stage_starts_with_the_weights_and_thresholds_of_the_one_before(rescale):
    calls = []

    def train(key, params, thresholds, steps, samples):
        calls.append((int(params), np.asarray(thresholds).tolist(), steps, samples))
        return params + 1

    method = temporal_pruning.shorten(NETWORK, [2.0], (16, 8, 4), train, order="update_first", rescale=rescale)
    state = method.init(jax.random.key(0), {"params": 0})
    for _ in range(3):
        state, _ = method.step(jax.random.key(0), state, "x")
    volts = [2.0, 1.0, 0.5] if rescale else [2.0] * 3
    assert calls == [(stage, [volts[stage]], steps, "x") for stage, steps in enumerate((16, 8, 4))]
    assert (state.params, state.thresholds.tolist()) == (3, volts[-1:])
    with pytest.raises(ValueError, match="all 3 stages are done"):
        method.step(jax.random.key(0), state, "x")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: temporal_pruning.shorten(NETWORK, [1.0], (8, 8), moved), r"fewer steps than the last; got \(8, 8\)"),
        (lambda: temporal_pruning.shorten(NETWORK, [1.0], (), moved), r"at least one stage.*got \(\)"),
        (lambda: temporal_pruning.shorten(NETWORK, [1.0], (8, 2), moved), "takes at least 3 steps; got 2"),
        (lambda: temporal_pruning.shorten(NETWORK, [1.0], (8, 0), moved, order="update_first"), "least 1 steps"),
        (lambda: temporal_pruning.schedule(4, 8), "got 4, 8 and 0.5"),
        (lambda: temporal_pruning.schedule(8, 4, factor=1.0), "got 8, 4 and 1.0"),
    ],
)  # fmt: skip
def test_schedules_that_do_not_fall_or_end_too_short_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
