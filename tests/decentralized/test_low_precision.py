"""Gossip in few bits: bytes that really travel, the mean, the observers, and the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import compress, exchange, quantize
from subspace_jax.decentralized.deep_squeeze import deep_squeeze
from subspace_jax.decentralized.low_precision import gossip_only, low_precision
from tests.decentralized import cases

CHAIN = cases.GRAPHS["chain"]
LAYERS = ((64, 64), (64, 64), (64, 10))


def gossip(comm=cases.COMM, weights=CHAIN, **settings):
    return gossip_only(comm=comm, weights=weights, **settings)


def network(dtype=np.float32):
    """Stacked variables of an MLP of quantized layers, all agents different."""
    rng = np.random.default_rng(0)
    layers = [{"kernel": rng.normal(size=(8, *shape)), "bias": rng.normal(size=(8, shape[1]))} for shape in LAYERS]
    seen = [quantize.Observer(-rng.random(8), rng.random(8)) for _ in LAYERS]
    return jax.tree.map(lambda leaf: leaf.astype(dtype), {"params": layers, "batch_stats": seen})


def travelling(jaxpr):
    """(dtype, bytes) of every operand of a collective permutation."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "ppermute":
            found += [(v.aval.dtype, v.aval.size * v.aval.dtype.itemsize) for v in eqn.invars]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += travelling(inner) if hasattr(inner, "eqns") else []
    return found


def messages(compressor):
    """The operands of the permutations of one round on a ring, one agent a device, and the bytes it counts."""
    comm = exchange.spread(8, 8)
    method = gossip(comm=comm, weights=cases.GRAPHS["ring"], compressor=compressor)
    state = cases.begin(method, network(), np.float32)
    spread = exchange.shard_map(lambda state: method.step(jax.random.key(0), state, None)[1].bytes_model, comm)
    return travelling(jax.make_jaxpr(spread)(state).jaxpr), jax.device_get(jax.jit(spread)(state))


def test_bytes_travel_and_are_a_quarter_of_float32():
    codes, counted = messages(compress.k_bit(8))
    floats, whole = messages(compress.identity())
    entries = sum(a * b + b for a, b in LAYERS) + 2 * len(LAYERS)
    assert sum(size for dtype, size in codes if dtype == np.uint8) == 2 * entries
    assert sum(size for _, size in codes) == counted[0] == 2 * (entries + 8 * 4 * len(LAYERS))
    assert sum(size for _, size in floats) == whole[0] == 2 * 4 * entries
    assert len(set(counted)) == 1
    assert 3.9 < whole[0] / counted[0] < 4


COMPRESSORS = {"8 bits": compress.k_bit(8), "top_k": compress.top_k(0.8, bits=8), "qsgd": compress.qsgd(4)}


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_the_mean_of_all_agents_stays(compressor):
    start = cases.variables(apart=1.0)
    for params in cases.rounds(gossip(gamma=0.5, compressor=compressor), start, every=2, count=2):
        cases.assert_close(cases.mean(params), cases.mean(start["params"]))
        assert cases.distance(params) != cases.distance(start["params"])


def test_a_round_equals_its_formula():
    start, gamma = cases.variables(apart=1.0), 0.7
    (found,) = cases.rounds(gossip(gamma=gamma), start, every=1, count=1)

    def expected(x):
        axes = tuple(range(1, x.ndim))
        lo, hi = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
        coarse = np.round((x - lo) / (hi - lo) * 255) / 255 * (hi - lo) + lo
        return x + gamma * (np.tensordot(CHAIN, coarse, 1) - coarse)

    cases.assert_close(found, jax.tree.map(expected, start["params"]))


def test_fifty_rounds_bring_all_agents_within_the_grid():
    start = cases.variables(apart=1.0)
    (found,) = cases.rounds(gossip(weights=cases.GRAPHS["ring"]), start, every=50, count=1)
    step = max(np.ptp(leaf) for leaf in jax.tree.leaves(start["params"])) / 255
    gaps = jax.tree.map(lambda leaf: np.abs(leaf - leaf.mean(0)).max(), found)
    assert 0 < max(jax.tree.leaves(gaps)) < step


def test_observers_are_averaged_with_the_parameters():
    start = network(np.float64)
    state, _ = cases.run(gossip(), start=start)
    averaged = jax.tree.map(lambda leaf: np.tensordot(CHAIN, leaf, 1), start["batch_stats"])
    cases.assert_close(state.batch_stats, averaged)  # a scalar is its own range: it travels exactly
    cases.assert_close(cases.mean(state.params), cases.mean(start["params"]))


@pytest.mark.parametrize("method", ["none", "choco"])
def test_exact_messages_are_sgd_then_plain_gossip_of_parameters_and_statistics(method):
    settings = {"comm": cases.COMM, "weights": CHAIN, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    exact = {"compressor": compress.identity(), "gamma": 1.0}
    start = cases.variables() | {"batch_stats": {"seen": np.arange(8.0)}}
    found, infos = cases.run(low_precision(cases.loss, method=method, **settings, **exact), steps=3, start=start)
    plain, _ = cases.run(deep_squeeze(cases.loss, **settings, **exact), steps=3, start=start)
    cases.assert_close((found.params, found.opt_state), (plain.params, plain.opt_state))
    seen = start["batch_stats"]["seen"]
    for t in range(3):
        seen = CHAIN @ (0.1 * seen + 0.9 * cases.batch(t)[0].mean((1, 2)))
    cases.assert_close(found.batch_stats["seen"], seen)
    assert np.isfinite(infos.loss).all()
    np.testing.assert_array_equal(found.step, 3)


@pytest.mark.parametrize("method", ["deep_squeeze", "choco"])
def test_rounds_without_sgd_take_over_a_trained_state(method):
    settings = {"comm": cases.COMM, "weights": CHAIN, "gamma": 0.2, "compressor": compress.top_k(0.5), "method": method}
    trained, _ = cases.run(low_precision(cases.loss, lr=0.1, **settings), steps=3)
    rounds = gossip_only(**settings)
    spread = exchange.vmap(lambda state: rounds.step(jax.random.key(0), state, None)[0], cases.COMM)
    with jax.enable_x64(True):
        after = jax.device_get(jax.jit(spread)(trained))
    assert jax.tree.structure(after) == jax.tree.structure(trained)
    cases.assert_close(after.opt_state, trained.opt_state, atol=0)
    cases.assert_close(cases.mean(after.params), cases.mean(trained.params))
    assert cases.distance(after.params) < cases.distance(trained.params)


def test_bad_settings_are_refused(unchecked):
    with pytest.raises(ValueError, match="method is one of none, deep_squeeze, choco; got 'squeeze'"):
        gossip(method="squeeze")
    with pytest.raises(ValueError, match="gamma must lie"):
        low_precision(cases.loss, comm=cases.COMM, weights=CHAIN, lr=0.1, gamma=2.0)
    with pytest.raises(ValueError, match=r"leaf .*count.* is int32"):
        gossip().step(
            jax.random.key(0), gossip().init(None, {"params": {"count": jnp.int32(3)}, "batch_stats": {}}), None
        )
