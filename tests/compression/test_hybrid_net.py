"""Counts of responses, significant layers, plans of bits and their cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from subspace_jax import trees
from subspace_jax.compression import hybrid_net
from subspace_jax.core import binary, costs
from subspace_jax.nn import build
from tests.compression.layers import draw

X = draw(0, 12, 6, 6, 2).astype(np.float32)
COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=8)
SIZES = {"widths": (4, 4, 6), "strides": (1, 1, 2)}


def named(values):
    return {f"conv{i}": k for i, k in enumerate(values, start=1)}


@given(COUNTS, st.integers(1, 5), st.integers(-9, 9))
def test_a_layer_is_significant_where_the_count_jumps(values, delta, shift):
    found = list(hybrid_net.significance(named(values), delta=delta).values())
    assert found == [i > 0 and values[i] >= values[i - 1] + delta for i in range(len(values))]
    assert found == list(hybrid_net.significance(named([k + shift for k in values]), delta=delta).values())


@pytest.mark.parametrize(
    ("counts", "plan"),
    [((3, 3, 5), (32, 1, 1, 4)), ((3, 5, 5), (32, 1, 4, 1)), ((9, 7, 9), (32, 1, 1, 4))],
)
def test_plans_give_bits_to_jumps(counts, plan):
    assert hybrid_net.bit_plan(named(counts)) == plan


def test_no_or_every_significant_layer_is_said_with_the_counts():
    with pytest.warns(UserWarning, match=r"no layer is significant at delta 2: counts \[3, 3, 4\]"):
        assert hybrid_net.bit_plan(named((3, 3, 4))) == (32, 1, 1, 1)
    with pytest.warns(UserWarning, match=r"every layer after the first is significant at delta 2: counts \[3, 5, 9\]"):
        assert hybrid_net.bit_plan(named((3, 5, 9)), bits=2) == (32, 1, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hybrid_net.bit_plan(named((1, 3)), delta=0), "delta is at least 1"),
        (lambda: hybrid_net.bit_plan({}), "counts of layers"),
        (lambda: hybrid_net.bit_plan({"conv2": 3, "conv1": 1}), "conv1, conv2, ... in their order; got conv2, conv1"),
        (lambda: hybrid_net.bit_plan(named((1, 3)), bits=1), "2 to 8 bits; got 1"),
        (lambda: hybrid_net.bit_plan(named((1, 3)), bits=9), "1 to 8 bits; got 9"),
        (lambda: hybrid_net.recentre(["w"]).update({"w": X}, None), "recentre needs the parameters"),
    ],
)
def test_counts_and_settings_that_tell_nothing_are_refused(call, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        call()
    assert message in str(refused.value)


@pytest.fixture(scope="module")
def net():
    model = build("hybrid_cnn", classes=3, **SIZES, bits=(32, 1, 1))
    return model, jax.jit(model.init)(jax.random.key(0), X[:1])


def test_counts_are_those_of_scikit_learn(net):
    model, variables = net
    spectra = hybrid_net.response_spectra(model, variables, [X[:6], X[6:]], layers=["conv1", "conv2"])
    responses = model.features(variables, X)
    with pytest.warns(UserWarning, match="conv2: fewer than 100 rows a filter"):
        counts = hybrid_net.significant_counts(spectra, tau=0.9)
    for name, width in (("conv1", 4), ("conv2", 6)):
        oracle = PCA().fit(np.asarray(responses[name], np.float64).reshape(-1, width))
        assert counts[name] == (np.cumsum(oracle.explained_variance_ratio_) <= 0.9).sum()


@pytest.mark.parametrize(
    ("layers", "message"),
    [(["conv2", "conv1"], "given in their order, conv1, conv2"), (["conv1", "conv9"], "names no response 'conv9'")],
)
def test_layers_in_another_order_or_without_a_response_are_refused(net, layers, message):
    with pytest.raises(ValueError, match=message):
        hybrid_net.response_spectra(*net, [X], layers=layers)
    with pytest.raises(ValueError, match="batches is empty"):
        hybrid_net.response_spectra(*net, [], layers=["conv1"])


def test_recentring_comes_last_and_touches_the_quantised_layers_alone(net):
    params = net[1]["params"]
    leaves = hybrid_net.quantised_leaves(params, (32, 1, 4))
    assert leaves == ("conv1/kernel", "conv2/kernel")
    assert hybrid_net.quantised_leaves(params, (32, 32, 4)) == ("conv2/kernel",)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(draw(1, *leaf.shape), jnp.float32), params)
    plain = optax.sgd(0.1, momentum=0.9)
    tx = optax.chain(plain, hybrid_net.recentre(leaves))
    moved = [
        trees.flatten(optax.apply_updates(params, one.update(gradients, one.init(params), params)[0]))
        for one in (plain, tx)
    ]
    for path, before in moved[0].items():
        expected = binary.recentred(before) if path in leaves else before
        np.testing.assert_allclose(moved[1][path], expected, atol=1e-6)


def test_costs_are_those_of_the_network(net):
    for skip in (False, True):
        layers = hybrid_net.layer_costs((6, 6, 2), **SIZES, classes=3, skip=skip)
        model = build("hybrid_cnn", classes=3, **SIZES, bits=(32, 1, 1), skip=skip)
        params = trees.flatten(jax.eval_shape(model.init, jax.random.key(0), X[:1])["params"])
        kernels = {p.removesuffix("/kernel"): leaf.size for p, leaf in params.items() if p.endswith("/kernel")}
        assert {name: layer.parameters for name, layer in layers.items()} == kernels
        stages = jax.eval_shape(model.features, jax.eval_shape(model.init, jax.random.key(0), X[:1]), X[:1])
        assert all(layers[f"conv{i}"].outputs == stages[f"conv{i}"].shape[1:] for i in range(3))
        bits = hybrid_net.layer_bits(layers, (32, 1, 4))
        assert bits["conv0"] == bits["head"] == 32
        assert bits.get("shortcut2", 4) == bits["conv2"] == 4
        plans = [hybrid_net.layer_bits(layers, (32, *own)) for own in ((1, 1), (1, 4), (4, 4))]
        spent = [costs.energy(layers, own).total for own in plans]
        assert spent == sorted(spent)


@pytest.mark.parametrize(("skip", "scale"), [(False, "mean"), (True, "least_squares")])
def test_a_packed_network_gives_the_same_logits_in_fewer_bytes(skip, scale):
    arguments = {"classes": 3, **SIZES, "bits": (32, 1, 3), "skip": skip, "scale": scale}
    model = build("hybrid_cnn", **arguments)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    variables |= {"batch_stats": jax.tree.map(lambda leaf: leaf + 0.1, variables["batch_stats"])}
    packed, stored = hybrid_net.pack_network("hybrid_cnn", arguments, variables)
    assert jax.tree.structure(stored) == jax.tree.structure(jax.eval_shape(packed.init, jax.random.key(0), X))
    for name, stage in jax.jit(packed.features)(stored, X).items():
        np.testing.assert_allclose(stage, jax.jit(model.features)(variables, X)[name], atol=1e-5)
    kernels = sum(stored["params"][f"conv{i}"]["codes"].nbytes for i in (1, 2))
    assert kernels == 9 * 4 + 3 * 9 * 6  # a byte holds the four channels of a tap
    with pytest.raises(ValueError, match="nothing to pack: bits"):
        hybrid_net.pack_network("hybrid_cnn", arguments | {"bits": (32, 32, 32)}, variables)
