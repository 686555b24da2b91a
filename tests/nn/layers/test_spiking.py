"""Leaky integrate-and-fire neurons against a loop in float64, and the surrogates against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.nn.layers.spiking import SURROGATES, fire, lif

DRIVES = np.random.default_rng(0).normal(0.2, 0.6, (12, 4, 3)).astype(np.float32)
jitted = jax.jit(lif, static_argnames=("order", "surrogate"))


def stepped(drive, threshold, leak, order):
    """One step after the other, in float64."""
    membrane, spikes = np.zeros(drive.shape[1:]), []
    for own in drive.astype(np.float64):
        fired = membrane > threshold
        membrane = leak * membrane + own - threshold * fired
        spikes.append(fired if order == "spike_first" else membrane > threshold)
    return np.array(spikes, np.float32), membrane


@given(st.integers(0, 2**16), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([1.0, 0.875, 0.5]))
def test_spikes_are_those_of_a_loop_and_spike_first_is_one_step_late_for_every_leak(seed, threshold, leak):
    """On dyadic numbers, so that float32 is exact at leak 1 and no membrane lies within rounding of the threshold."""
    drive = np.random.default_rng(seed).integers(-8, 16, DRIVES.shape).astype(np.float32) / 16
    early, membrane = jitted(drive, threshold, leak)
    late, _ = jitted(drive, threshold, leak, order="spike_first")
    expected, last = stepped(drive, threshold, leak, "update_first")
    np.testing.assert_array_equal(early, expected)
    np.testing.assert_allclose(membrane[-1], last, atol=1e-5)
    np.testing.assert_array_equal(late, stepped(drive, threshold, leak, "spike_first")[0])
    np.testing.assert_array_equal(late[1:], early[:-1])
    assert not late[0].any()


@given(st.floats(0.02, 1.0), st.floats(1.0, 3.0))
def test_a_constant_drive_fires_at_its_share_of_the_threshold(share, threshold):
    drive = jnp.full((40,), share * threshold, jnp.float32)
    assert abs(float(jitted(drive, threshold, 1.0)[0].sum()) - 40 * share) <= 1 + 1e-3


@pytest.mark.parametrize("name", SURROGATES)
def test_the_derivative_of_a_spike_is_the_surrogate_over_the_threshold(name):
    z, threshold = np.array([-2.0, -0.5, 0.0, 0.25, 1.5]), 0.5
    expected = {
        "triangle": 0.3 * np.maximum(0, 1 - abs(z)),
        "sigmoid": 4 * np.exp(-4 * z) / (1 + np.exp(-4 * z)) ** 2,
        "arctan": 1 / (1 + (np.pi * z) ** 2),
    }[name] / threshold
    membrane = jnp.asarray(threshold * (z + 1), jnp.float32)
    along, higher = jax.vmap(jax.grad(fire(name), argnums=(0, 1)), in_axes=(0, None))(membrane, jnp.float32(threshold))
    np.testing.assert_allclose(along, expected, rtol=2e-5)
    np.testing.assert_allclose(higher, -expected * (z + 1), rtol=2e-5, atol=1e-6)


def test_gradients_flow_through_the_leak_and_not_through_the_reset():
    """d/d(drive_s) of sum_t o_t is sum_{t >= s} leak^(t - s) s(z_t) / V, whatever was subtracted."""
    threshold, leak = 0.5, 0.75
    spikes, membrane = jitted(DRIVES, threshold, leak)
    found = jax.grad(lambda drive: jitted(drive, threshold, leak)[0].sum())(jnp.asarray(DRIVES))
    slope = 0.3 * np.maximum(0, 1 - abs(np.asarray(membrane, np.float64) / threshold - 1)) / threshold
    expected, later = np.zeros_like(slope), 0.0
    for t in reversed(range(len(slope))):
        later = leak * later + slope[t]
        expected[t] = later
    assert spikes.sum() > 5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_spikes_are_those_of_snntorch():
    """Its Leaky neuron with reset by subtraction of what fired a step before, which is the recurrence here."""
    snntorch, torch = pytest.importorskip("snntorch"), pytest.importorskip("torch")
    drive = np.random.default_rng(3).integers(-8, 16, DRIVES.shape).astype(np.float32) / 16
    neuron = snntorch.Leaky(beta=0.875, threshold=0.5, reset_mechanism="subtract")
    membrane, spikes = neuron.init_leaky(), []
    for own in torch.from_numpy(drive):
        spike, membrane = neuron(own, membrane)
        spikes.append(spike.numpy())
    np.testing.assert_array_equal(jitted(drive, 0.5, 0.875)[0], spikes)


def test_a_bfloat16_drive_has_float32_membranes():
    spikes, membrane = lif(jnp.full((300, 1), 2.0**-8, jnp.bfloat16), 1.0, 1.0)
    assert membrane.dtype == spikes.dtype == jnp.float32
    assert float(spikes.sum()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"order": "late"}, "'late'"), ({"surrogate": "step"}, "'step'"), ({"drive": np.zeros((0, 2))}, "0 steps")],
)
def test_what_is_no_order_surrogate_or_step_is_refused(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        lif(**({"drive": DRIVES, "threshold": 1.0} | arguments))
