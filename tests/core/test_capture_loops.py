"""Layers in loops and branches that data decide: rows are counted as often as they are met."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from subspace_jax.core import capture, moments

N, D = 6, 4
FLOAT32 = 2e-6  # sums of a few rows of size 1


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 2


W, V, X = draw(0, D, D), draw(1, D, D), draw(2, N, D)


def settle(params, x):
    """Until the rows move by little, or 9 times."""

    def again(c):
        return (c[0] < 9) & (jnp.abs(c[2] - c[1]).max() > 0.05)

    def step(c):
        return c[0] + 1, c[2], jnp.tanh(c[2] @ params["w"] + x)

    return lax.while_loop(again, step, (0, x + 1, x))[2] @ params["v"]


def settled(w, x):
    """(rows that the kernel meets, the last ones), by NumPy."""
    rows, before, now = [], x + 1, x
    while len(rows) < 9 and np.abs(now - before).max() > 0.05:
        rows.append(now)
        before, now = now, np.tanh(now @ w + x)
    return rows, now


def agree(found, rows):
    rows = np.concatenate(rows) if isinstance(rows, list) else rows
    np.testing.assert_allclose(found.gram, rows.T @ rows, atol=FLOAT32 * len(rows))
    assert float(found.count) == len(rows)


@pytest.mark.parametrize("seed", [2, 3])
def test_a_loop_that_data_end_counts_the_rows_of_every_iteration(seed):
    x = draw(seed, N, D)
    rows, last = settled(W, x)
    assert 2 < len(rows) < 10
    found = capture.collect(settle, {"w": W, "v": V}, [x, x])
    agree(found["w"], 2 * rows)
    agree(found["v"], [last, last])
    assert [layer.rows for layer in capture.layers(settle, {"w": W, "v": V}, x).values()] == [N, N]


def test_layers_in_a_loop_are_replaced_in_every_iteration():
    params, halved = {"w": W, "v": V}, {"w": W / 2, "v": V}
    table = capture.layers(settle, params, X)
    kernels = capture.kernels(table, params)
    edited = capture.write_kernels(table, params, {"w": np.asarray(kernels["w"]) / 2})
    np.testing.assert_allclose(settle(edited, X), settle(halved, X), atol=FLOAT32)
    swapped = capture.replace(settle, lambda call, kernel: call.linear(kernel))
    np.testing.assert_allclose(swapped(params, {"w": jnp.asarray(W / 2)}, X), settle(halved, X), atol=FLOAT32)
    out, _ = capture.observe(settle, params, X)
    np.testing.assert_allclose(out, settle(params, X), atol=FLOAT32)


def test_what_a_loop_cannot_give_is_said():
    params = {"w": W, "v": V}
    with pytest.raises(ValueError, match=r"'w' is in a branch that may not be taken or in a 'while'.*no fixed rows"):
        capture.record(settle, params, X)
    rows = capture.record(settle, params, X, layers=["v"])[1]["v"]
    np.testing.assert_allclose(rows, settled(W, X)[1], atol=FLOAT32)
    with pytest.raises(ValueError, match="'w' is in a 'while', of which JAX takes no gradients backwards"):
        capture.observe(lambda p, x: settle(p, x).sum(), params, X, of="gradients")


def test_a_scan_in_a_loop_and_a_loop_in_a_scan():
    stacked = np.stack([W, V])

    def inside(params, x):
        def step(c):
            return c[0] + 1, lax.scan(lambda h, w: (jnp.tanh(h @ w), None), c[1], params["w"])[0]

        return lax.while_loop(lambda c: c[0] < x[0, 0] + 2, step, (0.0, x))[1]

    def outside(params, x):
        def layer(h, w):
            return lax.while_loop(lambda c: c[0] < 2 + x[0, 0], lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0.0, h))[1]

        return lax.scan(lambda h, w: (layer(h, w), None), x, params["w"])[0]

    times = int(np.ceil(2 + X[0, 0]))
    for fn, order in (inside, [0, 1] * times), (outside, [0] * times + [1] * times):
        rows, h = {0: [], 1: []}, X
        for k in order:
            rows[k].append(h)
            h = np.tanh(h @ stacked[k])
        found = capture.collect(fn, {"w": stacked}, [X])["w"]
        for k in rows:
            agree(moments.Moments(found.gram[k], found.total[k], found.count), rows[k])


def test_each_sample_by_its_own_loop():
    """Under vmap the loop runs until the last sample ends, and so long the rows of all of them are met."""

    def one(params, row):
        return lax.while_loop(lambda h: jnp.abs(h).max() > 0.1, lambda h: jnp.tanh(h @ params["w"]) / 2, row)

    rows, h = [], X
    while (going := np.abs(h).max(1) > 0.1).any():
        rows.append(h)
        h = np.where(going[:, None], np.tanh(h @ W) / 2, h)
    agree(capture.collect(jax.vmap(one, (None, 0)), {"w": W}, [X])["w"], rows)


def test_a_value_computed_before_the_loop_is_its_kernel_one_computed_anew_is_none():
    params = {"w": W, "g": np.float32(0.7)}

    def fixed(p, x):
        kernel = p["w"] * p["g"]
        return lax.while_loop(lambda c: c[0] < 3 + x[0, 0], lambda c: (c[0] + 1, c[1] @ kernel), (0.0, x))[1]

    def anew(p, x):
        return lax.while_loop(lambda c: c[0] < x[0, 0], lambda c: (c[0] + 1, c[1] @ (p["w"] * c[0])), (0.0, x))[1]

    rows = [X]
    for _ in range(int(np.ceil(3 + X[0, 0])) - 1):
        rows.append(rows[-1] @ (W * np.float32(0.7)))
    table = capture.layers(fixed, params, X)
    assert list(table) == ["w:effective"]
    agree(capture.collect(fixed, params, [X])["w:effective"], rows)
    np.testing.assert_allclose(capture.kernels(table, params)["w:effective"], W * np.float32(0.7), atol=FLOAT32)
    with pytest.raises(ValueError, match="cannot follow the weight 'w': it is another value in each iteration"):
        capture.layers(anew, params, X)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_branch_that_data_choose_has_the_rows_of_the_batches_that_take_it(sign):
    def fn(params, x):
        h = lax.cond(x[0, 0] > 0, lambda: jnp.tanh(x @ params["w"]), lambda: x @ params["v"])
        return h @ params["v"]

    x = np.abs(X) * sign
    found = capture.collect(fn, {"w": W, "v": V}, [x, -x])
    agree(found["w"], np.abs(X))
    agree(found["v"], [np.tanh(np.abs(X) @ W), -np.abs(X), -np.abs(X) @ V])
