"""Exchange between agents, by every runner, against indexing in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm

AGENTS = 8
RUNS = [("vmap", 1), ("pmap", 8), ("shard_map", 1), ("shard_map", 2), ("shard_map", 4), ("shard_map", 8)]
SHIFT, PAIRS = tuple((i + 3) % AGENTS for i in range(AGENTS)), (1, 0, 2, 3, 7, 5, 6, 4)


def run(name, devices, fn, *args, shared=()):
    spread = exchange.RUNNERS[name](fn, Comm(AGENTS, devices), shared=shared)
    return jax.device_get((spread if name == "pmap" else jax.jit(spread))(*args))


def tree(seed=0):
    rng = np.random.default_rng(seed)
    floats = {"a": rng.normal(size=(AGENTS, 2, 3)), "c": rng.normal(size=AGENTS), "d": rng.normal(size=(AGENTS, 4))}
    return floats | {"b": rng.integers(0, 255, (AGENTS, 5)).astype(np.uint8)}


@pytest.mark.parametrize(("name", "devices"), RUNS)
@pytest.mark.parametrize("source", [SHIFT, PAIRS], ids=["shift", "pairs"])
def test_a_permutation_gives_each_agent_the_tree_of_its_source(name, devices, source):
    comm, values = Comm(AGENTS, devices), jax.tree.map(jnp.asarray, tree())
    found = run(name, devices, lambda own: comm.permute(own, source), values)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)[list(source)]), found, values)
    assert found["b"].dtype == np.uint8


@settings(max_examples=8)  # each one compiles
@given(st.permutations(range(AGENTS)), st.sampled_from([2, 4]))
def test_any_permutation_travels_between_blocks(source, devices):
    comm, values = Comm(AGENTS, devices), jnp.arange(AGENTS * 2).reshape(AGENTS, 2)
    found = run("shard_map", devices, lambda own: comm.permute(own, source), values)
    np.testing.assert_array_equal(found, np.asarray(values)[list(source)])


@pytest.mark.parametrize(("name", "devices"), RUNS)
def test_an_agent_knows_its_number_the_mean_and_what_it_sends(name, devices):
    comm, values = Comm(AGENTS, devices), tree()["a"].astype(np.float32)

    def agent(own, scale):
        return comm.index(), comm.mean(scale * own), comm.bytes(own, PAIRS)

    index, mean, sent = run(name, devices, agent, values, np.float32(2), shared=(1,))
    np.testing.assert_array_equal(index, np.arange(AGENTS))
    np.testing.assert_allclose(mean, np.broadcast_to(2 * values.mean(0), values.shape), atol=1e-6)
    np.testing.assert_array_equal(sent, 24 * (np.array(PAIRS) != np.arange(AGENTS)))


def sent(jaxpr):
    """Bytes that one device gives to each collective permutation, and all operands found."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "ppermute":
            found += [v.aval.size * v.aval.dtype.itemsize for v in eqn.invars]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += sent(inner) if hasattr(inner, "eqns") else []
    return found


def test_only_the_rows_that_another_device_needs_are_sent_to_it():
    comm, values = Comm(AGENTS, 2), jnp.zeros((AGENTS, 16))
    ring = tuple((i + 1) % AGENTS for i in range(AGENTS))
    program = jax.make_jaxpr(exchange.shard_map(lambda own: comm.permute(own, ring), comm))(values)
    assert sent(program.jaxpr) == [16 * 4]  # one row of four


@pytest.mark.parametrize("devices", [2, 8])
def test_arrays_of_one_type_travel_as_one_message(devices):
    comm, values = Comm(AGENTS, devices), jax.tree.map(jnp.asarray, tree())
    program = jax.make_jaxpr(exchange.shard_map(lambda own: comm.permute(own, SHIFT), comm))(values)
    alone = jax.make_jaxpr(exchange.shard_map(lambda own: comm.permute(own, SHIFT), comm))({"b": values["b"]})
    assert len(sent(program.jaxpr)) == 2 * len(sent(alone.jaxpr))  # floats and bytes


def test_the_bytes_counted_are_those_of_the_arrays_that_travel():
    comm, values = Comm(AGENTS, AGENTS), jax.tree.map(jnp.asarray, tree())

    def agent(own):
        return comm.permute(own, SHIFT), comm.bytes(own, SHIFT)

    spread = exchange.shard_map(agent, comm)
    assert sum(sent(jax.make_jaxpr(spread)(values).jaxpr)) == spread(values)[1][0]


def test_placed_arrays_come_back():
    for devices in (1, 2, 8):
        values = tree()
        placed = exchange.place(values, Comm(AGENTS, devices))
        assert len(placed["b"].devices()) == devices
        jax.tree.map(np.testing.assert_array_equal, exchange.fetch(placed)["b"], values["b"])


def test_every_device_has_a_whole_copy():
    shared = np.arange(5.0, dtype=np.float32)  # of a length that the devices do not divide
    copied = exchange.copies({"a": shared, "b": None}, Comm(AGENTS, 2))["a"]
    assert len(copied.addressable_shards) == 2
    for shard in copied.addressable_shards:
        np.testing.assert_array_equal(shard.data, shared)


@pytest.mark.parametrize(("agents", "devices"), [(10, 4), (8, 3), (3, 8)])
def test_agents_that_cannot_be_spread_equally_are_refused_with_the_divisors(agents, devices):
    fitting = ", ".join(str(d) for d in range(1, agents + 1) if agents % d == 0)
    with pytest.raises(ValueError, match=f"{agents} agents cannot be spread equally over {devices}.*{fitting}"):
        exchange.spread(agents, devices)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match="16 devices were asked for; there are 8"):
        exchange.spread(16, 16)


def test_agents_with_different_trees_are_refused():
    trees = [{"w": np.zeros((2, 3), np.float32)} for _ in range(3)]
    assert exchange.stack(trees)["w"].shape == (3, 2, 3)
    with pytest.raises(ValueError, match=r"agent 1 has another tree than agent 0.*\(3, 2\).*\(2, 3\)"):
        exchange.stack([trees[0], {"w": np.zeros((3, 2), np.float32)}])
    with pytest.raises(ValueError, match="agent 2 has another tree"):
        exchange.stack([*trees[:2], {"v": trees[2]["w"]}])
    with pytest.raises(ValueError, match="no agent to stack"):
        exchange.stack([])


def test_runners_refuse_what_they_cannot_run():
    with pytest.raises(ValueError, match="vmap runs all agents on one device; got 2"):
        exchange.vmap(lambda x: x, Comm(AGENTS, 2))
    with pytest.raises(ValueError, match="pmap runs one agent a device; got 8 agents on 4"):
        exchange.pmap(lambda x: x, Comm(AGENTS, 4))
    with pytest.raises(ValueError, match="pmap runs one agent a device; got 9 agents"):
        exchange.pmap(lambda x: x, Comm(9, 9))
