"""One program, four runners: every method ends with the same numbers on one device, on many, in blocks."""

import functools

import jax
import numpy as np
import pytest

from subspace_jax.core import compress, exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import methods
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, GRAPHS

STEPS = 20
FLOAT64, FLOAT32 = 1e-10, 1e-4  # in float32 only where nothing is rounded: one flipped sign moves .01
SETTINGS = {
    "d_psgd": {"gamma": 0.5, "momentum": 0.9},
    "ngc_alpha_1": {"gamma": 0.5, "momentum": 0.9},
    "choco_sgd": {"compressor": compress.top_k(0.7)},
    "deep_squeeze": {"compressor": compress.qsgd(4)},
}
EXACT = "d_psgd", "ngc_alpha_1", "qgm", "cga"


@functools.cache
def run(method, runner="vmap", devices=1, dtype=np.float64, graph="ring"):
    comm = Comm(AGENTS, devices)
    algorithm = methods.build(method, cases.loss, comm=comm, weights=GRAPHS[graph], lr=0.1, **SETTINGS.get(method, {}))
    state, infos = cases.run(algorithm, comm, exchange.RUNNERS[runner], STEPS, dtype=dtype)
    return state.params, infos


def params(*where, **settings):
    return run(*where, **settings)[0]


@pytest.mark.parametrize("method", methods.METHODS)
def test_shard_map_ends_where_vmap_does(method):
    assert not np.allclose(params(method)["kernel"], cases.variables()["params"]["kernel"], atol=1e-3)
    cases.assert_close(params(method, "shard_map", 2), params(method), atol=FLOAT64)


@pytest.mark.parametrize("name", methods.METHODS)
def test_what_is_sent_is_what_the_table_of_methods_says(name):
    """Bytes of a step to two neighbours."""
    method, one = methods.METHODS[name], jax.tree.map(lambda leaf: leaf[0], cases.variables()["params"])
    own = SETTINGS.get(name, {}).get("compressor", method.model)
    with jax.enable_x64(True):
        encode = [kind.encode if kind else lambda key, tree: () for kind in (own, method.gradient)]
        wires = [jax.eval_shape(write, jax.random.key(0), one) for write in encode]
    (model, gradient), infos = map(compress.nbytes, wires), run(name)[1]
    np.testing.assert_array_equal(infos.bytes_model, 2 * (model + 8 * method.scalars))
    np.testing.assert_array_equal(infos.bytes_cross, 2 * gradient)
    assert method.crosses or not gradient


@pytest.mark.process
@pytest.mark.parametrize("method", ["ngc_alpha_0", "compngc"])
def test_one_agent_a_device_ends_there_too(method):
    cases.assert_close(params(method, "shard_map", AGENTS), params(method), atol=FLOAT64)


@pytest.mark.parametrize("method", ["d_psgd", pytest.param("compngc", marks=pytest.mark.process)])
def test_pmap_ends_where_vmap_does(method):
    cases.assert_close(params(method, "pmap", AGENTS), params(method), atol=FLOAT64)


@pytest.mark.process
@pytest.mark.parametrize("method", EXACT)
def test_in_float32_too_where_nothing_is_rounded(method):
    blocks, reference = (params(method, *where, dtype=np.float32) for where in (("shard_map", 4), ("vmap",)))
    cases.assert_close(blocks, reference, atol=FLOAT32)
    assert jax.tree.leaves(reference)[0].dtype == np.float32


@pytest.mark.parametrize("graph", ["chain", "one_peer_exponential"])
def test_blocks_run_any_graph(graph):
    cases.assert_close(params("d_psgd", "shard_map", 4, graph=graph), params("d_psgd", graph=graph), atol=FLOAT64)
