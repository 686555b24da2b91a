import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import compress

SEEDS = st.integers(0, 2**31 - 1)
DRAWS = 4096
FLOAT32 = 2e-6  # rounding, relative to the largest value
SIZES = {"kernel": (5, 9), "bias": (9,), "gain": ()}  # none a multiple of eight

KEPT = {45: 13, 9: 2, 1: 1}  # max(1, int(n (1 - 0.7)))
COMPRESSORS = {  # the bytes of a float32 leaf of n entries
    "identity": (compress.identity(), lambda n: 4 * n),
    "sign": (compress.sign(), lambda n: math.ceil(n / 8) + 4),
    "top_k": (compress.top_k(0.7), lambda n: (4 + 4) * KEPT[n]),
    "top_k_8": (compress.top_k(0.7, bits=8), lambda n: (1 + 4) * KEPT[n] + 8),
    "random_k": (compress.random_k(0.7), lambda n: 4 * KEPT[n] + 4),
    "qsgd_2": (compress.qsgd(2), lambda n: math.ceil(2 * n / 8) + 4),
    "qsgd_5_biased": (compress.qsgd(5, biased=True), lambda n: math.ceil(5 * n / 8) + 4),
    "k_bit_8": (compress.k_bit(8), lambda n: n + 8),
    "k_bit_11_stochastic": (compress.k_bit(11, stochastic=True), lambda n: math.ceil(11 * n / 8) + 8),
}
every = pytest.mark.parametrize("name", COMPRESSORS)


def draw(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SIZES.items()}


@functools.partial(jax.jit, static_argnums=0)
def sent(compressor, key, tree):
    """What arrives."""
    return compressor.decode(compressor.encode(key, tree), tree)


def vector(compressor, x, seed=0):
    return np.asarray(sent(compressor, jax.random.key(seed), {"x": jnp.asarray(x)})["x"], np.float64)


DRAWN, ZERO, SPOILED = 2, 1, 20  # trees of random numbers, of zeros, and with a NaN in every leaf


@functools.cache
def seen(name):
    """Of one compressor, by one program: what arrives of many trees together and of two alone, a message, feedback."""
    compressor = COMPRESSORS[name][0]
    first, second = draw(0), draw(1)
    spoiled = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), first)
    trees = [first, second, jax.tree.map(jnp.zeros_like, first), *[spoiled] * SPOILED]
    keys = jax.random.split(jax.random.key(0), len(trees))

    @jax.jit
    def run(keys, stacked):
        one = functools.partial(sent, compressor)
        alone = [(keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(DRAWN)]
        fed = compress.feedback(keys[0], compressor, *(tree for _, tree in alone))
        return jax.vmap(one)(keys, stacked), [one(*each) for each in alone], compressor.encode(*alone[0]), fed

    return jax.device_get(run(keys, jax.tree.map(lambda *leaves: np.stack(leaves), *trees)))


# every compressor


@every
def test_message_has_the_bytes_of_its_formula(name):
    compressor, formula = COMPRESSORS[name]
    tree, (_, _, wire, _) = draw(0), seen(name)
    assert compress.nbytes(wire) == sum(formula(leaf.size) for leaf in tree.values())
    assert compress.nbytes(wire) == sum(np.asarray(array).nbytes for array in jax.tree.leaves(wire))
    assert compress.nbytes(wire) == compress.nbytes(jax.eval_shape(compressor.encode, jax.random.key(0), tree))


@every
def test_agents_mapped_together_send_what_each_sends_alone(name):
    together, alone, _, _ = seen(name)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    both = jax.tree.map(lambda leaf: leaf[:DRAWN], together)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=FLOAT32), both, stacked)


@every
def test_zero_stays_zero(name):
    for leaf in seen(name)[0].values():
        np.testing.assert_array_equal(leaf[DRAWN], np.zeros(leaf.shape[1:]))


@every
def test_nan_arrives_as_nan(name):
    arrived = {leaf: values[DRAWN + ZERO :] for leaf, values in seen(name)[0].items()}
    assert np.isnan(arrived["gain"]).all()
    assert np.isnan(arrived["kernel"]).any((1, 2)).any()  # of random_k, where the NaN is among the entries kept


@every
def test_error_feedback_loses_nothing(name):
    """Sent + new error = tree + old error: to 2 units in the last place of the larger part."""
    (tree, error), (_, arrived, left) = (draw(0), draw(1)), seen(name)[3]
    for k in tree:
        corrected, q = np.asarray(tree[k]) + np.asarray(error[k]), np.asarray(arrived[k])
        ulp = np.spacing(np.maximum(np.abs(corrected), np.abs(q)))
        assert (np.abs(q + np.asarray(left[k]) - corrected) <= 2 * ulp).all()


@every
def test_float64_stays_there(name):
    with jax.enable_x64(True):
        tree = {leaf: jax.ShapeDtypeStruct(shape, jnp.float64) for leaf, shape in SIZES.items()}
        run = functools.partial(compress.feedback, jax.random.key(0), COMPRESSORS[name][0])
        _, arrived, left = jax.eval_shape(run, tree, tree)
    assert arrived == left == tree


@pytest.mark.parametrize("name", ["top_k_8", "qsgd_2"])
def test_error_feedback_is_exact_in_float64(name):
    with jax.enable_x64(True):
        tree, error = draw(0, jnp.float64), draw(1, jnp.float64)
        run = functools.partial(compress.feedback, jax.random.key(0), COMPRESSORS[name][0])
        _, arrived, left = jax.jit(run)(tree, error)
    for k in tree:
        np.testing.assert_allclose(arrived[k] + left[k], tree[k] + error[k], atol=1e-12)


def test_a_receiver_needs_shapes_and_dtypes_alone():
    _, alone, wire, _ = seen("sign")
    arrived = compress.sign().decode(jax.tree.map(jnp.asarray, wire), jax.eval_shape(lambda: draw(0)))
    jax.tree.map(np.testing.assert_array_equal, arrived, alone[0])


@pytest.mark.parametrize("name", ["random_k", "qsgd_2", "k_bit_11_stochastic"])
def test_every_leaf_and_every_key_draws_its_own(name):
    x = draw(0)["kernel"]
    first, second = (sent(COMPRESSORS[name][0], jax.random.key(i), {"a": x, "b": x}) for i in (0, 1))
    assert (first["a"] != first["b"]).any()
    assert (first["a"] != second["a"]).any()


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "identity"])
def test_a_leaf_that_cannot_be_compressed_is_refused_by_name(name):
    for leaf in jnp.ones((3,), jnp.int32), jnp.ones((0, 2)):
        with pytest.raises(ValueError, match=r"leaf 'dense/step' is .*: only floating arrays with an entry"):
            COMPRESSORS[name][0].encode(jax.random.key(0), {"dense": {"step": leaf}})


@every
def test_nothing_to_send_is_an_empty_message(name):
    wire = COMPRESSORS[name][0].encode(jax.random.key(0), {})
    assert compress.nbytes(wire) == 0
    assert COMPRESSORS[name][0].decode(wire, {}) == {}


def test_equal_arguments_give_the_same_object():
    """So that what is jitted with a compressor as a static argument compiles once."""
    assert compress.sign() is COMPRESSORS["sign"][0]
    assert compress.top_k(0.7, bits=8) is COMPRESSORS["top_k_8"][0]
    assert compress.qsgd(5, biased=True) is COMPRESSORS["qsgd_5_biased"][0]


# packing


@jax.jit
def packed_and_back(codes):
    packed = {bits: compress.pack(own, bits) for bits, own in codes.items()}
    return packed, {bits: compress.unpack(own, bits, 13) for bits, own in packed.items()}


@given(SEEDS)
def test_packed_codes_come_back(seed):
    rng = np.random.default_rng(seed)
    codes = {bits: rng.integers(0, 2**bits, 13).astype(np.uint8 if bits <= 8 else np.uint16) for bits in range(1, 17)}
    packed, back = packed_and_back(codes)
    for bits, own in codes.items():
        assert (packed[bits].dtype, packed[bits].size) == (np.uint8, math.ceil(bits * 13 / 8))
        assert back[bits].dtype == own.dtype
        np.testing.assert_array_equal(back[bits], own)


def test_bytes_are_their_own_packing():
    codes = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(compress.pack(codes, 8), codes)


# sign


@given(SEEDS)
def test_sign_sends_signs_and_the_mean_magnitude(seed):
    x = draw(seed)["kernel"].at[0, 0].set(0.0)
    oracle = np.where(np.asarray(x) >= 0, 1, -1) * np.abs(np.asarray(x, np.float64)).mean()
    np.testing.assert_allclose(vector(compress.sign(), x), oracle, rtol=FLOAT32)


def test_signs_round_trip_exactly():
    """What has one magnitude, a power of two, is its own compressed form."""
    x = np.where(np.random.default_rng(0).random(45) < 0.5, -0.25, 0.25).astype(np.float32)
    np.testing.assert_array_equal(vector(compress.sign(), x), x)


@pytest.mark.parametrize(("compressor", "delta"), [("sign", 1 / 9), ("top_k", 2 / 9)])
def test_error_memory_is_bounded_and_the_mean_message_is_the_gradient(compressor, delta):
    """With ||C(c) - c||^2 <= (1 - delta) ||c||^2, ||e|| <= ||g|| r / (1 - r), r = sqrt(1 - delta), for ever."""
    steps, r = 1000, math.sqrt(1 - delta)

    @jax.jit
    def run(g):
        def step(error, key):
            _, q, error = compress.feedback(key, COMPRESSORS[compressor][0], g, error)
            return error, (q, error)

        return jax.lax.scan(step, jnp.zeros_like(g), jax.random.split(jax.random.key(0), steps))[1]

    with jax.enable_x64(True):
        g = draw(4, jnp.float64)["bias"]
        q, errors = run(g)
        bound = float(jnp.linalg.norm(g)) * r / (1 - r)
        assert float(jnp.linalg.norm(errors, axis=1).max()) <= bound
        assert float(jnp.linalg.norm(q.mean(0) - g)) <= bound / steps
        total = q.sum(0) + errors[-1]
        np.testing.assert_allclose(total, steps * g, rtol=1e-12, atol=1e-12 * steps)


# sparse


@given(SEEDS, st.sampled_from([0.0, 0.5, 0.99]))
def test_top_k_keeps_the_largest_and_nothing_else(seed, ratio):
    x = np.asarray(draw(seed)["kernel"])
    oracle, order = np.zeros(x.size), np.argsort(-np.abs(x.ravel()))[: {0.0: 45, 0.5: 22, 0.99: 1}[ratio]]
    oracle[order] = x.ravel()[order]
    np.testing.assert_array_equal(vector(compress.top_k(ratio), x).ravel(), oracle)


@given(SEEDS)
def test_top_k_in_bits_is_within_half_a_step_of_top_k(seed):
    x = draw(seed)["kernel"]
    exact, rounded = vector(compress.top_k(0.5), x), vector(compress.top_k(0.5, bits=8), x)
    kept = exact[exact != 0]
    assert np.abs(rounded - exact).max() <= np.ptp(kept) / 255 / 2 + FLOAT32 * np.abs(kept).max()
    np.testing.assert_array_equal(rounded[exact == 0], 0)


@given(SEEDS)
def test_random_k_keeps_that_many_entries_as_they_are(seed):
    x = np.asarray(draw(seed)["kernel"])
    out = vector(compress.random_k(0.7), x, seed)
    assert (out != 0).sum() == KEPT[45]
    np.testing.assert_array_equal(out[out != 0], x[out != 0])


def test_random_k_keeps_every_entry_equally_often():
    keys, x = jax.random.split(jax.random.key(0), DRAWS), {"x": jnp.ones(9)}
    share = np.asarray(jax.vmap(lambda key: sent(compress.random_k(0.7), key, x)["x"])(keys)).mean(0)
    p = KEPT[9] / 9
    assert (np.abs(share - p) <= 4 * math.sqrt(p * (1 - p) / DRAWS)).all()


# stochastic


def draws(compressor, x):
    keys = jax.random.split(jax.random.key(7), DRAWS)
    return np.asarray(jax.vmap(lambda key: sent(compressor, key, {"x": x})["x"])(keys), np.float64)


@pytest.mark.parametrize("scale", [1.0, 1e-25])
@pytest.mark.parametrize("bits", [2, 4])
def test_qsgd_has_no_bias_and_stays_on_its_grid(bits, scale):
    x = draw(0)["kernel"] * scale
    wide = np.asarray(x, np.float64)
    step = np.linalg.norm(wide) / (2 ** (bits - 1) - 1)
    seen = draws(compress.qsgd(bits), x)
    np.testing.assert_allclose(seen / step, np.round(seen / step), atol=2**bits * FLOAT32)
    f = np.abs(wide) / step % 1
    assert (np.abs(seen.mean(0) - wide) <= 4 * step * np.sqrt(f * (1 - f) / DRAWS) + FLOAT32 * step).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_biased_qsgd_contracts(bits):
    """E||Q(x) - x||^2 <= (1 - 1 / w) ||x||^2, w = 1 + min(n / s^2, sqrt(n) / s); without the bias s = 1 does not."""
    x, s = draw(0)["kernel"], 2 ** (bits - 1) - 1
    w, energy = 1 + min(x.size / s**2, math.sqrt(x.size) / s), float((x**2).sum())

    def loss(biased):
        return ((draws(compress.qsgd(bits, biased=biased), x) - np.asarray(x)) ** 2).sum((1, 2)).mean()

    assert loss(biased=True) <= (1 - 1 / w) * energy
    assert bits > 2 or loss(biased=False) > energy


@pytest.mark.parametrize("bits", [2, 3, 16])
def test_a_single_entry_has_the_largest_level(bits):
    np.testing.assert_allclose(vector(compress.qsgd(bits), [-0.7]), [-0.7], rtol=FLOAT32)


@given(SEEDS, st.sampled_from([1, 5, 8, 16]))
def test_k_bit_is_within_half_a_step(seed, bits):
    x = np.asarray(draw(seed)["kernel"], np.float64)
    step = np.ptp(x) / (2**bits - 1)
    assert (
        np.abs(vector(compress.k_bit(bits), x.astype(np.float32)) - x).max() <= step / 2 + 2 * FLOAT32 * np.abs(x).max()
    )


def test_k_bit_sends_a_tensor_of_two_to_the_bits_values_exactly():
    x = np.random.default_rng(0).permutation(32).astype(np.float32)
    np.testing.assert_array_equal(vector(compress.k_bit(5), x), x)


def test_stochastic_k_bit_has_no_bias():
    x = draw(0)["kernel"]
    wide = np.asarray(x, np.float64)
    step = np.ptp(wide) / 3
    f = (wide - wide.min()) / step % 1
    mean = draws(compress.k_bit(2, stochastic=True), x).mean(0)
    assert (np.abs(mean - wide) <= 4 * step * np.sqrt(f * (1 - f) / DRAWS) + FLOAT32 * step).all()


# refused


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 99.0])
@pytest.mark.parametrize("make", [compress.top_k, compress.random_k])
def test_ratio_out_of_range_is_refused(make, ratio):
    with pytest.raises(ValueError, match=rf"entries that is dropped, in \[0, 1\); got {ratio}"):
        make(ratio)


@pytest.mark.parametrize("make", [compress.k_bit, functools.partial(compress.top_k, 0.5)])
@pytest.mark.parametrize("bits", [0, 17])
def test_bits_out_of_range_are_refused(make, bits):
    with pytest.raises(ValueError, match=rf"an integer in \[1, 16\]; got {bits}"):
        make(bits=bits)


@pytest.mark.parametrize("bits", [1, 17])
def test_qsgd_needs_a_bit_beside_the_sign(bits):
    with pytest.raises(ValueError, match=rf"an integer in \[2, 16\]; got {bits}"):
        compress.qsgd(bits)


@pytest.mark.parametrize("bits", [0, 17])
def test_packing_refuses_other_bits(bits):
    for call in (
        lambda: compress.pack(jnp.ones(3, jnp.uint8), bits),
        lambda: compress.unpack(jnp.ones(3, jnp.uint8), bits, 1),
    ):
        with pytest.raises(ValueError, match=rf"an integer in \[1, 16\]; got {bits}"):
            call()
