import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from subspace_jax.memorization import dynamics

EPOCHS, SAMPLES, CLASSES = 6, 9, 3
FLOAT32 = 1e-5
update = jax.jit(dynamics.update)


def run(logits, y):
    state = dynamics.init(SAMPLES)
    for epoch in logits:
        state = update(state, jnp.asarray(epoch), y)
    return dynamics.finalize(state)


def loop(logits, y):
    """One sample and one epoch at a time, in float64."""
    found = {name: [] for name in ("loss", "margin", "learning_time", "forgetting", "inconfidence")}
    for i in range(SAMPLES):
        history = logits[:, i].astype(np.float64)
        gaps = [z[y[i]] - max(z[k] for k in range(CLASSES) if k != y[i]) for z in history]
        right = [gap > 0 for gap in gaps]
        losses = [-log_softmax(z)[y[i]] for z in history]
        found["loss"].append(np.mean(losses))
        found["margin"].append(-np.mean(gaps))
        found["learning_time"].append(right.index(True) / EPOCHS if any(right) else 1.0)
        found["forgetting"].append(sum(before and not after for before, after in itertools.pairwise(right)))
        found["inconfidence"].append(1 - np.exp(-losses[-1]))
    return found


@given(st.integers(0, 2**31 - 1), st.sampled_from([1.0, 8.0]))
def test_every_baseline_is_that_of_the_plain_loop(seed, levels):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(EPOCHS, SAMPLES, CLASSES)) * levels).round() / levels  # coarse: many ties
    logits, y = logits.astype(np.float32), rng.integers(0, CLASSES, SAMPLES)
    found, oracle = run(logits, y), loop(logits, y)
    assert found.keys() == oracle.keys()
    for name, values in oracle.items():
        np.testing.assert_allclose(found[name], values, atol=FLOAT32, err_msg=name)


def test_an_epoch_without_finite_logits_is_wrong():
    y = np.arange(SAMPLES) % CLASSES
    right = 5 * np.eye(CLASSES, dtype=np.float32)[y]
    found = run(np.stack([right, np.full_like(right, np.nan)]), y)
    np.testing.assert_array_equal(found["forgetting"], 1)
    assert np.isnan(found["loss"]).all()


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 3\); got {label} at position 0"):
        dynamics.update(dynamics.init(2), jnp.zeros((2, CLASSES)), np.array([label, 0]))
