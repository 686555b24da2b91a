"""The simulated clock: results of synchronous gossip, times of the recursion, promises kept whatever the delays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import exchange, topology
from subspace_jax.decentralized import gossip, train
from subspace_jax.parallel import asap
from tests.parallel import cases

SEEDS = st.integers(0, 2**31 - 1)
FLOAT64 = 1e-10  # sums of a few numbers in another order, 20 steps
ROUNDING = 1e-9  # of times added in another order


def long_form(times, adjacency, depth):
    """Sends, copies and acknowledgements one by one."""
    n = len(adjacency)
    ends, sent, copied = np.zeros(n), {}, {}
    table = []
    edges = [(i, j) for j in range(n) for i in range(n) if adjacency[j, i]]  # i sends to j
    for t, own in enumerate(times, 1):
        done = ends + own
        for i, j in edges:
            sent[i, j] = max(done[i], copied.get((i, j, t - depth), 0.0))
            copied[i, j, t] = max(done[j], sent[i, j])
        ends = np.array([
            max([done[k]] + [sent[i, j] for i, j in edges if i == k] + [copied[i, j, t] for i, j in edges if j == k])
            for k in range(n)
        ])  # fmt: skip
        table.append(ends)
    return np.stack(table)


@given(SEEDS, st.sampled_from([*cases.UNDIRECTED, *cases.DIRECTED]), st.sampled_from([0.0, 0.3]))
def test_exact_policies_are_synchronous_gossip_bit_for_bit_whatever_the_delays(seed, name, latency):
    w = cases.weights(name, 6, seed)
    times, start = cases.times(seed, 15, len(w)), cases.start(len(w))
    expected = asap.synchronous(cases.step, start, w, iterations=15)
    bandwidth = 100.0 if latency else np.inf
    for policy in cases.EXACT:
        own = cases.POLICIES[policy]
        run = asap.simulate(cases.step, start, w, policy=own, times=times, latency=latency, bandwidth=bandwidth)
        np.testing.assert_array_equal(run.models, expected)
        asap.check_trace(run.trace, w, policy=own)
        edges = 15 * int((w > 0).sum() - len(w))
        assert len(run.trace.of("send").time) == len(run.trace.of("read").time) == edges
        assert not asap.staleness(run.trace).any()


@given(SEEDS, st.sampled_from([*cases.UNDIRECTED, *cases.DIRECTED]), st.sampled_from([1, 2, 4]))
def test_times_are_those_of_sends_copies_and_acknowledgements_one_by_one(seed, name, depth):
    adjacency, w = cases.graph(name, 6, seed), cases.weights(name, 6, seed)
    times = cases.times(seed, 40, len(w))
    run = asap.simulate(None, None, w, policy=asap.notify_ack(depth=depth), times=times)
    assert run.models is None
    ends, expected = asap.when(run.trace, "fold", len(w)), long_form(times, adjacency, depth)
    np.testing.assert_allclose(ends, expected, atol=ROUNDING)
    assert ends.max() <= asap.barriers(times)[-1] + ROUNDING
    if name in cases.UNDIRECTED:
        np.testing.assert_allclose(asap.makespan(times, adjacency), expected, atol=ROUNDING)


def test_on_the_complete_graph_nothing_is_gained_and_barriers_are_simulated_as_they_are_counted():
    times, full, ring = cases.times(1, 30, 7), topology.weights("full", 7), topology.weights("ring", 7)
    np.testing.assert_array_equal(asap.makespan(times, topology.full(7)).max(1), asap.barriers(times))
    for w, policy in ((full, asap.notify_ack()), (full, asap.bsp()), (ring, asap.bsp())):
        run = asap.simulate(None, None, w, policy=policy, times=times)
        np.testing.assert_array_equal(asap.when(run.trace, "fold", 7).max(1), asap.barriers(times))


@given(SEEDS, st.sampled_from([*cases.UNDIRECTED, *cases.DIRECTED]), st.sampled_from([0.0, 0.3]))
def test_the_newest_is_folded_within_its_bounds(seed, name, latency):
    w = cases.weights(name, 6, seed)
    times = cases.times(seed, 25, len(w))
    for policy in ("ssp", "ssp_0", "asynchronous"):
        own = cases.POLICIES[policy]
        run = asap.simulate(cases.step, cases.start(len(w)), w, policy=own, times=times, latency=latency)
        asap.check_trace(run.trace, w, policy=own)
        assert own.lead is None or asap.staleness(run.trace).max() <= own.lead + 1
        assert asap.staleness(run.trace).min() < 1
    ends = asap.when(run.trace, "fold", len(w))
    np.testing.assert_allclose(ends, np.cumsum(times, 0), atol=ROUNDING)  # nobody ever waited


def test_asynchronous_workers_fold_their_step_and_the_newest_of_their_neighbours():
    w, times, run = cases.simulated("asynchronous", "ring", 4, 3, 6)
    models, newest = list(cases.start(4)), list(cases.start(4))
    ends = np.cumsum(times, 0)
    for t, i in sorted(np.ndindex(ends.shape), key=lambda place: ends[place]):
        newest[i] = cases.step(i, t + 1, models[i])
        models[i] = sum(w[i, j] * newest[j] for j in range(4))
    np.testing.assert_allclose(run.models, models, atol=FLOAT64)


def test_it_is_d_psgd_that_adapts_before_it_combines():
    with jax.enable_x64(True):
        rng, w, comm = np.random.default_rng(0), topology.weights("ring", 5), exchange.spread(5, 1)
        x, y, start = rng.normal(size=(5, 1, 4)), rng.normal(size=(5, 1)), rng.normal(size=(5, 4))

        def loss(params, batch_stats, batch, key):
            return jnp.mean((batch[0] @ params - batch[1]) ** 2), batch_stats

        method = gossip.d_psgd(loss, comm=comm, weights=w, lr=0.1, order="adapt_then_combine")
        begun = [{"params": own, "batch_stats": {}} for own in start]
        state = train.stacked(jax.random.key(0), method, comm, begun)
        steps = train.trainer(method, comm=comm, runner=exchange.vmap, batch=1)
        state, _ = steps(jax.random.key(1), state, exchange.place((x, y), comm), 0, 20)
        expected = np.asarray(state.params)

    def step(i, t, own):
        return own - 0.1 * 2 * (x[i, 0] @ own - y[i, 0]) * x[i, 0]

    run = asap.simulate(step, start, w, policy=asap.notify_ack(), times=cases.times(0, 20, 5))
    np.testing.assert_allclose(run.models, expected, atol=FLOAT64)


def test_a_run_that_is_cut_off_keeps_its_promises_and_is_looked_at_on_the_way():
    w, times, whole = cases.simulated("notify_ack")
    until = 0.6 * whole.seconds
    looked = []
    run = asap.simulate(
        cases.step, cases.start(6), w, policy=asap.notify_ack(), times=times, until=until, at=(0.0, until, 2 * until),
        observe=lambda time, models: looked.append(time) or np.stack(models),
    )  # fmt: skip
    asap.check_trace(run.trace, w, policy=asap.notify_ack())
    assert looked == [0.0, until, 2 * until]
    np.testing.assert_array_equal(run.observed[0], cases.start(6))
    np.testing.assert_array_equal(run.observed[1], run.models)
    assert run.seconds <= until
    assert len(run.trace.time) == (whole.trace.time <= until).sum()


def test_the_models_of_an_iteration_are_told_behind_its_folds():
    w, told = cases.weights("ring", 6), {}
    asap.simulate(
        cases.step, cases.start(6), w, policy=asap.notify_ack(), times=cases.times(0, 12, 6),
        folded=lambda worker, t, model: told.update({(worker, t): model}),
    )  # fmt: skip
    assert len(told) == 6 * 12
    for t in (1, 5, 12):
        expected = asap.synchronous(cases.step, cases.start(6), w, iterations=t)
        np.testing.assert_array_equal([told[i, t] for i in range(6)], expected)


def test_a_link_sends_its_messages_one_after_the_other():
    w, times = topology.weights("full", 4), np.full((2, 4), 1.0)
    given = {"policy": asap.notify_ack(), "times": times, "latency": 0.5, "bandwidth": 8.0}
    run = asap.simulate(cases.step, cases.start(4, 2), w, **given)  # 16 bytes, 2 s a message, 3 messages
    np.testing.assert_allclose(asap.when(run.trace, "fold", 4)[0], 1 + 3 * 2 + 0.5)
    half = asap.simulate(cases.step, cases.start(4, 2), w, nbytes=8.0, **given)
    np.testing.assert_allclose(asap.when(half.trace, "fold", 4)[0], 1 + 3 * 1 + 0.5)


def test_a_straggler_slows_everybody_in_the_long_run():
    times = asap.lognormal_times(jax.random.key(0), 300, 8, sigma=0.0, straggler=4.0)
    ends = asap.makespan(times, topology.ring(8))
    assert asap.barriers(times)[-1] == ends.max() == 1200
    assert ends[-1].min() > 0.98 * 1200


def test_times_have_mean_one_and_further_rows_change_none():
    drawn = asap.lognormal_times(jax.random.key(0), 4000, 5, sigma=0.5, straggler=3.0)
    np.testing.assert_allclose(drawn.mean(0), [3, 1, 1, 1, 1], rtol=0.05)
    np.testing.assert_allclose(np.log(drawn[:, 1:]).std(), 0.5, rtol=0.05)
    np.testing.assert_array_equal(drawn[:7], asap.lognormal_times(jax.random.key(0), 7, 5, sigma=0.5, straggler=3.0))


TIMES, RING = np.ones((3, 4)), topology.weights("ring", 4)
SPLIT = np.kron(np.eye(2), np.full((2, 2), 0.5))
BAD = {
    "depth": (lambda: asap.notify_ack(depth=0), "depth is the number of messages"),
    "staleness": (lambda: asap.ssp(staleness=-1), "staleness is the lead"),
    "disconnected": (lambda: asap.plan(SPLIT, policy=asap.bsp(), times=TIMES), "graph has 2 components"),
    "one way": (
        lambda: asap.plan(np.array([[1.0, 0], [0.5, 0.5]]), policy=asap.bsp(), times=TIMES[:, :2]),
        "column 0 of the mixing weights sums to 1.5",
    ),
    "changing": (lambda: asap.plan(RING[None], policy=asap.bsp(), times=TIMES), "one matrix"),
    "zero time": (lambda: asap.plan(RING, policy=asap.bsp(), times=TIMES * [1, 1, 0, 1]), "worker 2 has 0.0 in iter"),
    "nan time": (lambda: asap.plan(RING, policy=asap.bsp(), times=TIMES * np.nan), "worker 0 has nan in iteration 1"),
    "columns": (lambda: asap.plan(RING, policy=asap.bsp(), times=TIMES[:, :3]), r"times are \(iterations, 4\)"),
    "latency": (
        lambda: asap.simulate(None, None, RING, policy=asap.bsp(), times=TIMES, latency=-1.0), "latency is at least 0"
    ),
    "no models": (lambda: asap.simulate(cases.step, None, RING, policy=asap.bsp(), times=TIMES), "a step takes 4"),
    "models": (
        lambda: asap.simulate(cases.step, cases.start(3), RING, policy=asap.bsp(), times=TIMES), "a step takes 4"
    ),
    "shape": (
        lambda: asap.simulate(lambda i, t, x: x[:2], cases.start(4), RING, policy=asap.bsp(), times=TIMES),
        r"keeps shape and type of the model; worker \d was given float64 \(3,\) and returned float64 \(2,\)",
    ),
    "sigma": (lambda: asap.lognormal_times(jax.random.key(0), 2, 2, sigma=-1.0), "sigma is at least 0"),
    "directed": (lambda: asap.makespan(TIMES, topology.directed_ring(4)), "the reverse edge"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
