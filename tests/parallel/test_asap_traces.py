"""A trace in which a promise is broken is refused, whichever promise it is."""

import numpy as np
import pytest

from subspace_jax.parallel import asap
from subspace_jax.parallel.asap import traces
from tests.parallel import cases


def moved(trace, kind, *, worker, iteration, time=None, version=None, peer=None):
    """The trace with one event changed."""
    chosen = (trace.kind == traces.KINDS.index(kind)) & (trace.worker == worker) & (trace.iteration == iteration)
    if peer is not None:
        chosen &= trace.peer == peer
    place = np.flatnonzero(chosen)[0]
    columns = [column.copy() for column in trace]
    if time is not None:
        columns[0][place] = time
    if version is not None:
        columns[5][place] = version
    return traces.Trace(*columns)


def without(trace, kind, *, worker, iteration):
    chosen = (trace.kind == traces.KINDS.index(kind)) & (trace.worker == worker) & (trace.iteration == iteration)
    return traces.Trace(*(np.delete(column, np.flatnonzero(chosen)[0]) for column in trace))


def doubled(trace, kind):
    place = np.flatnonzero(trace.kind == traces.KINDS.index(kind))[-1]
    return traces.Trace(*(np.append(column, column[place]) for column in trace))


END = 1e9
BROKEN = {
    ("notify_ack", "ended its step before it started"): lambda t: moved(t, "end", worker=1, iteration=4, time=0.0),
    ("bsp", "folded before its step ended"): lambda t: moved(t, "fold", worker=1, iteration=4, time=0.0),
    ("asynchronous", "started before its last fold"): lambda t: moved(t, "start", worker=1, iteration=4, time=0.0),
    ("ssp", "two events 'fold'"): lambda t: doubled(t, "fold"),
    ("notify_ack", "before it was sent"): lambda t: moved(t, "send", worker=2, iteration=5, time=END),
    ("bsp", "of another iteration"): lambda t: moved(t, "read", worker=2, iteration=5, version=4),
    ("notify_ack", "twice"): lambda t: doubled(t, "read"),
    ("notify_ack_3", "without a message of every"): lambda t: without(t, "read", worker=2, iteration=5),
    ("asynchronous", "older than the one before"): lambda t: moved(t, "read", worker=2, iteration=11, version=0),
    ("ssp", "older than allowed"): lambda t: moved(t, "read", worker=2, iteration=11, version=3),
}  # fmt: skip


@pytest.mark.parametrize("policy", cases.POLICIES)
def test_a_run_passes(policy):
    w, _, run = cases.simulated(policy)
    asap.check_trace(run.trace, w, policy=cases.POLICIES[policy])
    assert asap.when(run.trace, "fold", 6).shape == (12, 6)


@pytest.mark.parametrize(("policy", "iterations"), [("notify_ack_3", 1), ("notify_ack_3", 2), ("ssp", 1), ("bsp", 1)])
def test_a_run_shorter_than_its_depth_or_lead_passes(policy, iterations):
    w, _, run = cases.simulated(policy, iterations=iterations)
    deep = cases.POLICIES[policy]._replace(depth=7)
    asap.check_trace(run.trace, w, policy=deep)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken[1])
def test_a_broken_promise_is_named(broken):
    policy, words = broken
    w, _, run = cases.simulated(policy)
    with pytest.raises(ValueError, match=words):
        asap.check_trace(BROKEN[broken](run.trace), w, policy=cases.POLICIES[policy])


def test_an_asynchronous_run_breaks_what_the_others_promise():
    w, _, run = cases.simulated("asynchronous", "ring", 6, 1, 12)
    for policy in ("bsp", "notify_ack", "ssp_0"):
        with pytest.raises(ValueError, match="worker"):
            asap.check_trace(run.trace, w, policy=cases.POLICIES[policy])


def test_a_barrier_and_an_overwritten_message_show():
    w, _, run = cases.simulated("notify_ack", "ring", 6, 1, 12)
    with pytest.raises(ValueError, match="folded before everybody had computed"):
        asap.check_trace(run.trace, w, policy=cases.POLICIES["bsp"])
    deep = cases.simulated("notify_ack_3", "directed_ring", 6, 1, 12)
    with pytest.raises(ValueError, match="overwritten before it was read"):
        asap.check_trace(deep[2].trace, deep[0], policy=cases.POLICIES["notify_ack"])


def test_workers_further_apart_than_their_distance_show():
    w, _, run = cases.simulated("notify_ack", "ring", 6, 1, 12)
    late = run.trace
    for iteration in (7, 8, 9, 10, 11, 12):  # worker 0 as if it had stopped
        for kind in ("start", "end", "fold"):
            late = moved(late, kind, worker=0, iteration=iteration, time=END + 3 * iteration + "sef".index(kind[0]))
    with pytest.raises(ValueError, match=r"worker 0 is more than \d iterations behind worker \d, at distance"):
        asap.check_trace(late, w, policy=cases.POLICIES["notify_ack"])


def test_a_message_of_a_worker_that_is_not_heard_shows():
    _, _, run = cases.simulated("asynchronous")
    with pytest.raises(ValueError, match="which it does not hear"):
        asap.check_trace(run.trace, cases.weights("directed_ring", 6), policy=cases.POLICIES["asynchronous"])
