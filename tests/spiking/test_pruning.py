"""Accumulated potentials against a loop over time, counts against NumPy, selected channels against a masked network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn
from subspace_jax.core import moments
from subspace_jax.core.moments import Moments
from subspace_jax.spiking import encode, network, pruning

ARGUMENTS = {"dense": (6,), "classes": 3, "pool": "average", "use_bias": False}
MODEL = nn.build("cnn2", widths=(3, 5), **ARGUMENTS)
X = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
V, LEAK = (0.5, 0.25, 0.25), 0.75


@functools.cache
def made():
    return network.spiking(MODEL, jax.jit(MODEL.init)(jax.random.key(0), X[:1]))


@functools.cache
def read():
    spikes = encode.poisson(jax.random.key(1), X, np.arange(5), steps=6)
    return spikes, network.trace(made(), V, spikes, order="update_first", leak=LEAK)


def step_by_step(layer, mode, threshold):
    """The potential of a layer, one step after the other, in float64."""
    kernel = made().params[layer.path.split("/")[0]]["kernel"]
    membrane, never, total = 0.0, 0.0, []
    for spikes in read()[1][layer.path]:
        own = np.asarray(network.drive(layer, kernel, spikes[None])[0], np.float64)
        membrane, never = LEAK * membrane + own, LEAK * never + own
        membrane = membrane - threshold * (membrane > threshold)
        total.append(own if mode == "drive" else membrane)
    return never / len(total) if mode == "leaky" else np.mean(total, 0)


@pytest.mark.parametrize("mode", ["drive", "leaky"])
def test_one_product_of_the_mean_spikes_is_the_mean_of_the_products(mode):
    found = pruning.accumulated_potential(made(), V, read()[0], mode=mode, leak=LEAK, order="update_first")
    assert list(found) == [layer.path for layer in made().layers[:-1]]
    for layer, threshold in zip(made().layers, V, strict=False):
        np.testing.assert_allclose(found[layer.path], step_by_step(layer, mode, threshold), atol=1e-6)


def test_the_membrane_is_that_after_the_reset():
    """V is taken off after the leak of the next step: with leak 1 both ways are one."""
    own = network.trace(made(), V, read()[0], order="update_first", leak=1.0)
    found = pruning.accumulated_potential(made(), V, read()[0], mode="membrane", leak=1.0, order="update_first")
    layer, membrane, total = made().layers[0], 0.0, []
    for spikes in own[layer.path]:
        membrane = membrane + np.asarray(
            network.drive(layer, made().params["conv0"]["kernel"], spikes[None])[0], np.float64
        )
        membrane = membrane - V[0] * (membrane > V[0])
        total.append(membrane)
    np.testing.assert_allclose(found[layer.path], np.mean(total, 0), atol=1e-5)


@given(st.integers(0, 2**16), st.integers(1, 4))
def test_counts_do_not_exceed_the_rank_rise_with_tau_and_ignore_mixing_scale_and_shifts(seed, rank):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 5))
    mixing = np.linalg.qr(rng.normal(size=(5, 5)))[0]

    def counted(values, tau):
        potentials = [{"a": values[:25].reshape(5, 5, 5)}, {"a": values[25:]}]
        return pruning.widths(pruning.channel_moments(potentials), tau=tau)["a"]

    found = [counted(rows, tau) for tau in (0.5, 0.9, 0.99, 1 - 1e-9)]
    assert found == sorted(found)
    assert found[-1] == rank
    assert counted(3 * rows @ mixing + rng.normal(size=(1, 5)), 0.9) == found[1]
    shares = np.cumsum(np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1])
    assert found[1] == 1 + np.searchsorted(shares / shares[-1], 0.9)


def test_a_grey_image_gives_nine_dimensions_at_most_whatever_was_learned():
    wide = nn.build("cnn2", widths=(16, 2), **ARGUMENTS)
    own = network.spiking(wide, jax.jit(wide.init)(jax.random.key(0), X[:1]))
    found = pruning.accumulated_potential(own, V, read()[0], order="update_first")
    first = {"conv0/kernel": found["conv0/kernel"]}
    assert pruning.widths(pruning.channel_moments([first]), tau=1 - 1e-9)["conv0/kernel"] <= 9


@pytest.mark.parametrize("kind", ["random", "magnitude"])
def test_selected_channels_are_the_wide_network_with_the_others_silenced(kind):
    kept = pruning.select(made().params, made().layers, widths=(2, 3, 4), kind=kind, key=jax.random.key(0))
    narrow = nn.build("cnn2", widths=(2, 3), **(ARGUMENTS | {"dense": (4,)}))
    silenced = dict(made().params)
    for name in ("conv0", "conv1", "dense0"):
        wide, few = np.asarray(made().params[name]["kernel"]), np.asarray(kept[name]["kernel"])
        if name == "conv0":
            there = [any(np.array_equal(wide[..., i], few[..., j]) for j in range(2)) for i in range(3)]
            assert sum(there) == 2
        else:
            whole = pruning.select(made().params, made().layers, widths=(3, 5, 6), kind=kind, key=jax.random.key(0))
            np.testing.assert_array_equal(whole[name]["kernel"], wide)
            there = chosen(name, kind)
        silenced[name] = {"kernel": jnp.asarray(wide * np.asarray(there))}
    apply = functools.partial(MODEL.apply, {"params": silenced, "batch_stats": {}})
    found = narrow.apply({"params": kept, "batch_stats": {}}, X)
    np.testing.assert_allclose(found, apply(X), atol=1e-5)


def chosen(name, kind):
    """Which channels stay: by norm, or read off a selection that cuts this layer alone."""
    wide = np.asarray(made().params[name]["kernel"])
    count, number = {"conv1": (3, 1), "dense0": (4, 2)}[name]
    if kind == "magnitude":
        norms = np.abs(wide).reshape(-1, wide.shape[-1]).sum(0)
        return norms >= np.sort(norms)[-count]
    few = [3, 5, 6]
    few[number] = count
    alone = pruning.select(made().params, made().layers, widths=few, kind=kind, key=jax.random.key(0))[name]["kernel"]
    return [any(np.array_equal(wide[..., i], alone[..., j]) for j in range(count)) for i in range(wide.shape[-1])]


@given(st.integers(0, 2**16), st.integers(2, 8))
def test_quantised_weights_are_near_odd_and_stay_where_they_are(seed, bits):
    w = {"a": np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)}
    found = pruning.quantise_weights(w, bits)
    scale = np.abs(w["a"]).max() / (2 ** (bits - 1) - 1)
    assert np.abs(found["a"] - w["a"]).max() <= scale / 2 + 1e-6
    assert len(np.unique(np.round(found["a"] / scale))) <= 2**bits - 1
    np.testing.assert_allclose(pruning.quantise_weights(found, bits)["a"], found["a"], rtol=1e-6)
    np.testing.assert_array_equal(pruning.quantise_weights({"a": -w["a"]}, bits)["a"], -found["a"])
    assert pruning.quantise_weights(w, 32) is w
    assert not pruning.quantise_weights({"a": jnp.zeros(3)}, bits)["a"].any()


@given(st.integers(0, 2**16), st.integers(2, 4))
def test_channels_that_repeat_others_are_not_counted(seed, times):
    rows = np.random.default_rng(seed).normal(size=(40, 3))
    found = pruning.widths(pruning.channel_moments([{"a": np.tile(rows, times)}]), tau=1 - 1e-9)
    assert found["a"] <= 3


def test_the_covariance_of_a_stream_is_that_of_one_batch():
    rows = np.random.default_rng(0).normal(5.0, 1.0, (64, 4, 4, 3)).astype(np.float32)  # a mean that would cancel
    parts = [{"a": part} for part in np.split(rows, [7, 30])]
    found = moments.covariance(pruning.channel_moments(parts)["a"])
    np.testing.assert_allclose(found, np.cov(rows.reshape(-1, 3).astype(np.float64).T, bias=True), atol=1e-5)


@pytest.mark.parametrize("widths", [(1, 2, 6), (3, 5, 6), (2, 4, 1)])
def test_parameters_are_those_of_the_narrower_network(widths):
    narrow = nn.build("cnn2", widths=widths[:2], **(ARGUMENTS | {"dense": widths[2:]}))
    leaves = jax.tree.leaves(jax.eval_shape(narrow.init, jax.random.key(0), X[:1])["params"])
    assert pruning.parameters(made(), widths) == sum(leaf.size for leaf in leaves)
    assert pruning.parameters(made(), widths) == 9 * widths[0] * (1 + widths[1]) + widths[2] * (4 * widths[1] + 3)


def test_a_projection_keeps_linear_layers_whose_potentials_lie_in_it():
    """Two dimensions of drive in the first layer, in pairs x, -x, so that their mean is zero."""
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(9, 2)) @ rng.normal(size=(2, 3))).reshape(3, 3, 1, 3).astype(np.float32)
    own = made()._replace(params=made().params | {"conv0": {"kernel": jnp.asarray(kernel)}})
    both = np.concatenate([X, -X])
    first = network.drive(own.layers[0], own.params["conv0"]["kernel"], both[None])[0]
    measured = pruning.channel_moments([{"conv0/kernel": first}])
    kept = pruning.project(own.params, own.layers, measured, widths=(2, 5, 6))
    assert [own["kernel"].shape[-1] for own in kept.values()] == [2, 5, 6, 3]
    assert pruning.widths(measured, tau=1 - 1e-9) == {"conv0/kernel": 2}
    np.testing.assert_allclose(linear(own.layers, kept), linear(own.layers, own.params), atol=1e-4)


def linear(layers, params):
    """The chain without neurons."""
    x = jnp.asarray(X)[None]
    for layer in layers:
        x = network.drive(layer, params[layer.path.split("/")[0]]["kernel"], x)
    return x[0]


def test_full_widths_are_not_rotated():
    kept = pruning.project(made().params, made().layers, {}, widths=(3, 5, 6))
    jax.tree.map(np.testing.assert_array_equal, kept, made().params)


THIN = {"a": Moments(np.eye(3), np.zeros(3), 2.0)}
FLAT = {"a": Moments(np.zeros((3, 3)), np.zeros(3), 9.0)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pruning.accumulated_potential(made(), V, X[None], mode="mean"), "mode is 'drive'.*got 'mean'"),
        (lambda: pruning.channel_moments([]), "there is no batch"),
        (lambda: pruning.channel_moments([{"a": jnp.full((2, 3), jnp.nan)}]), "potential of 'a' must be finite"),
        (lambda: pruning.widths(THIN, tau=0.9), "'a': 2 rows cannot count 3 channels"),
        (lambda: pruning.widths(FLAT, tau=0.9), "'a' gives the same for every sample"),
        (lambda: pruning.widths(THIN | {"a": THIN["a"]._replace(count=9.0)}, tau=0), "tau"),
        (lambda: pruning.select(made().params, made().layers, widths=(2, 3), kind="magnitude"), "at most"),
        (lambda: pruning.select(made().params, made().layers, widths=(2, 3, 7), kind="magnitude"), "got .2, 3, 7"),
        (lambda: pruning.select(made().params, made().layers, widths=(1, 1, 1, 1), kind="magnitude"), "the classes"),
        (lambda: pruning.project(made().params, made().layers, {}, widths=(2, 3, 4, 2)), "are the classes"),
        (lambda: pruning.parameters(made(), (0, 3, 4)), "got .0, 3, 4"),
        (lambda: pruning.select(made().params, made().layers, widths=(2, 3, 4), kind="first"), "got 'first'"),
        (lambda: pruning.quantise_weights({}, 1), "since one bit has no symmetric grid with 0; got 1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
