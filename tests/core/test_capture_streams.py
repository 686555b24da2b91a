"""Outputs, gradients and streams of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh

from subspace_jax.core import capture, moments
from tests.core.grams import FLOAT32_SUM, assert_grams, draw, gram

N, D = 7, 4


def test_moments_of_outputs_and_of_their_gradients():
    params, x = {"a": draw(0, D, 3), "b": draw(1, 2, 3, 3)}, draw(2, N, D)

    def loss(params, x, taps):
        h = jnp.tanh(jax.checkpoint(lambda a: x @ a)(params["a"]) + taps[0])
        for i in range(2):
            h = jnp.sin(h @ params["b"][i] + taps[1][i])
        return jnp.sum(h**3)

    def fn(params, x):
        h = jnp.tanh(jax.checkpoint(lambda a: x @ a)(params["a"]))
        return jnp.sum(lax.scan(lambda h, b: (jnp.sin(h @ b), None), h, params["b"])[0] ** 3)

    taps = jnp.zeros((N, 3)), jnp.zeros((2, N, 3))
    slopes = jax.jit(jax.grad(loss, 2))(params, x, taps)
    assert_grams(capture.observe(fn, params, x, of="gradients")[1], dict(zip("ab", slopes, strict=True)), atol=1e-3)
    np.testing.assert_allclose(
        capture.observe(fn, params, x, of="outputs")[1]["a"].gram, gram(x @ params["a"]), atol=1e-3
    )


def test_gradients_need_a_scalar():
    with pytest.raises(ValueError, match=r"gradients are those of a scalar.*gives \(7, 3\)"):
        capture.observe(lambda p, x: x @ p, draw(0, D, 3), draw(1, N, D), of="gradients")


# ---- streams -------------------------------------------------------------------------------------------------------
def two_layers(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def two_layer_case(seed=0, samples=16):
    return {"a": draw(seed, D, 3), "b": draw(seed + 1, 3, 2)}, draw(seed + 2, samples, D)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_stream_of_batches_is_one_large_batch(dtype, devices):
    params, x = two_layer_case(samples=24)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",)) if devices > 1 else None
    found = capture.collect(two_layers, params, [x[:8], x[8:16], x[16:20], x[20:]], dtype=dtype, mesh=mesh)
    exact = 1e-12 if dtype == "float64" else FLOAT32_SUM
    assert_grams({"a": found["a"]}, {"a": x}, atol=exact)
    np.testing.assert_allclose(found["b"].gram, gram(jnp.tanh(x @ params["a"])), atol=FLOAT32_SUM)
    assert isinstance(found["a"].gram, np.ndarray if dtype == "float64" else jax.Array)


def test_float64_sums_do_not_change_what_the_network_computes():
    params, x = two_layer_case()
    wide = capture.collect(two_layers, params, [x], dtype="float64")["b"]
    rows = capture.record(two_layers, params, x)[1]["b"]
    np.testing.assert_allclose(wide.gram, gram(rows), rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_batches():
    params, x = two_layer_case()
    seen = []

    def batches():
        for _ in range(12):
            yield x
            seen.append(sum(a.nbytes for a in jax.live_arrays()))

    capture.collect(two_layers, params, batches())
    assert max(seen[4:]) <= seen[3]


def test_moments_merge_with_those_of_another_day():
    params, x = two_layer_case()
    parts = [capture.collect(two_layers, params, [part]) for part in (x[:6], x[6:])]
    saved = jax.tree.map(np.asarray, parts[0])
    assert_grams({"a": moments.merge(saved, parts[1])["a"]}, {"a": x})


def test_a_cap_keeps_that_many_rows_of_each_layer():
    params, x = two_layer_case(samples=20)
    found = capture.collect(two_layers, params, [x[:8], x[8:16], x[16:]], max_rows=10, key=jax.random.key(0))
    assert {float(m.count) for m in found.values()} == {10.0}
    whole = capture.collect(two_layers, params, [x[:8]], max_rows=100, key=jax.random.key(0))
    assert_grams({"a": whole["a"]}, {"a": x[:8]})


def test_capture_runs_under_jit_and_vmap():
    params, x = two_layer_case()
    observe = lambda params: capture.observe(two_layers, params, x)[1]["b"].gram  # noqa: E731
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, two_layer_case(7)[0])
    many = jax.jit(jax.vmap(observe))(both)
    np.testing.assert_allclose(many[1], observe(jax.tree.map(lambda a: a[1], both)), atol=FLOAT32_SUM)
