import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.memorization import second_split

EPOCHS, SAMPLES, CLASSES = 5, 12, 3
update = jax.jit(second_split.update)


def run(logits, y):
    state = second_split.init(SAMPLES)
    for epoch in logits:
        state = update(state, jnp.asarray(epoch), y)
    return second_split.finalize(state)


@given(st.integers(0, 2**31 - 1))
def test_suspicion_falls_with_the_epoch_first_forgotten(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, SAMPLES)
    logits = rng.normal(size=(EPOCHS, SAMPLES, CLASSES)) + 2 * np.eye(CLASSES)[y]
    oracle = []
    for i in range(SAMPLES):
        wrong = [epoch for epoch in range(EPOCHS) if logits[epoch, i].argmax() != y[i]]
        oracle.append(1 - wrong[0] / EPOCHS if wrong else 0.0)
    np.testing.assert_allclose(run(logits.astype(np.float32), y), oracle, atol=1e-6)


def test_a_network_that_diverges_forgets_everything():
    y = np.arange(SAMPLES) % CLASSES
    right = np.eye(CLASSES, dtype=np.float32)[y]
    np.testing.assert_array_equal(run([right, np.full_like(right, np.nan)], y), 0.5)


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="labels must lie"):
        second_split.update(second_split.init(2), jnp.zeros((2, CLASSES)), np.array([0, -1]))
