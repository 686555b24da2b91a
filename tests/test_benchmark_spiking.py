"""The benchmark of spiking networks: both ways give the same logits and gradients, every row is there, no times."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import spiking as benchmark
from subspace_jax import nn
from subspace_jax.spiking import encode, network


@pytest.fixture(scope="module")
def report():
    return benchmark.main(argparse.Namespace(steps=[2], widths=[2, 3], side=4, batch=3, repeats=1, out=None))


def test_every_number_is_there(report):
    assert list(report["networks"]) == ["2 steps"]
    for rows in (report["networks"], report["encoder"]):
        assert all(value >= 0 for row in rows.values() for value in row.values())
    assert json.loads(json.dumps(report))["claims"] == []


def test_step_by_step_has_the_same_gradients():
    model = nn.build("cnn2", widths=(2, 3), pool="average", use_bias=False)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    snn = network.spiking(model, jax.jit(model.init)(jax.random.key(0), x[:1]))
    spikes = encode.poisson(jax.random.key(1), x, np.arange(3), steps=5)
    found = []
    for way in (benchmark.layer_by_layer, benchmark.step_by_step):
        loss = jax.jit(jax.value_and_grad(lambda p, way=way: jnp.square(way(snn._replace(params=p), spikes)).sum()))
        found.append(loss(snn.params))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), *found)
    assert float(found[0][0]) > 0


def test_the_claim_reads_four_steps():
    rows = {"4 steps": {"forward and backward, step by step over it": 1.5}}
    assert [claim["holds"] for claim in benchmark.claims(rows)] == [False]
    rows["4 steps"]["forward and backward, step by step over it"] = 2.5
    assert [claim["holds"] for claim in benchmark.claims(rows)] == [True]
