"""The same worker in threads and in processes: the bits of synchronous gossip, failures named, nobody left behind."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from subspace_jax.parallel import asap
from subspace_jax.parallel.asap import policies, processes
from tests.parallel import cases

MILLISECONDS = 1e-3


def short(n, iterations=12, seed=0):
    return MILLISECONDS * cases.times(seed, iterations, n)


@pytest.mark.parametrize("policy", cases.POLICIES)
def test_threads_keep_the_promises(policy):
    own, w, start = cases.POLICIES[policy], cases.weights("ring", 4), cases.start(4)
    run = asap.run_threads(cases.step, start, w, policy=own, times=short(4))
    asap.check_trace(run.trace, w, policy=own)
    if own.exact:
        np.testing.assert_array_equal(run.models, asap.synchronous(cases.step, start, w, iterations=12))
    assert run.seconds >= short(4).sum(0).max()


def test_an_error_in_a_thread_ends_all_of_them():
    with pytest.raises(FloatingPointError, match="too much"):
        asap.run_threads(cases.broken, cases.start(4), cases.weights("ring", 4), policy=asap.bsp(), times=short(4))
    assert not [thread for thread in threading.enumerate() if "live" in thread.name]


def test_who_waits_too_long_says_for_what():
    times = short(4)
    times[1, 2] = 0.5
    with pytest.raises(TimeoutError, match=r"worker [13] waited 0\.1 s for message 2 of worker 2"):
        asap.run_threads(
            cases.step, cases.start(4), cases.weights("ring", 4), policy=asap.notify_ack(), times=times, timeout=0.1
        )


def shared(depth=1):
    made = policies.plan(cases.weights("ring", 3), policy=asap.notify_ack(depth=depth), times=np.ones((4, 3)))
    memory = bytearray(processes.layout(made, (5,), np.dtype(np.float64))[1])
    return processes.Shared(made, (5,), np.dtype(np.float64), memory, 0.05)


def test_shared_memory_keeps_what_was_put_there_and_hands_out_copies():
    boxes = shared(depth=2)
    for t in (1, 2):
        boxes.put(0, 1, t, np.full(5, float(t)))
    version, model = boxes.read(1, 0, 1)
    assert (version, boxes.notified[1, 0]) == (1, 2)
    boxes.put(0, 1, 3, np.full(5, 3.0))
    np.testing.assert_array_equal(model, np.ones(5))
    assert boxes.read(1, 0, 3)[0] == 3
    before = boxes.signs()
    boxes.ack(1, 0, 1)
    boxes.arrive(2, 1)
    assert (boxes.acked[1, 0], boxes.arrived[2], boxes.signs() - before) == (1, 1, 2)


def test_a_slot_that_is_being_written_is_not_read():
    boxes = shared()
    boxes.sequence[boxes.edges[1, 0], 0] = 1
    with pytest.raises(TimeoutError, match=r"worker 1 waited 0\.05 s for worker 0 to finish a message"):
        boxes.read(1, 0, 0)


def test_a_wait_for_another_process_ends():
    with pytest.raises(TimeoutError, match=r"worker 2 waited 0\.05 s for a sign"):
        shared().wait(2, asap.Wait(lambda: False, lambda: "a sign"))


def test_bad_input_is_refused_before_a_process_starts(monkeypatch):
    monkeypatch.setattr(processes.multiprocessing, "get_context", None)
    given = {"policy": asap.bsp(), "times": short(4)}
    with pytest.raises(ValueError, match="4 workers start from as many models"):
        asap.run_processes(cases.factory, cases.start(3), cases.weights("ring", 4), **given)
    with pytest.raises(ValueError, match="a timeout above 0"):
        asap.run_processes(cases.factory, cases.start(4), cases.weights("ring", 4), timeout=0.0, **given)


def test_more_processes_than_twice_the_cores_are_mentioned(monkeypatch):
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda method: None)
    with pytest.warns(UserWarning, match="4 processes share 1 cores"), pytest.raises(AttributeError):
        asap.run_processes(cases.factory, cases.start(4), cases.weights("ring", 4), policy=asap.bsp(), times=short(4))


@pytest.mark.process
@pytest.mark.parametrize("policy", ["notify_ack", "ssp"])
def test_processes_keep_the_promises(policy):
    own, w, start = cases.POLICIES[policy], cases.weights("ring", 3), cases.start(3)
    run = asap.run_processes(cases.factory, start, w, policy=own, times=short(3))
    asap.check_trace(run.trace, w, policy=own)
    if own.exact:
        np.testing.assert_array_equal(run.models, asap.synchronous(cases.step, start, w, iterations=12))
    assert not multiprocessing.active_children()


@pytest.mark.process
def test_nobody_reads_half_a_message():
    """Models of a megabyte, overwritten at any time."""
    start, w = np.zeros((3, 125_000)), cases.weights("ring", 3)
    run = asap.run_processes(cases.constants, start, w, policy=asap.asynchronous(), times=short(3, 60))
    asap.check_trace(run.trace, w, policy=asap.asynchronous())
    assert (run.models == run.models[:, :1]).all()


@pytest.mark.process
def test_a_killed_process_is_named_and_the_others_are_ended():
    def kill():
        while len(multiprocessing.active_children()) < 3:
            time.sleep(0.05)
        victim.append(sorted(multiprocessing.active_children(), key=lambda child: child.pid)[1].pid)
        time.sleep(3)
        killed.append(time.monotonic())
        os.kill(victim[0], signal.SIGKILL)

    victim, killed = [], []
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ChildProcessError, match=r"worker \d \(process \d+\) was killed by signal 9") as error:
        asap.run_processes(
            cases.factory, cases.start(3), cases.weights("ring", 3), policy=asap.notify_ack(), times=short(3, 60_000)
        )
    took = time.monotonic() - killed[0]
    killer.join()
    assert str(victim[0]) in str(error.value)
    assert took < 5
    assert not multiprocessing.active_children()


@pytest.mark.process
def test_how_a_process_ended_is_known_after_its_pipe_closed():
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=cases.killed_late, args=(theirs,))
    child.start()
    theirs.close()
    assert ours.poll(60)
    processes._received(ours, child)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.process
def test_an_error_in_a_process_is_named():
    with pytest.raises(ChildProcessError, match=r"worker 1 \(process \d+\) ended with FloatingPointError: too much"):
        asap.run_processes(cases.breaking, cases.start(3), cases.weights("ring", 3), policy=asap.bsp(), times=short(3))
