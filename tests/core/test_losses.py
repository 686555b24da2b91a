import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import losses

SEEDS = st.integers(0, 2**31 - 1)
FLOAT32 = 1e-5


def draw(seed, scale=3.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(9, 4))).astype(np.float32), rng.integers(0, 4, 9)


@given(SEEDS, st.sampled_from([0.1, 3.0, 30.0]))
def test_cross_entropy_is_that_of_scipy(seed, scale):
    logits, y = draw(seed, scale)
    oracle = -scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(9), y]
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, y), oracle, atol=FLOAT32 * scale)


@jax.jit
def gradient(logits, y):
    return jax.grad(lambda z: losses.softmax_cross_entropy(z, y).sum())(logits)


@given(SEEDS)
def test_gradient_is_p_minus_label(seed):
    logits, y = draw(seed)
    expected = scipy.special.softmax(logits.astype(np.float64), axis=1) - np.eye(4)[y]
    np.testing.assert_allclose(gradient(logits, y), expected, atol=FLOAT32)


def test_a_classifier_gives_one_loss_a_sample():
    logits, y = draw(0)
    loss = losses.cross_entropy(lambda variables, x: variables * x)
    np.testing.assert_allclose(loss(2.0, logits, y), losses.softmax_cross_entropy(2 * logits, y))


def test_huge_logits_stay_finite_and_bfloat16_is_summed_in_float32():
    y = np.array([0, 1])
    np.testing.assert_array_equal(losses.softmax_cross_entropy(1e4 * np.eye(2, dtype=np.float32), y), np.zeros(2))
    assert losses.softmax_cross_entropy(jnp.ones((2, 3), jnp.bfloat16), y).dtype == jnp.float32


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_refused_and_nan_under_jit(label):
    y = np.array([0, 2, label, 1])
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 4\); got {label} at position 2 \(1 of 4\)"):
        losses.check_labels(y, 4)
    with pytest.raises(ValueError, match="labels must lie"):
        losses.softmax_cross_entropy(jnp.zeros((4, 4)), y)
    out = jax.jit(losses.softmax_cross_entropy)(jnp.zeros((4, 4)), y)
    np.testing.assert_array_equal(jnp.isnan(out), [False, False, True, False])
    slope = jax.jit(gradient)(jnp.zeros((4, 4)), y)  # where it is 0 a step would pass over the sample
    np.testing.assert_array_equal(jnp.isnan(slope), np.repeat(out[:, None] != out[:, None], 4, 1))


@given(SEEDS)
def test_class_rows_are_those_of_numpy_and_nan_where_a_label_is_no_class(seed):
    table, y = draw(seed)
    y[seed % 9] = 9 if seed % 2 else -1
    expected = np.where(((y >= 0) & (y < 9))[:, None], table[np.clip(y, 0, 8)], np.nan)
    np.testing.assert_array_equal(class_rows(table, y), expected)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 9\)"):
        losses.class_rows(table, y)


class_rows = jax.jit(losses.class_rows)


def test_complex_logits_are_refused_and_so_is_the_mean_of_no_loss(unchecked):
    logits, y = draw(0)
    with pytest.raises(ValueError, match="cross-entropy has no complex form; 'logits' is complex64"):
        losses.softmax_cross_entropy(logits.astype(np.complex64), y)
    with pytest.raises(ValueError, match="cross-entropy has no complex form; 'targets' is complex64"):
        losses.soft_cross_entropy(logits, np.eye(4, dtype=np.complex64)[y])
    assert losses.mean(jnp.arange(3.0)) == 1
    with pytest.raises(ValueError, match=r"the batch is empty, of shape \(0,\): give at least one entry"):
        losses.mean(jnp.zeros(0))


@given(SEEDS)
def test_soft_targets_are_weighed_as_scipy_does_and_one_hot_ones_are_labels(seed):
    logits, y = draw(seed)
    targets = scipy.special.softmax(draw(seed + 1)[0], axis=1)
    oracle = -(targets * scipy.special.log_softmax(logits.astype(np.float64), axis=1)).sum(1)
    np.testing.assert_allclose(losses.soft_cross_entropy(logits, targets), oracle, atol=FLOAT32 * 3)
    one_hot = np.eye(4, dtype=np.float32)[y]
    np.testing.assert_allclose(
        losses.soft_cross_entropy(logits, one_hot), losses.softmax_cross_entropy(logits, y), atol=FLOAT32
    )
    assert not np.any(losses.soft_cross_entropy(logits, np.zeros_like(logits)))


@pytest.mark.parametrize(
    ("targets", "match"), [(np.ones((9, 3)), "logits' shape"), (np.ones((9, 4)), "targets are no probabilities")]
)
def test_soft_targets_that_are_none_are_refused(targets, match, unchecked):
    with pytest.raises(ValueError, match=match):
        losses.soft_cross_entropy(draw(0)[0], targets.astype(np.float32))
