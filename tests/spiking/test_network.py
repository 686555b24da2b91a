"""Layer by layer against step by step; what scaling, conversion and dropout leave as it was; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.nn.vision import average
from subspace_jax.spiking import encode, network, thresholds
from subspace_jax.spiking.network import Layer

PLAIN = {"use_bias": False}
MODEL = nn.build("cnn2", widths=(3, 4), dense=(6,), classes=5, pool="average", **PLAIN)
X = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
V = (0.5, 0.25, 0.25)
PATHS = ["conv0/kernel", "conv1/kernel", "dense0/kernel", "head/kernel"]


@functools.cache
def made():
    variables = jax.jit(MODEL.init)(jax.random.key(0), X[:1])
    return network.spiking(MODEL, variables)


@functools.cache
def spikes():
    return encode.poisson(jax.random.key(1), X, np.arange(6), steps=8)


@functools.partial(jax.jit, static_argnames=("order", "leak"))
def ran(params, v, spikes, *, order="update_first", leak=0.9901):
    return network.run(made()._replace(params=params), v, spikes, order=order, leak=leak)


def step_by_step(params, v, spikes, *, order, leak):
    """The whole network at one step after the other, in float64."""
    kernels = [np.asarray(params[path.split("/")[0]]["kernel"], np.float64) for path in PATHS]
    membranes, total = [0.0, 0.0, 0.0], 0.0
    for own in np.asarray(spikes, np.float64):
        for i, kernel in enumerate(kernels):
            own = pooled(own) if i in (1, 2) else own
            drive = convolved(own, kernel) if kernel.ndim == 4 else own.reshape(len(own), -1) @ kernel
            if i == 3:
                total = total + drive
                break
            fired = np.asarray(membranes[i] > v[i], np.float64)
            membranes[i] = leak * membranes[i] + drive - v[i] * fired
            own = fired * np.ones_like(drive) if order == "spike_first" else (membranes[i] > v[i]) * 1.0
    return total / len(spikes)


def pooled(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def convolved(x, kernel):
    """A 3x3 convolution that keeps the size, tap by tap."""
    padded, (h, w) = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), x.shape[1:3]
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


@pytest.mark.parametrize("order", ["update_first", "spike_first"])
def test_layer_by_layer_is_step_by_step(order):
    params = jax.tree.map(lambda w: jnp.round(w * 64) / 64, made().params)  # exact sums: no spike hangs on rounding
    logits, _ = ran(params, V, spikes(), order=order, leak=1.0)
    expected = step_by_step(params, V, spikes(), order=order, leak=1.0)
    assert np.ptp(expected) > 0.01
    np.testing.assert_array_equal(logits, expected.astype(np.float32))


def test_weights_and_threshold_scale_together():
    """By a power of two no bit changes, by 3 up to rounding; the next layer sees the same spikes."""
    logits, read = ran(made().params, V, spikes())
    scaled = made().params | {"conv1": {"kernel": 4 * made().params["conv1"]["kernel"]}}
    other, same = ran(scaled, (V[0], 4 * V[1], V[2]), spikes())
    np.testing.assert_array_equal(logits, other)
    for path in PATHS:
        np.testing.assert_array_equal(read[path], same[path])
    scaled["conv1"] = {"kernel": 3 * made().params["conv1"]["kernel"]}
    other, same = ran(scaled, (V[0], 3 * V[1], V[2]), spikes())
    assert np.mean(np.asarray(same["conv1/kernel"]) != np.asarray(read["conv1/kernel"])) == 0
    assert np.mean(np.asarray(same["dense0/kernel"]) != np.asarray(read["dense0/kernel"])) < 0.01


def test_many_steps_without_leak_approach_the_classifier():
    """A held image, leak 1: the rates of neurons tend to V times the ReLU, and the logits to the classifier's."""
    own = made()
    rows = thresholds.balance(own, encode.direct(X), percentile=100, order="update_first", leak=1.0, hold=64)
    logits, _ = network.run(
        own, [row.threshold for row in rows], encode.direct(X), hold=256, leak=1.0, order="update_first"
    )
    relu = np.asarray(MODEL.apply({"params": own.params, "batch_stats": {}}, X))
    scale = np.prod([row.threshold for row in rows])  # a spike of each layer stands for V of ReLU
    np.testing.assert_allclose(np.asarray(logits) * scale, relu, atol=0.08 * np.abs(relu).max())


def test_gradients_reach_every_kernel_and_threshold():
    def loss(params, v):
        return jnp.square(network.run(made()._replace(params=params), v, spikes(), order="update_first")[0]).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(made().params, V)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_a_dropped_neuron_is_silent_at_every_step_and_a_held_frame_is_multiplied_as_if_repeated():
    read = network.trace(
        made(), V, jnp.ones((6, 6, 8, 8, 1)), order="update_first", key=jax.random.key(0), rate=0.5, leak=1.0
    )
    whole = network.trace(made(), V, jnp.ones((6, 6, 8, 8, 1)), order="update_first", leak=1.0)
    fires, kept = whole["conv1/kernel"].any(0), read["conv1/kernel"].any(0)
    assert 0.3 < kept[fires].mean() < 0.7
    np.testing.assert_array_equal(read["conv1/kernel"], 2 * np.asarray(whole["conv1/kernel"]) * np.asarray(kept)[None])
    held = network.run(made(), V, X[None], hold=4, order="update_first")[0]
    repeated = network.run(made(), V, jnp.repeat(X[None], 4, 0), order="update_first")[0]
    np.testing.assert_allclose(held, repeated, atol=1e-6)


def test_thresholds_are_the_largest_percentile_over_the_steps_with_earlier_ones_in_force():
    own = made()
    rows = thresholds.balance(own, spikes(), percentile=99, order="update_first")
    kernel = np.asarray(own.params["conv0"]["kernel"], np.float64)
    drives = [convolved(np.asarray(step, np.float64), kernel) for step in spikes()]
    assert rows[0].threshold == round(max(np.percentile(drive, 99) for drive in drives), 2)
    assert rows[0].largest == pytest.approx(max(drive.max() for drive in drives), rel=1e-5)
    _, read = network.run(own, [row.threshold for row in rows], spikes(), order="update_first")
    for row, path in zip(rows, PATHS[1:], strict=True):
        assert row.rate == pytest.approx(float(read[path].mean()) / 8, rel=1e-5)
        assert row.dead == pytest.approx(1 - float((np.asarray(read[path]) > 0).any(0).mean()), abs=1e-6)


def test_an_mlp_and_a_chain_with_two_poolings_are_followed():
    mlp = nn.build("mlp", widths=(4, 3), classes=2, **PLAIN)
    own = network.spiking(mlp, {"params": {n: {"kernel": jnp.ones(s)} for n, s in
                                           {"dense0": (64, 4), "dense1": (4, 3), "head": (3, 2)}.items()}})  # fmt: skip
    assert own.layers == tuple(Layer(f"{name}/kernel", True, 0) for name in ("dense0", "dense1", "head"))
    chain = nn.build("cnn", widths=(2, 2), pools=(1, 1, 2), pool="average", classes=2, **PLAIN)
    found = network.spiking(chain, jax.eval_shape(chain.init, jax.random.key(0), X[:1]))
    assert [layer.pools for layer in found.layers] == [0, 2, 1]


def test_average_pooling_leaves_out_the_odd_rest():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    assert average(x)[0, :, :, 0].tolist() == [[3.0, 5.0], [13.0, 15.0]]
    with pytest.raises(ValueError, match="a map of 1x5 cannot be averaged"):
        average(x[:, :1])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cnn2", {"pool": "average"}, "bias' has no place in a spiking network: build with use_bias=False"),
        ("cnn2", PLAIN, "pool='average'; cnn2 has 'max'"),
        ("cnn2", PLAIN | {"norm": "batch"}, "norm='none'; cnn2 has 'batch'"),
        ("mlp", PLAIN | {"activation": "gelu"}, "activation='relu'; mlp has 'gelu'"),
        ("cnn2", PLAIN | {"pools": (), "strides": (2,)}, r"strides=\(1,\); cnn2 has \(2,\)"),
        ("resnet20", {}, "resnet20 cannot spike here"),
    ],
)
def test_networks_that_cannot_spike_are_refused_by_name(name, arguments, message):
    model = nn.build(name, **arguments)
    variables = jax.eval_shape(model.init, jax.random.key(0), X[:1])
    with pytest.raises(ValueError, match=message):
        network.spiking(model, variables)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "spike_first", "hold": 4}, "takes at least 5 steps; got 4"),
        ({"hold": 4, "spikes": np.zeros((2, *X.shape), np.float32)}, "hold repeats a single frame; got 2"),
        ({"thresholds": (1.0,)}, "3 layers have thresholds; got 1"),
        ({"thresholds": (1.0, 0.0, 1.0)}, "thresholds are above 0"),
        ({"leak": 0.0}, r"leak is in \(0, 1\]"),
        ({"rate": 1.0}, "and 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    call = {"thresholds": V, "spikes": X[None], "order": "update_first"} | arguments
    with pytest.raises(ValueError, match=message):
        network.run(made(), **call)


def test_thresholds_of_a_dead_layer_and_percentiles_out_of_range_are_refused():
    dead = made()._replace(params=made().params | {"conv1": {"kernel": -jnp.ones((3, 3, 3, 4))}})
    with pytest.raises(ValueError, match=r"'conv1/kernel' is dead: its threshold is -?0"):
        thresholds.balance(dead, jnp.abs(spikes()), order="update_first")
    with pytest.raises(ValueError, match=r"percentile is in \(0, 100\]; got 0"):
        thresholds.balance(made(), spikes(), percentile=0)
    with pytest.raises(ValueError, match=r"leak is the share of a membrane that stays, in \(0, 1\]; got 0"):
        thresholds.balance(made(), spikes(), leak=0, order="update_first")
    broken = made()._replace(params=made().params | {"conv0": {"kernel": jnp.full((3, 3, 1, 3), jnp.nan)}})
    with pytest.raises(ValueError, match="'conv0/kernel' is dead: its threshold is nan"):
        thresholds.balance(broken, spikes(), order="update_first")


def test_spikes_may_be_integers():
    whole = spikes().astype(jnp.int32)
    found = network.run(made(), V, whole, order="update_first")[0]
    np.testing.assert_array_equal(found, network.run(made(), V, spikes(), order="update_first")[0])
