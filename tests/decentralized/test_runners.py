"""One program, four runners: every method ends with the same numbers on one device, on many, in blocks."""

import functools

import jax
import numpy as np
import pytest

from subspace_jax.core import compress, exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import cga, choco_sgd, deep_squeeze, gossip, low_precision, ngc, push_sum, qgm
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, GRAPHS

STEPS = 20
FLOAT64, FLOAT32 = 1e-10, 1e-4  # in float32 only where nothing is rounded: one flipped sign moves .01
METHODS = {
    "d_psgd": functools.partial(gossip.d_psgd, gamma=0.5, momentum=0.9),
    "ngc_alpha_0": functools.partial(ngc.ngc, alpha=0.0),
    "ngc_alpha_1": functools.partial(ngc.ngc, momentum=0.9, gamma=0.5),
    "compngc": functools.partial(ngc.ngc, compressor=compress.sign()),
    "qgm": qgm.qgm,
    "choco_sgd": functools.partial(choco_sgd.choco_sgd, compressor=compress.top_k(0.7)),
    "deep_squeeze": functools.partial(deep_squeeze.deep_squeeze, compressor=compress.qsgd(4)),
    "cga": cga.cga,
    "compcga": functools.partial(cga.cga, compressor=compress.sign()),
    "push_sum": push_sum.push_sum,
    "low_precision": low_precision.low_precision,
}
EXACT = "d_psgd", "ngc_alpha_1", "qgm", "cga"


@functools.cache
def params(method, runner="vmap", devices=1, dtype=np.float64, graph="ring"):
    comm = Comm(AGENTS, devices)
    algorithm = METHODS[method](cases.loss, comm=comm, weights=GRAPHS[graph], lr=0.1)
    state, _ = cases.run(algorithm, comm, exchange.RUNNERS[runner], STEPS, dtype=dtype)
    return state.params


@pytest.mark.parametrize(
    ("method", "devices"),
    [*((method, 2) for method in METHODS), *((method, AGENTS) for method in ("ngc_alpha_0", "compngc"))],
)
def test_shard_map_ends_where_vmap_does(method, devices):
    assert not np.allclose(params(method)["kernel"], cases.variables()["params"]["kernel"], atol=1e-3)
    cases.assert_close(params(method, "shard_map", devices), params(method), atol=FLOAT64)


@pytest.mark.parametrize("method", ["d_psgd", "compngc"])
def test_pmap_ends_where_vmap_does(method):
    cases.assert_close(params(method, "pmap", AGENTS), params(method), atol=FLOAT64)


@pytest.mark.parametrize("method", EXACT)
def test_in_float32_too_where_nothing_is_rounded(method):
    blocks, reference = (params(method, *where, dtype=np.float32) for where in (("shard_map", 4), ("vmap",)))
    cases.assert_close(blocks, reference, atol=FLOAT32)
    assert jax.tree.leaves(reference)[0].dtype == np.float32


@pytest.mark.parametrize("graph", ["chain", "one_peer_exponential"])
def test_blocks_run_any_graph(graph):
    cases.assert_close(
        params("d_psgd", "shard_map", 4, graph=graph), params("d_psgd", graph=graph), atol=FLOAT64
    )  # fmt: skip
