"""Events against a count of every single addition, both counts against the papers' arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn
from subspace_jax.spiking import energy, network
from subspace_jax.spiking.network import Layer

MODEL = nn.build("cnn2", widths=(2, 3), dense=(4,), classes=2, pool="average", use_bias=False)
NETWORK = network.spiking(MODEL, jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
SHAPES = {"conv0/kernel": (8, 8, 1), "conv1/kernel": (8, 8, 2), "dense0/kernel": (4, 4, 3), "head/kernel": (4,)}
MACS = {"conv0/kernel": 9 * 2 * 64, "conv1/kernel": 9 * 2 * 3 * 16, "dense0/kernel": 12 * 4, "head/kernel": 8}


def spikes(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.integers(0, 5, shape).astype(np.float32) for path, shape in SHAPES.items()}


def brute(layer, kernel, spikes):
    """Every spike, every output, every tap."""
    if layer.dense:
        side = spikes.shape[0] // 2**layer.pools * 2**layer.pools if spikes.ndim == 3 else None
        return float(spikes[:side, :side].sum() if side else spikes.sum()) * kernel[-1]
    total, size = 0.0, 2**layer.pools
    down, across = (side // size for side in spikes.shape[:2])
    for (y, x, _), number in np.ndenumerate(spikes):
        for oy in range(down):
            for ox in range(across):
                inside = y // size < down and x // size < across
                total += number * kernel[-1] * (inside and abs(oy - y // size) <= 1 and abs(ox - x // size) <= 1)
    return total


@given(st.integers(0, 2**16), st.sampled_from([(4, 4), (5, 6), (7, 4)]), st.integers(0, 1), st.booleans())
def test_events_are_counted_one_by_one(seed, sides, pools, dense):
    own = np.random.default_rng(seed).integers(0, 4, (*sides, 2)).astype(np.float64)
    kernel = (int(np.prod([side >> pools for side in sides])) * 2, 3) if dense else (3, 3, 2, 3)
    layer = Layer("a", dense, pools)
    assert energy.events(layer, kernel, own) == brute(layer, kernel, own)


def test_events_are_a_product_with_ones():
    found = energy.events_by_product(NETWORK, spikes(0))
    kernels = {"conv0": (3, 3, 1, 2), "conv1": (3, 3, 2, 3), "dense0": (12, 4), "head": (4, 2)}
    for layer in NETWORK.layers:
        expected = brute(layer, kernels[layer.path.split("/")[0]], spikes(0)[layer.path])
        assert found[layer.path] == pytest.approx(expected, rel=1e-6)


def test_the_rate_formula_is_mean_spikes_times_products_and_a_quarter_of_the_events_inside_a_pooled_map():
    own = spikes(1)
    found = energy.spiking_energy(NETWORK, own, count="rate")
    assert found.classifier == pytest.approx(4.6 * sum(MACS.values()))
    for path, macs in MACS.items():
        assert found.layers[path] == pytest.approx(0.9 * own[path].mean() * macs, rel=1e-6)
    assert found.ratio == pytest.approx(found.classifier / sum(found.layers.values()))
    exact = energy.spiking_energy(NETWORK, own).layers
    assert exact["dense0/kernel"] == pytest.approx(4 * found.layers["dense0/kernel"], rel=1e-6)
    assert exact["head/kernel"] == pytest.approx(found.layers["head/kernel"], rel=1e-6)


def test_an_image_pays_multiply_accumulates_at_each_step_or_once():
    for steps in (4, 1):
        found = energy.spiking_energy(NETWORK, spikes(2), analog_steps=steps)
        assert found.layers["conv0/kernel"] == pytest.approx(4.6 * steps * MACS["conv0/kernel"])


def test_no_spike_costs_nothing_and_missing_layers_are_refused():
    silent = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    for count in ("events", "rate"):
        found = energy.spiking_energy(NETWORK, silent, count=count)
        assert (found.total, found.ratio) == (0, np.inf)
    with pytest.raises(ValueError, match="spikes say nothing of 'head/kernel'"):
        energy.spiking_energy(NETWORK, {path: own for path, own in silent.items() if path != "head/kernel"})
