"""The view into a quantised step: what it shows is what the quantised network computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import nn
from subspace_jax.core import quantize
from subspace_jax.decentralized import codes
from subspace_jax.decentralized.state import classification


def test_the_probe_sees_what_the_quantised_network_computes():
    twin, network = (nn.build("mlp", widths=[8], bits=bits) for bits in (None, 8))
    x, y = jax.random.uniform(jax.random.key(0), (16, 6)), jnp.arange(16) % 10
    variables = network.init(jax.random.key(1), x)
    found = jax.jit(functools.partial(codes.probe, model=twin, bits=8))(
        jax.random.key(2), params=variables["params"], x=x, y=y
    )
    loss = jax.jit(jax.grad(classification(network.train_apply), has_aux=True))
    grads, seen = loss(variables["params"], variables["batch_stats"], (x, y), jax.random.key(3))
    for layer, observer in seen.items():
        _, lo, hi = found["activations"][f"{layer}/kernel"]
        expected = quantize.observe(quantize.observer(), lo, hi)
        np.testing.assert_allclose([observer["observer"]["lo"], observer["observer"]["hi"]], expected, rtol=1e-6)
    logits = found["gradients"]["head/kernel"][0]  # that of the loss, before anything is rounded at random
    np.testing.assert_allclose(logits.sum(0), grads["head"]["bias"], atol=1e-7)


def test_shares_are_those_of_the_codes():
    model = nn.build("mlp", widths=[8])
    x, y = jax.random.uniform(jax.random.key(0), (16, 6)), jnp.arange(16) % 10
    params = model.init(jax.random.key(1), x)["params"]
    seen = codes.probe(jax.random.key(2), model, params, x, y, bits=4)
    used = codes.usage(jax.random.key(2), model, params, x, y, bits=4)
    for kind in codes.KINDS:
        for path, (tensor, lo, hi) in seen[kind].items():
            whole = np.round((np.clip(tensor, lo, hi) - lo) / (hi - lo) * 15).astype(int).ravel()
            np.testing.assert_allclose(used[kind][path].share, np.bincount(whole, minlength=16) / whole.size, atol=1e-6)
            outside = np.mean((np.asarray(tensor) < lo) | (np.asarray(tensor) > hi))
            np.testing.assert_allclose(used[kind][path].clipped, outside, atol=1e-6)
