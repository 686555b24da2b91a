"""Updates encoded as gradients of synthetic samples: what is exact, what is linear, what is refused."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import trees
from subspace_jax.core import compress
from subspace_jax.core.exchange import Comm
from subspace_jax.federated import fedavg, tofu
from subspace_jax.federated.tofu import Proxy
from tests.federated import cases

SEEDS = st.integers(0, 2**31 - 1)
KEY, SHAPE = jax.random.key(0), (cases.INPUTS,)
SIZES = {"shape": SHAPE, "classes": cases.CLASSES}
NEAR_ONE = 1e-4  # what is left of 1 - cos of an update that can be encoded exactly
N = 2


def proxy(seed, n=N, scale=1.0):
    rng = np.random.default_rng(seed)
    parts = (rng.normal(size=shape).astype(np.float32) for shape in ((n, cases.INPUTS), (n, cases.CLASSES), (n,)))
    return Proxy(*map(jnp.asarray, parts), jnp.asarray(scale, jnp.float32))


def close(tree, expected, atol=cases.FLOAT32):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), tree, expected)


@functools.cache
def encoded(scale="least_squares", layerwise=False):
    """seed -> (update, what was found), of a network with a hidden layer: one program for all seeds."""
    settings = SIZES | {"proxies": N, "steps": 40, "lr": 0.1, "scale": scale, "layerwise": layerwise}

    def at(seed):
        params, update = cases.draw(1, cases.DEEP), cases.draw(seed, cases.DEEP)
        return params, update, tofu.encode(jax.random.key(seed), cases.SMOOTH, params, update, **settings)

    return at


@given(SEEDS)
def test_a_proxy_is_decoded_to_its_gradient(seed):
    params, sent = cases.draw(seed), proxy(seed, scale=0.7)
    soft = cases.softmax(np.asarray(sent.z, np.float64))
    expected = cases.linear_gradient(params, sent.x, soft, 0.7 * np.asarray(sent.a, np.float64))
    close(tofu.decode(cases.LINEAR, params, sent), expected)


@given(SEEDS, st.floats(-2, 2, width=32))
def test_decoding_is_linear_in_scale_and_weights_and_adds_over_samples(seed, factor):
    params, one, two = cases.draw(seed), proxy(seed), proxy(seed + 1)
    whole, other = (tofu.decode(cases.LINEAR, params, sent) for sent in (one, two))
    for changed in (one._replace(scale=jnp.float32(factor)), one._replace(a=factor * one.a)):
        close(tofu.decode(cases.LINEAR, params, changed), jax.tree.map(lambda g: factor * g, whole))
    joined = Proxy(*(jnp.concatenate(pair) for pair in zip(one[:3], two[:3], strict=True)), one.scale)
    close(tofu.decode(cases.LINEAR, params, joined), jax.tree.map(jnp.add, whole, other))


@given(SEEDS)
def test_of_a_linear_layer_the_rank_is_at_most_the_number_of_proxies(seed):
    found = tofu.decode(cases.LINEAR, cases.draw(seed), proxy(seed))
    rows = np.concatenate([found["kernel"], found["bias"][None]])
    values = np.linalg.svd(rows, compute_uv=False)
    assert values[N] <= cases.FLOAT32 * values[0]


def rank_one(seed):
    """x and e, the parts of an update of one sample through a linear layer: kernel x e', bias e, with sum(e) = 0."""
    rng = np.random.default_rng(seed)
    x, e = rng.normal(size=(1, cases.INPUTS)), rng.normal(size=cases.CLASSES)
    e -= e.mean()
    update = {"kernel": jnp.asarray(x.T * e[None], jnp.float32), "bias": jnp.asarray(e, jnp.float32)}
    return x, e, update


@given(SEEDS)
def test_any_update_of_rank_one_has_a_proxy(seed):
    """Soft labels p - e / a lie inside the simplex where the weight a is large."""
    params, (x, e, update) = cases.draw(seed), rank_one(seed)
    p = cases.softmax(x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64))[0]
    a = 2 * np.abs(e).max() / p.min()
    one = Proxy(*(np.asarray(part, np.float32) for part in (x, np.log(p - e / a)[None], [a], 1.0)))
    decoded = tofu.decode(cases.LINEAR, params, one)
    assert fedavg.distance(update, decoded) < NEAR_ONE
    rounding = np.finfo(np.float32).eps * a * max(1, np.abs(x).max())  # of probabilities, times a large weight
    close(decoded, update, atol=2 * rounding)


def test_the_encoder_finds_it_from_one_of_a_few_random_starts():
    params, (_, _, update) = cases.draw(0), rank_one(0)

    def distance(key):
        return tofu.encode(key, cases.LINEAR, params, update, proxies=1, steps=400, lr=0.1, **SIZES).trace[-1]

    assert jax.vmap(distance)(jax.random.split(KEY, 8)).min() < NEAR_ONE


def test_from_the_proxy_itself_nothing_is_left_to_find():
    params, known = cases.draw(3, cases.DEEP), proxy(3)
    update = tofu.decode(cases.SMOOTH, params, known)
    found = tofu.encode(KEY, cases.SMOOTH, params, update, proxies=N, steps=0, start=known, **SIZES)
    assert found.trace.shape == (1,)
    assert found.trace[0] <= 1e-6
    np.testing.assert_allclose(found.proxy.scale, 1, rtol=cases.FLOAT32)


def test_the_private_batch_is_a_proxy_of_its_own_step():
    params = cases.draw(4, cases.DEEP)
    x, y = (part[0] for part in cases.batches(4, steps=1))
    update, _ = fedavg.local_update(cases.SMOOTH, params, (x, y), lr=0.3)
    own = Proxy(x[0], 60.0 * np.eye(cases.CLASSES, dtype=np.float32)[y[0]], np.full(6, 1 / 6, np.float32), 0.3)
    close(tofu.decode(cases.SMOOTH, params, own), update)


@given(SEEDS)
def test_the_best_iterate_is_returned_and_the_rest_is_orthogonal_to_it(seed):
    params, update, found = encoded()(seed)
    assert found.trace.shape == (41,)
    assert (np.diff(found.trace) <= 0).all()
    decoded = tofu.decode(cases.SMOOTH, params, found.proxy)
    np.testing.assert_allclose(found.trace[-1], fedavg.distance(update, decoded), atol=cases.FLOAT32)
    u, s = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]).astype(float) for t in (update, decoded))
    assert abs((u - s) @ s) <= cases.FLOAT32 * np.linalg.norm(u) * np.linalg.norm(s)
    np.testing.assert_allclose(found.trace[-1], 1 - u @ s / np.linalg.norm(u) / np.linalg.norm(s), atol=cases.FLOAT32)
    assert found.trace[-1] < 0.9 * found.trace[0]


def test_scales_by_norm_and_for_each_leaf():
    for scale, layerwise in (("norm", False), ("norm", True), ("least_squares", True)):
        params, update, found = encoded(scale, layerwise)(7)
        decoded = tofu.decode(cases.SMOOTH, params, found.proxy)
        assert found.proxy.scale.shape == ((4,) if layerwise else ())
        np.testing.assert_allclose(
            found.trace[-1], fedavg.distance(update, decoded, layerwise=layerwise), atol=2 * cases.FLOAT32
        )
        groups = [[k] for k in update] if layerwise else [list(update)]
        for names in groups:
            u, s = (np.concatenate([np.ravel(tree[k]) for k in names]).astype(float) for tree in (update, decoded))
            left = (u - s) @ s if scale == "least_squares" else np.linalg.norm(u) - np.linalg.norm(s)
            assert abs(left) <= 2 * cases.FLOAT32 * np.linalg.norm(u) * max(1, np.linalg.norm(s))


def test_both_ends_use_one_program_since_another_batching_rounds_otherwise():
    params = cases.draw(5, cases.DEEP)
    sent = [proxy(seed) for seed in range(3)]
    server = [tofu.decode(cases.SMOOTH, params, one) for one in sent]
    client = [jax.jit(lambda w, one: tofu.decode(cases.SMOOTH, w, one))(params, one) for one in sent]
    jax.tree.map(np.testing.assert_array_equal, server, client)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sent)
    together = jax.vmap(lambda one: tofu.decode(cases.SMOOTH, params, one))(stacked)
    close(together, jax.tree.map(lambda *leaves: np.stack(leaves), *server), atol=1e-6)  # no more is promised


def test_federated_rounds_send_proxies_and_stay_together_for_fifty_rounds():
    comm = Comm(cases.CLIENTS)
    method = tofu.tofu(
        cases.LINEAR, comm=comm, lr=0.2, proxies=N, steps=10, encode_lr=0.1, error_feedback=True, **SIZES
    )
    state = cases.started(method)
    run, first = cases.rounds(method, comm), None
    for k in range(50):
        state, info = run(jax.random.key(k), state, cases.batches(0))
        first = info.loss.mean() if first is None else first
    for leaf in jax.tree.leaves(state.params):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert set(np.asarray(info.bytes_up)[~np.asarray(info.whole)]) <= {4 * (N * (5 + 3 + 1) + 1)}
    assert info.loss.mean() < 0.8 * first


@pytest.mark.parametrize(("n", "shape", "classes"), [(1, (5,), 3), (4, (8, 8, 1), 10)])
def test_bytes_are_those_of_the_arrays_sent(n, shape, classes):
    wire = jax.eval_shape(
        lambda key: tofu.encode(
            key, lambda w, x, y: jnp.tanh(x.reshape(n, -1)).sum(1) * w * y[:, 0], jnp.ones(()), jnp.ones(()),
            proxies=n, shape=shape, classes=classes, steps=1,
        ).proxy,
        KEY,
    )  # fmt: skip
    assert compress.nbytes(wire) == 4 * (n * (np.prod(shape) + classes + 1) + 1)


def try_encode(loss=cases.LINEAR, update=None, **changed):
    settings = SIZES | {"proxies": 1, "steps": 1} | changed
    return tofu.encode(KEY, loss, cases.draw(0), cases.draw(1) if update is None else update, **settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"proxies": 0}, "proxies is the number of synthetic samples, at least 1; got 0"),
        ({"steps": -1}, "steps is the number of steps of Adam, 0 or more; got -1"),
        ({"lr": 0.0}, "lr is above 0 and finite; got 0.0"),
        ({"scale": "mean"}, 'scale is "least_squares" or "norm"; got \'mean\''),
        ({"shape": (6,)}, r"the loss takes no inputs \(1, 6\) with soft labels \(1, 3\)"),
        ({"update": {"kernel": jnp.ones((5, 3))}}, "another tree than the parameters, in 1 leaves: bias missing for"),
        ({"loss": lambda w, x, y: jnp.sqrt(-jnp.abs(w["bias"][0])) * x[:, 0]}, "not finite at step 0 of 1"),
        ({"loss": lambda w, x, y: jnp.sum(w["bias"])}, "the loss gives one value for each of 1 samples"),
    ],
)
def test_bad_input_is_refused(changed, message, unchecked):
    with pytest.raises(ValueError, match=message):
        try_encode(**changed)


def test_a_zero_update_has_scale_zero_and_a_kink_is_warned_of():
    with pytest.warns(UserWarning, match="the update is zero"):
        found = try_encode(update=jax.tree.map(jnp.zeros_like, cases.draw(1)))
    assert found.proxy.scale == 0
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in found.proxy])).all()

    def kinked(w, x, y):
        return cases.LINEAR(w, jax.nn.relu(x), y)

    with pytest.warns(UserWarning, match="the loss has kinks"):
        try_encode(loss=kinked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try_encode()


def test_other_weights_than_those_of_the_sender_are_refused():
    params, sent = cases.draw(0), proxy(0)
    told = trees.digest(params)
    tofu.decode(cases.LINEAR, params, sent, digest=told)
    moved = params | {"bias": params["bias"] + 1e-6}
    with pytest.raises(ValueError, match=f"encoded at weights {told[:12]}, these are"):
        tofu.decode(cases.LINEAR, moved, sent, digest=told)
    with pytest.raises(ValueError, match=r"one for each of the 2 leaves; got shape \(3,\)"):
        tofu.decode(cases.LINEAR, params, sent._replace(scale=jnp.ones(3)))
