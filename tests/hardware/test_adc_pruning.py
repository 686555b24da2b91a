"""Penalties against loops over tiles, and their gradients against differences; masks against any optimiser."""

import re

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn
from subspace_jax.core import convolution
from subspace_jax.hardware import adc_pruning
from subspace_jax.hardware.adc_pruning import gate, group_lasso, hoyer_sq, masked, variance_penalty

SEEDS = st.integers(0, 2**31 - 1)
ROWS = 8
penalties = {
    name: jax.jit(lambda kernels, options=options: variance_penalty(kernels, ROWS, **options))
    for name, options in {"gated": {}, "plain": {"gated": False}, "padded": {"gated": False, "padded": True},
                          "normalised": {"gated": False, "normalised": True}}.items()
}  # fmt: skip
slopes = {name: jax.jit(jax.grad(fn)) for name, fn in penalties.items() if name in ("gated", "plain")}


def draw(seed):
    """A convolution whose last tiles lack outputs, and a dense layer whose last ones lack inputs."""
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(3, 3, 2, 11)).astype("float32"), "b": rng.normal(size=(13, 8)).astype("float32")}


def columns(kernel):
    """The columns of each tile, entry by entry."""
    matrix = kernel.reshape(-1, *kernel.shape[-2:]).transpose(2, 1, 0).reshape(kernel.shape[-1], -1)
    if kernel.ndim == 2:
        matrix = kernel.T
    for i in range(0, len(matrix), ROWS):
        for j in range(0, matrix.shape[1], ROWS):
            yield matrix[i : i + ROWS, j : j + ROWS].astype(np.float64)


def density(tile):
    return np.abs(tile).sum(1) ** 2 / ((tile**2).sum(1) + 1e-6)


@given(SEEDS)
def test_the_penalty_is_the_variance_of_each_tile(seed):
    kernels = draw(seed)
    tiles = [density(tile) for kernel in kernels.values() for tile in columns(kernel)]
    plain = sum(h.var(ddof=1) for h in tiles)
    padded = sum(np.pad(h, (0, ROWS - len(h))).var(ddof=1) for h in tiles)
    for name, expected in {"gated": plain, "plain": plain, "padded": padded}.items():
        assert float(penalties[name](kernels)) == pytest.approx(expected, rel=1e-4)
    assert float(penalties["normalised"](kernels)) == pytest.approx(plain / (len(tiles) * ROWS**2), rel=1e-4)
    assert padded > plain


@given(SEEDS)
def test_the_gate_stops_what_would_make_a_column_denser(seed):
    kernels = draw(seed)
    gated, plain = slopes["gated"](kernels), slopes["plain"](kernels)
    for path, kernel in kernels.items():
        own = [convolution.tiles(np.asarray(part), ROWS)[0] for part in (kernel, gated[path], plain[path])]
        _, there = convolution.tiles(kernel, ROWS)
        h = np.asarray(density(own[0].reshape(-1, ROWS).astype(np.float64))).reshape(own[0].shape[:-1])
        counted = there.any(-1)
        mean = (h * counted).sum(-1, keepdims=True) / counted.sum(-1, keepdims=True)
        dense, sparse = counted & (h > mean + 1e-4), counted & (h < mean - 1e-4)
        assert not own[1][sparse].any()
        assert own[2][sparse].any()
        np.testing.assert_allclose(own[1][dense], own[2][dense], rtol=1e-5, atol=1e-6)


def test_a_step_down_the_gated_penalty_makes_dense_columns_sparser():
    kernels = {"b": np.diag(np.ones(8, np.float32)) + 1e-3}
    kernels["b"][:, 3] = 1.0  # one dense column
    before = hoyer_sq(jnp.asarray(kernels["b"].T))
    after = hoyer_sq((kernels["b"] - 1e-3 * slopes["gated"]({"a": np.zeros((3, 3, 2, 11)), **kernels})["b"]).T)
    assert after[3] <= before[3]
    np.testing.assert_allclose(np.delete(after, 3), np.delete(before, 3), rtol=1e-5)


@given(st.integers(1, 16), st.floats(0.25, 8, width=32), SEEDS)
def test_the_density_counts_entries_of_one_size(count, size, seed):
    w = np.zeros(16, np.float32)
    w[np.random.default_rng(seed).permutation(16)[:count]] = size
    assert float(hoyer_sq(w)) == pytest.approx(count, rel=1e-4)
    mixed = w * np.random.default_rng(seed).uniform(0.5, 2, 16).astype(np.float32)
    assert 1 - 1e-4 <= float(hoyer_sq(mixed)) <= count + 1e-3
    assert float(hoyer_sq(3 * mixed)) == pytest.approx(float(hoyer_sq(mixed)), rel=1e-3)


def test_densities_by_hand():
    """Columns of 1, 2, 4 and 8 entries: mean 3.75, variance 9.5833."""
    tile = np.zeros((8, 4), np.float32)
    for number, count in enumerate((1, 2, 4, 8)):
        tile[:count, number] = 1
    assert float(variance_penalty({"w": tile}, 8)) == pytest.approx(9.5833, abs=1e-3)
    assert float(hoyer_sq(np.zeros(8))) == 0
    assert float(hoyer_sq(np.float32([1e-3]))) == pytest.approx(0.5, rel=1e-3)  # the added term shows
    rolled = np.stack([np.roll(np.arange(8.0), i) for i in range(8)], 1)
    assert float(variance_penalty({"w": rolled}, 8)) == pytest.approx(0, abs=1e-4)
    assert float(variance_penalty({"w": np.ones((8, 1))}, 8)) == 0  # one column


def test_the_gate_alone():
    value, back = jax.vjp(gate, jnp.arange(3.0))
    np.testing.assert_array_equal(value, [0, 1, 2])
    np.testing.assert_array_equal(back(jnp.float32([-1, 0, 2]))[0], [0, 0, 2])


@pytest.mark.parametrize("structure", ["tile", "row", "column"])
def test_a_group_lasso_is_the_sum_of_norms(structure):
    kernels = draw(0)
    norms = {"tile": lambda t: np.sqrt((t**2).sum()), "row": lambda t: np.sqrt((t**2).sum(0)).sum(),
             "column": lambda t: np.sqrt((t**2).sum(1)).sum()}  # fmt: skip
    expected = sum(norms[structure](tile) for kernel in kernels.values() for tile in columns(kernel))
    assert float(group_lasso(kernels, ROWS, structure=structure)) == pytest.approx(expected, rel=1e-5)
    empty = jax.grad(lambda w: group_lasso({"w": w}, ROWS, structure=structure))(jnp.zeros((8, 8)))
    np.testing.assert_array_equal(empty, 0)


@pytest.mark.parametrize(
    "optimiser",
    [optax.sgd(0.1, 0.9), optax.adam(0.1), optax.adamw(0.1)],
    ids=["sgd", "adam", "adamw"],
)
def test_what_was_zero_stays_zero_after_any_optimiser(optimiser):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(6, 5)) * (rng.random((6, 5)) > 0.5)), "b": jnp.zeros(5)}
    tx = optax.chain(optimiser, masked(("w",)))
    state, zero = tx.init(params), np.asarray(params["w"]) == 0
    for _ in range(3):
        grads = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(np.asarray(params["w"])[zero], 0)
    assert (np.asarray(params["w"])[~zero] != 0).all()
    assert (params["b"] != 0).all()


def conv(params, x):
    numbers = ("NHWC", "OIHW", "NHWC")
    hidden = jax.lax.conv_general_dilated(x, params["k"], (1, 1), "SAME", dimension_numbers=numbers)
    return hidden.reshape(len(x), -1) @ params["w"]


def test_kernels_of_any_layout_are_read_and_written():
    rng = np.random.default_rng(0)
    params = {"k": rng.normal(size=(5, 2, 3, 3)).astype("float32"), "w": rng.normal(size=(80, 3)).astype("float32")}
    x = np.zeros((7, 4, 4, 2), np.float32)
    layers = adc_pruning.mapped(conv, params, x, rows=4)
    assert list(layers) == ["k"]
    assert list(adc_pruning.mapped(conv, params, x, rows=4, dense=True)) == ["k", "w"]
    found = adc_pruning.kernels(layers, params)
    np.testing.assert_array_equal(found["k"], params["k"].transpose(2, 3, 1, 0))
    back = adc_pruning.write(layers, params, {"k": 2 * found["k"]})
    np.testing.assert_array_equal(back["k"], 2 * params["k"])
    np.testing.assert_array_equal(back["w"], params["w"])


def test_the_objective_is_the_loss_and_the_penalty():
    model = nn.build("cnn2", widths=(2, 3), dense=(4,), classes=3)
    rng = np.random.default_rng(0)
    x, y = rng.random((5, 4, 4, 1)).astype("float32"), np.arange(5) % 3
    variables = jax.jit(model.init)(jax.random.key(0), x)
    layers = adc_pruning.mapped(model.apply, variables, x, rows=4)
    logits = np.asarray(model.apply(variables, x), np.float64)
    entropy = (np.log(np.exp(logits).sum(1)) - logits[np.arange(5), y]).mean()
    for kind in ("ungated", "group_lasso"):
        objective = adc_pruning.objective(model.train_apply, layers, 4, kind=kind)
        loss, _ = objective(variables["params"], {}, ((x, y),), {"strength": 0.5}, jax.random.key(0))
        penalty = adc_pruning.penalty_of(kind)(adc_pruning.kernels(layers, variables), 4)
        assert float(loss) == pytest.approx(entropy + 0.5 * float(penalty), rel=1e-5)


def test_grouped_convolutions_are_warned_of_and_none_at_all_is_refused():
    model = nn.from_linen(linen.Sequential([linen.Conv(4, (3, 3), feature_group_count=4)]))
    x = np.zeros((1, 4, 4, 4), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    with pytest.warns(UserWarning, match="has groups of 9 inputs, less than the 16 rows"):
        layers = adc_pruning.mapped(model.apply, variables, x, rows=16)
    (kernel,) = adc_pruning.kernels(layers, variables).values()
    np.testing.assert_array_equal(kernel, variables["params"]["layers_0"]["kernel"])
    with pytest.raises(ValueError, match="no convolution lies in a crossbar; the layers are w: include dense ones"):
        adc_pruning.mapped(lambda p, x: x @ p["w"], {"w": jnp.ones((4, 2))}, np.ones((1, 4), np.float32), rows=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance_penalty({"w": jnp.ones((4, 4))}, 12), "rows of a crossbar are a power of two, such as 16 or"),
        (lambda: variance_penalty({"w": jnp.ones((4, 4))}, 0), "are a power of two, such as 16 or 64; got 0"),
        (lambda: variance_penalty({"w": jnp.ones((4, 4))}, 1), "a crossbar of 1 row has one column, and one column no"),
        (lambda: variance_penalty({}, 4), "there is no kernel to prune"),
        (lambda: group_lasso({"w": jnp.ones((4, 4))}, 4, structure="cell"), "groups are tile, row or column; got"),  # type: ignore
        (lambda: adc_pruning.penalty_of("l1"), "penalties are gated, ungated and group_lasso; got 'l1'"),  # type: ignore
        (lambda: masked(("w",)).update({"w": jnp.ones(2)}, masked(("w",)).init({"w": jnp.ones(2)})), "give update the"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
