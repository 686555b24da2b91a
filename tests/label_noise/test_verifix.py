import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import capture, moments, subspace
from subspace_jax.label_noise.verifix import verifix
from tests.label_noise.cases import NETWORKS, conv_case, conv_net, draw, measured, mlp, mlp_case, soft_projector

SHAPES = st.sampled_from([(16, 6), (5, 9)])  # more and fewer rows than features
SEEDS = st.integers(0, 2**31 - 1)
ALPHAS = st.sampled_from([0.3, 1.0, 10.0, 1e3])
EXACT = 1e-10  # float64, condition at most 1e3
LIMIT = 1e12  # "infinity": a row then moves by at most sqrt(tr(G) / alpha) / 2, about 1e-5 here
AT_LIMIT = 1e-4  # ten times that
FLOAT32 = 2e-5  # kernels of size 1 are read and written in float32; a few layers of sums of ten products


@functools.cache
def identity(d):
    """A linear layer whose kernel is the identity: its edit is M itself."""
    with jax.enable_x64(True):
        params = {"kernel": jnp.eye(d, dtype=jnp.float64)}
        return params, capture.layers(lambda params, x: x @ params["kernel"], params, jnp.ones((1, d), jnp.float64))


def rows_of(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def clean(rows, alpha):
    """M(alpha) as the edit has it."""
    params, table = identity(rows.shape[1])
    seen = {"kernel": moments.Moments(rows.T @ rows, rows.sum(0), float(len(rows)))}
    with jax.enable_x64(True):
        return np.asarray(verifix(table, params, seen, alpha=alpha)["kernel"])


@given(SHAPES, SEEDS, ALPHAS)
def test_the_edit_is_the_svd_formula(shape, seed, alpha):
    rows = rows_of(shape, seed)
    np.testing.assert_allclose(clean(rows, alpha), soft_projector(rows, alpha), atol=EXACT)


@given(SHAPES, SEEDS, ALPHAS)
def test_m_is_symmetric_soft_and_commutes_with_the_gram(shape, seed, alpha):
    rows = rows_of(shape, seed)
    m, gram = clean(rows, alpha), rows.T @ rows
    np.testing.assert_array_equal(m, m.T)
    values = np.linalg.eigvalsh(m)
    assert -EXACT <= values.min() <= values.max() <= 1 + EXACT
    np.testing.assert_allclose(m @ gram, gram @ m, atol=EXACT)


@given(SHAPES, SEEDS)
def test_alpha_one_is_the_gram_and_infinity_the_projector_onto_the_rows(shape, seed):
    rows = rows_of(shape, seed)
    gram = rows.T @ rows
    np.testing.assert_allclose(clean(rows, 1), gram / np.trace(gram), atol=EXACT)
    limit = clean(rows, LIMIT)
    np.testing.assert_allclose(limit, np.linalg.pinv(rows) @ rows, atol=AT_LIMIT)
    np.testing.assert_allclose(rows @ limit, rows, atol=AT_LIMIT)


@given(SHAPES, SEEDS, st.sampled_from([(0.3, 1.0), (3.0, 30.0), (1e3, 1e4)]))
def test_m_grows_with_alpha(shape, seed, alphas):
    rows = rows_of(shape, seed)
    weak, strong = (clean(rows, alpha) for alpha in alphas)
    assert np.linalg.eigvalsh(strong - weak).min() >= -EXACT


@given(SHAPES, SEEDS, ALPHAS)
def test_m_does_not_see_scale_copies_order_and_turns_with_the_basis(shape, seed, alpha):
    rows = rows_of(shape, seed)
    turn, _ = np.linalg.qr(rows_of((shape[1], shape[1]), seed + 1))
    m = clean(rows, alpha)
    for same in (7 * rows, np.concatenate([rows, rows]), rows[::-1]):
        np.testing.assert_allclose(clean(same, alpha), m, atol=EXACT)
    np.testing.assert_allclose(clean(rows @ turn, alpha), turn.T @ m @ turn, atol=EXACT)


# ---- networks ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1])
def test_every_layer_is_edited_with_the_inputs_of_the_original_network(seed):
    params, x = mlp_case(seed)
    table, seen = measured(mlp, params, x)
    edited, rows = verifix(table, params, seen, alpha=30.0), np.asarray(x, np.float64)
    for name in ("first", "second", "head"):  # by hand, without capture
        kernel, bias = (np.asarray(params[name][leaf], np.float64) for leaf in ("kernel", "bias"))
        np.testing.assert_allclose(edited[name]["kernel"], soft_projector(rows, 30.0) @ kernel, atol=FLOAT32)
        rows = np.maximum(rows @ kernel + bias, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_convolutions_groups_scans_and_transposed_kernels_follow_the_formula(seed):
    params, x = conv_case(seed)
    table, seen = measured(conv_net, params, x)
    edited = capture.kernels(table, verifix(table, params, seen, alpha=30.0))
    record = jax.jit(lambda params, x: capture.record(conv_net, params, x)[1])  # op by op it compiles for seconds
    rows, kernels = record(params, x), capture.kernels(table, params)
    assert sorted(edited) == ["conv", "grouped", "head", "scanned", "turned"]
    for path, matrix in edited.items():
        expected = soft_projector(rows[path], 30.0) @ np.asarray(kernels[path], np.float64)
        np.testing.assert_allclose(matrix, expected, atol=FLOAT32, err_msg=path)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("network", NETWORKS)
def test_trusted_outputs_are_unchanged_as_alpha_grows(network, seed):
    fn, case = NETWORKS[network]
    params, x = case(seed)
    table, seen = measured(fn, params, x[:4])  # fewer samples than features: a true projection
    run = jax.jit(fn)
    before, edited, softer = (
        np.asarray(run(verifix(table, params, seen, alpha=alpha), x)) for alpha in (None, LIMIT, 10)
    )
    np.testing.assert_allclose(edited[:4], before[:4], atol=AT_LIMIT)
    assert np.abs(edited[4:] - before[4:]).max() > 100 * AT_LIMIT
    assert np.abs(softer[:4] - before[:4]).max() > 100 * AT_LIMIT


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_no_kernel_is_the_same_object_and_dtypes_stay(dtype):
    params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), mlp_case(0))
    table, seen = measured(mlp, params, x)
    edited = verifix(table, params, seen, alpha=10)
    chex.assert_trees_all_equal_shapes_and_dtypes(edited, params)
    assert all(edited[name]["bias"] is params[name]["bias"] for name in params)
    assert not any(np.array_equal(edited[name]["kernel"], params[name]["kernel"]) for name in params)
    assert verifix(table, params, seen, alpha=None) is params


def test_only_the_layers_named_by_path_or_leaf_are_edited():
    params, x = {"qkv": draw(0, 4, 12), "out": draw(1, 4, 4)}, draw(9, 7, 4)

    def fn(params, x):
        q, k, v = jnp.split(params["qkv"], 3, axis=1)
        return jnp.tanh((x @ q) * (x @ k) + x @ v) @ params["out"]

    table, seen = measured(fn, params, x)
    expected = soft_projector(x, 10.0) @ np.asarray(params["qkv"], np.float64)
    for name, columns in {"qkv": slice(0, 12), "qkv[:,4:8]": slice(4, 8)}.items():
        edited, whole = verifix(table, params, seen, alpha=10.0, layers=[name]), np.array(params["qkv"])
        whole[:, columns] = expected[:, columns]
        np.testing.assert_allclose(edited["qkv"], whole, atol=FLOAT32)
        assert edited["out"] is params["out"]


def test_layers_that_share_an_input_share_one_solve(monkeypatch):
    params, x = {name: draw(i, 4, 4) for i, name in enumerate(("q", "k", "v", "out"))}, draw(9, 7, 4)

    def fn(params, x):
        return jnp.tanh((x @ params["q"]) * (x @ params["k"]) + x @ params["v"]) @ params["out"]

    table, seen = measured(fn, params, x)
    solved, resolvent = [], subspace.resolvent
    monkeypatch.setattr(subspace, "resolvent", lambda *args: solved.append(args) or resolvent(*args))
    edited = verifix(table, params, seen, alpha=10.0)
    assert len(solved) == 2
    for name in ("q", "k", "v"):
        expected = soft_projector(x, 10.0) @ np.asarray(params[name], np.float64)
        np.testing.assert_allclose(edited[name], expected, atol=FLOAT32)


def test_a_channel_group_that_is_never_excited_is_suppressed():
    params, x = conv_case(0)
    params = {**params, "bias": jnp.asarray([1.0, 1.0, -99.0, -99.0]).reshape(1, 1, 1, 4)}  # ReLU shuts two channels
    table, seen = measured(conv_net, params, x)
    kernels = capture.kernels(table, verifix(table, params, seen, alpha=10))["grouped"]
    assert np.asarray(kernels[0]).any()
    assert not np.asarray(kernels[1]).any()
