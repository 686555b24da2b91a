"""The experiment on training without barriers: figures agree with its runs, a killed worker is named, bad input too."""

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import asynchronous
from experiments.asynchronous import experiment, methods, protocol, report
from subspace_jax.core import topology
from subspace_jax.parallel import asap

ROOT = pathlib.Path(__file__).parents[2]
CPU = asynchronous.PRESETS["cpu"]
METHODS = "bsp_all_reduce", "bsp_ring", "notify_ack_ring", "asynchronous_ring", "ssp_ring"


def test_every_figure_of_the_grammar_is_there(finished):
    figures = finished("asynchronous").figures
    kinds = "time_to_target", "speedup_to_target", "accuracy_end", "accuracy_equal_samples"
    listed = {f"{kind}/{name}/{setting}" for kind in kinds for name in METHODS for setting in ("jitter", "straggler")}
    listed |= {f"models_sent_per_iteration/{name}" for name in (*METHODS, "all_to_all")}
    listed |= {f"speedup_makespan/{graph}_{n}/sigma_{sigma}"
               for graph in ("ring", "regular", "full") for n in (8, 16, 32) for sigma in (0.5, 1.0)}  # fmt: skip
    listed |= {"oracle_difference", "max_difference/threads", "speedup_wall/threads_4", "wall_over_simulated/threads_4"}
    assert listed <= figures.keys()


def test_figures_agree_with_one_another(finished):
    figures = finished("asynchronous").figures
    assert figures["oracle_difference"] <= 1e-9
    assert figures["max_difference/threads"] == 0
    assert all(value == 1 for name, value in figures.items() if name.startswith("speedup_makespan/full"))
    assert all(value > 1 for name, value in figures.items() if name.startswith("speedup_makespan/r"))
    for setting in ("jitter", "straggler"):
        times = {name: figures[f"time_to_target/{name}/{setting}"] for name in METHODS}
        assert times["notify_ack_ring"] <= times["bsp_ring"]
        for name in METHODS:
            ratio = figures[f"speedup_to_target/{name}/{setting}"]
            assert ratio == pytest.approx(times["bsp_ring"] / times[name])
        assert figures[f"accuracy_end/bsp_ring/{setting}"] == figures[f"accuracy_equal_samples/bsp_ring/{setting}"]
        assert (
            figures[f"accuracy_equal_samples/notify_ack_ring/{setting}"] == figures[f"accuracy_end/bsp_ring/{setting}"]
        )
        assert figures[f"share_waiting/asynchronous_ring/{setting}"] == pytest.approx(0, abs=1e-9)
    sent = [figures[f"models_sent_per_iteration/{name}"] for name in (*METHODS, "all_to_all")]
    assert sent == [1.5, 2, 2, 2, 2, 3]
    assert finished("asynchronous").line["claims"] == []


def test_a_stage_is_the_simulation_of_the_library(finished):
    """The accuracy after all iterations is that of synchronous gossip, computed without a clock."""
    run = finished("asynchronous")
    config = dataclasses.replace(asynchronous.PRESETS["smoke"], preset="smoke")
    with jax.enable_x64(True):
        shared = protocol.setup(config)
        given, start = protocol.spread(shared, 0, 4), protocol.beginning(shared, 0, 4)
        step = asap.sgd_step(
            protocol.keyed(0, protocol.BATCH_KEY), shared.apply, shared.params, given, batch=config.batch, lr=config.lr
        )
        models = asap.synchronous(step, start, topology.weights("ring", 4), iterations=config.iterations)
        expected = protocol.accuracies(shared, models.mean(0)[None])[0]
    jax.config.update("jax_enable_x64", False)
    with np.load(run.workdir / "stages" / "seed0_jitter_bsp_ring.npz") as found:
        assert found["accuracy"][-1] == found["equal"] == pytest.approx(expected)
        assert found["until"] == pytest.approx(found["at"][-1])
        assert len(found["at"]) == config.iterations // config.every
        np.testing.assert_allclose(found["steps"], [10, 20, 30])


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("asynchronous")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(asap, "simulate", None)
    monkeypatch.setattr(asap, "run_threads", None)
    assert ask("asynchronous", "--resume").figures == first.figures


def test_a_target_that_is_never_reached_leaves_its_figures_out():
    arrays = {"accuracy": np.array([0.1, 0.5, 0.95, 0.9]), "at": np.array([1.0, 2, 3, 4])}
    assert report.reached(CPU, arrays) == 3
    assert report.reached(dataclasses.replace(CPU, target=0.96), arrays) == np.inf
    names = methods.methods(CPU)
    means = {"time_to_target/bsp_ring/jitter": 8.0, "time_to_target/notify_ack_ring/jitter": 4.0}
    assert report.speedups(CPU, names, means) == {
        "speedup_to_target/bsp_ring/jitter": 1.0, "speedup_to_target/notify_ack_ring/jitter": 2.0
    }  # fmt: skip


def test_methods_are_named_by_policy_and_graph():
    assert tuple(methods.methods(CPU)) == METHODS
    few = dataclasses.replace(CPU, policy=("ssp",), graph="exponential")
    assert tuple(methods.methods(few)) == ("bsp_exponential", "ssp_exponential")
    assert methods.clocks(CPU) == [("threads", 4), ("threads", 8), ("threads", 16), ("processes", 4)]
    assert methods.clocks(dataclasses.replace(CPU, runner="simulate")) == []
    assert methods.clocks(dataclasses.replace(CPU, runner="processes")) == [("processes", 4)]


def test_messages_of_an_all_reduce_are_those_of_a_ring_of_it():
    config = dataclasses.replace(CPU, bandwidth=2.0)
    found = {name: protocol.link(config, method) for name, method in methods.methods(config).items()}
    assert found["bsp_all_reduce"]["nbytes"] * 15 == 1.875
    assert found["notify_ack_ring"] == {"latency": 0.0, "bandwidth": 2.0, "nbytes": 1.0}
    assert protocol.link(CPU, methods.methods(CPU)["bsp_ring"])["bandwidth"] == np.inf


FIGURES = {
    "oracle_difference": 0.0, "speedup_makespan/ring_16/sigma_0.5": 1.33, "speedup_makespan/full_8/sigma_0.5": 1.0,
    "speedup_to_target/notify_ack_ring/jitter": 1.3, "speedup_to_target/notify_ack_ring/straggler": 1.0,
    "speedup_to_target/asynchronous_ring/straggler": 4.0, "speedup_to_target/ssp_ring/straggler": 0.8,
    "accuracy_end/asynchronous_ring/straggler": 0.96, "accuracy_end/bsp_ring/straggler": 0.94,
    "accuracy_equal_samples/asynchronous_ring/straggler": 0.92, "accuracy_equal_samples/bsp_ring/straggler": 0.94,
    "max_difference/threads": 0.0, "max_difference/processes": 0.0, "speedup_wall/threads_16": 1.3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 12), ({"oracle_difference": 1e-8}, 11), ({"speedup_makespan/ring_16/sigma_0.5": 1.39}, 11),
        ({"speedup_makespan/full_8/sigma_0.5": 1.0000001}, 11), ({"max_difference/threads": 1e-16}, 11),
        ({"speedup_to_target/notify_ack_ring/jitter": 1.2}, 11), ({"speedup_wall/threads_16": 1.0}, 11),
        ({"speedup_to_target/notify_ack_ring/straggler": 1.1}, 11), ({"max_difference/processes": 1e-16}, 11),
        ({"speedup_to_target/notify_ack_ring/straggler": 2.1}, 12),  # what was published, and not what follows
        ({"speedup_to_target/asynchronous_ring/straggler": 2.9}, 11),
        ({"speedup_to_target/ssp_ring/straggler": 0.96}, 11),
        ({"accuracy_end/asynchronous_ring/straggler": 0.949}, 11),
        ({"accuracy_equal_samples/asynchronous_ring/straggler": 0.933}, 11),
        ({"speedup_to_target/ssp_ring/straggler": float("nan")}, 11),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"workers": 8}, {"runner": "threads"}, {"latency": 0.1}, {"preset": "smoke"}, {"data": "mnist"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w", timeout=5.0), FIGURES)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy", "bsp", "sgd"], "--policy is one or several of bsp_all_reduce, bsp, notify_ack"),
        (["--graph", "regular", "--workers", "5", "--degree", "3"], "n 5 and degree 3"),
        (["--iterations", "0"], "--iterations must be at least 1; got 0"),
        (["--every", "31"], "--every is at most --iterations; got 31 and 30"),
        (["--compute-ms", "0"], "--compute-ms must be above 0; got 0.0"),
        (["--latency", "-1"], "--latency must be at least 0; got -1.0"),
        (["--runner", "processes"], "--runner processes takes at least 2 --processes; got 0"),
        (["--threads", "1"], "workers are at least 2"),
        (["--staleness", "-1"], "staleness is the lead over the slowest worker, at least 0; got -1"),
        (["--model", "resnet20", "--widths"], "keeps running statistics, which workers do not average"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(asap, "simulate", None)
    refuse("asynchronous", *flags, message=message)


def test_a_process_that_dies_is_no_bad_input_and_no_fault(ask, monkeypatch):
    def run(*_, **__):
        raise ChildProcessError("worker 2 (process 7) was killed by signal 9.")

    monkeypatch.setattr(asap, "run_threads", run)
    found = ask("asynchronous", "--preset", "smoke", "--runner", "threads")
    assert found.status == 1
    assert found.err.splitlines()[0] == "worker 2 (process 7) was killed by signal 9."
    assert "Traceback" not in found.err
    assert "--resume --workdir w" in found.err
    assert (found.workdir / "README.txt").exists()


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    flags = ["--data", "digits", "--widths", "8", "--workers", "4", "--iterations", "10", "--draws", "20"]
    run = ask("asynchronous", "--preset", "gpu", *flags)
    assert run.status == 0, run.err
    assert all(np.isfinite(value) for value in run.figures.values())


def started(tmp_path, *flags):
    command = [sys.executable, "-m", "experiments.asynchronous", "--preset", "smoke", "--workdir", "w", *flags]
    flagged = os.environ | {"PYTHONPATH": str(ROOT)}
    command += ["--runner", "processes", "--processes", "4"]
    return subprocess.Popen(
        command, cwd=tmp_path, env=flagged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def workers_of(pid):
    """The processes that compute, in their order."""
    listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if "spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.process
def test_processes_give_one_line_and_the_bits_of_synchronous_gossip(tmp_path):
    run = started(tmp_path)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out.count("\n") == 1
    assert '"max_difference/processes": 0.0' in out
    assert (tmp_path / "w" / "report.html").exists()


@pytest.mark.process
def test_a_killed_worker_is_named_and_the_others_are_ended(tmp_path):
    run = started(tmp_path, "--wall-iterations", "20000", "--timeout", "20")
    while len(workers_of(run.pid)) < 4:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    workers = workers_of(run.pid)
    time.sleep(1)
    os.kill(workers[2], signal.SIGKILL)
    killed = time.monotonic()
    out, err = run.communicate(timeout=60)
    assert time.monotonic() - killed < 20
    assert run.returncode == 1
    assert out == ""
    assert re.search(rf"^worker 2 \(process {workers[2]}\) was killed by signal 9\.$", err, flags=re.MULTILINE), err
    assert "Traceback" not in err
    assert (tmp_path / "w" / "README.txt").exists()
    for pid in workers:
        assert not pathlib.Path(f"/proc/{pid}").exists()
