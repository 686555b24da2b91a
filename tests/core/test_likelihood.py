"""Gaussians of several models: NumPy in float64 and JAX in float32 do the same, as SciPy does."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm

from subspace_jax.core import likelihood

SEEDS = st.integers(0, 2**31 - 1)
FLOAT32 = 1e-4
label_logit = jax.jit(likelihood.label_logit)


@given(SEEDS)
def test_log_ratio_is_the_difference_of_normal_densities_on_both_kinds_of_arrays(seed):
    rng = np.random.default_rng(seed)
    values, mask = rng.normal(size=(6, 4)), np.arange(6)[:, None] % 2 == 0
    inside, outside = (likelihood.fit(values, m, axis=0) for m in (mask, ~mask))
    for got, rows in ((inside, values[::2]), (outside, values[1::2])):
        np.testing.assert_allclose(got.mean, rows.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(got.std, rows.std(axis=0), atol=1e-12)
    ratio = likelihood.log_ratio(values[0], inside, outside)
    assert ratio.dtype == np.float64
    np.testing.assert_allclose(ratio, norm.logpdf(values[0], *inside) - norm.logpdf(values[0], *outside), rtol=1e-9)
    on_device = [likelihood.floored(likelihood.fit(jnp.asarray(values), m, axis=0)) for m in (mask, ~mask)]
    again = likelihood.log_ratio(jnp.asarray(values[0]), *on_device)
    assert isinstance(again, jax.Array)
    np.testing.assert_allclose(again, ratio, rtol=FLOAT32, atol=FLOAT32 * abs(ratio).max())


def test_models_that_agree_have_the_floor_as_their_spread():
    alike = likelihood.fit(np.full((3, 2), 2.0), np.ones((3, 1), bool), axis=0)
    np.testing.assert_array_equal(likelihood.floored(alike).std, likelihood.STD_FLOOR)


@given(SEEDS)
def test_label_logit_is_the_log_odds_of_every_row_and_query(seed):
    rng = np.random.default_rng(seed)
    logits, y = 5 * rng.normal(size=(2, 9, 4)), rng.integers(0, 4, 9)
    p = np.exp(log_softmax(logits, axis=-1))[:, np.arange(9), y]
    found = likelihood.label_logit(logits, y)
    np.testing.assert_allclose(found, np.log(p / (1 - p)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found, likelihood.label_logit(log_softmax(logits, axis=-1), y), atol=1e-9)
    np.testing.assert_allclose(found, label_logit(logits, y), rtol=FLOAT32, atol=FLOAT32)
    per_row = likelihood.label_logit(logits, np.stack([y, y]))
    np.testing.assert_array_equal(found, per_row)


def test_label_logit_of_certain_networks_does_not_round():
    logits = np.array([[800.0, 0, 1], [-800.0, 0, 1]])
    expected = [800 - logsumexp([0, 1]), -800 - logsumexp([0, 1])]
    np.testing.assert_allclose(likelihood.label_logit(logits, np.zeros(2, int)), expected, rtol=1e-14)
