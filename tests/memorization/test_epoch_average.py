import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.memorization import epoch_average

update = jax.jit(epoch_average.update)
ROUNDING = 1e-6  # a float32 sum of few values


@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 3, 8]))
def test_mean_last_and_the_latest_epochs_are_those_of_the_table(seed, history):
    table = np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32)
    state = epoch_average.init(7, history=history)
    for row in table:
        state = update(state, row)
    np.testing.assert_allclose(epoch_average.finalize(state), table.mean(axis=0), atol=ROUNDING)
    np.testing.assert_array_equal(state.last, table[-1])
    for epoch in range(max(0, 5 - history), 5):
        np.testing.assert_array_equal(state.history[epoch % history], table[epoch])
    assert np.isnan(state.history[5:]).all()


def test_one_epoch_is_its_own_average_and_none_has_none():
    state = epoch_average.init(4)
    assert np.isnan(epoch_average.finalize(state)).all()
    values = np.float32([0.1, -3, 1e-20, 7])
    np.testing.assert_array_equal(epoch_average.finalize(update(state, values)), values)


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="history must keep at least 1 epoch; got 0"):
        epoch_average.init(4, history=0)
