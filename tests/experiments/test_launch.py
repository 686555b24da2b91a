"""Agents on one device, on several and in several processes; and what is said when one of these dies.

The file is itself a small experiment: python -m tests.experiments.test_launch.
"""

import _thread
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.families import agents
from experiments.harness import launch, runner
from subspace_jax.core import compress, topology
from subspace_jax.decentralized import protocol
from subspace_jax.decentralized.gossip import d_psgd
from subspace_jax.decentralized.ngc import ngc

ROOT = pathlib.Path(__file__).parents[2]
FLOAT64 = 1e-10  # sums of at most eight numbers in another order, 60 steps
EVALUATIONS = 6


@dataclasses.dataclass(frozen=True)
class Config(agents.Places, runner.Config):
    """Two methods on a ring."""

    agents: int = 8
    save_every: int = 100
    steps: int = 60


PRESETS = {"cpu": Config(seeds=1)}


def apply(variables, x):
    return jnp.tanh(x @ variables["params"]["first"]) @ variables["params"]["last"]


def loss(params, batch_stats, batch, key):
    return jnp.mean((apply({"params": params}, batch[0]) - jax.nn.one_hot(batch[1], 3)) ** 2), batch_stats


def main(config):
    comm, run = agents.exchange_of(config, config.agents)
    weights = topology.weights("ring", config.agents)
    common = {"comm": comm, "weights": weights, "lr": 0.1}
    methods = {"d_psgd": d_psgd(loss, **common), "compngc": ngc(loss, compressor=compress.sign(), **common)}
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(config.agents, 30, 5)), rng.integers(0, 3, (config.agents, 30))
    variables = {"params": {"first": rng.normal(size=(5, 4)), "last": rng.normal(size=(4, 3))}, "batch_stats": {}}
    (pathlib.Path(config.workdir) / f"pid{jax.process_index()}").write_text(str(os.getpid()))

    def learn(name):
        return protocol.run(
            jax.random.key(0), methods[name], variables, (x, y), (x[0], y[0]), comm=comm, runner=run,
            apply=apply, weights=weights, steps=config.steps, batch=8, every=config.steps // EVALUATIONS,
            directory=f"{config.workdir}/checkpoints/{name}", save_every=config.save_every, label=name,
        )  # fmt: skip

    found = {name: runner.stage(config, name, lambda name=name: learn(name)) for name in methods}
    figures = {f"accuracy/{name}": float(arrays["accuracy"][-1].mean()) for name, arrays in found.items()}
    return runner.Summary(figures, dict.fromkeys(figures, 0.0), [], [], [])


def spawn(*flags, cwd):
    flagged = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-m", "tests.experiments.test_launch", *flags]
    return subprocess.Popen(command, cwd=cwd, env=flagged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_this_process(folder, **flags):
    folder.mkdir()
    with jax.enable_x64(True):
        main(dataclasses.replace(PRESETS["cpu"], workdir=str(folder), **flags))
    return stages(folder)


def stages(folder):
    return {path.stem: dict(np.load(path)) for path in sorted((folder / "stages").glob("*.npz"))}


def assert_same(found, expected):
    assert found.keys() == expected.keys() == {"compngc", "d_psgd"}
    for name, arrays in expected.items():
        assert found[name].keys() == arrays.keys()
        assert {"final/params/first", "final/params/last", "accuracy", "bytes_cross"} < arrays.keys()
        for key in arrays.keys() - {"seconds"}:
            np.testing.assert_allclose(found[name][key], arrays[key], rtol=0, atol=FLOAT64, err_msg=f"{name} {key}")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return in_this_process(tmp_path_factory.mktemp("vmap") / "w")


def assert_finished(process, folder, reference, processes):
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("\n") == 1
    assert json.loads(out)["figures"].keys() == {"accuracy/compngc", "accuracy/d_psgd"}
    assert len(list((folder / "logs").iterdir())) == processes
    assert_same(stages(folder), reference)


def test_what_is_noted(reference):
    found = reference["compngc"]
    np.testing.assert_array_equal(found["step"], np.arange(1, EVALUATIONS + 1) * 10)
    neighbours, weights = 2, 5 * 4 + 4 * 3
    np.testing.assert_array_equal(found["bytes_model"], found["step"] * neighbours * 8 * weights)
    packed = -(-5 * 4 // 8) + 8 + -(-4 * 3 // 8) + 8  # bits and a float64 scale for each of two tensors
    np.testing.assert_array_equal(found["bytes_cross"], found["step"] * neighbours * packed)
    assert found["accuracy"].shape == (EVALUATIONS, 8)
    assert found["loss"][-1] < found["loss"][0]


@pytest.mark.parametrize(("kind", "devices"), [("pmap", 0), ("shard_map", 4)])
def test_devices_agree_with_one(kind, devices, reference, tmp_path):
    assert_same(in_this_process(tmp_path / "w", runner=kind, devices=devices), reference)


@pytest.mark.process
def test_four_processes_agree_with_one(reference, tmp_path):
    assert_finished(spawn("--workdir", "w", "--processes", "4", cwd=tmp_path), tmp_path / "w", reference, 4)


@pytest.mark.process
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_named_and_the_run_goes_on(rank, reference, tmp_path):
    """In two processes again, to the numbers of one."""
    process = spawn("--workdir", "w", "--processes", "2", "--save-every", "1", cwd=tmp_path)
    seen = tmp_path / "w" / "logs" / f"process{rank}.txt"
    saved = tmp_path / "w" / "checkpoints" / "d_psgd"
    while not seen.exists() or " step " not in seen.read_text() or not any(p.name.isdigit() for p in saved.glob("*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(int((tmp_path / "w" / f"pid{rank}").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate()
    assert time.monotonic() - killed < launch.Config.timeout
    assert process.returncode == 1
    assert f"process {rank} (agents {4 * rank}-{4 * rank + 3}) was killed by signal 9" in err
    assert "--resume --workdir w" in err
    assert not (tmp_path / "w" / "summary.json").exists()
    assert_finished(spawn("--resume", "--workdir", "w", cwd=tmp_path), tmp_path / "w", reference, 2)
    assert all("step 10 of" not in log.read_text().split("compngc")[0] for log in (tmp_path / "w" / "logs").iterdir())


CHILD = """
import os, signal, sys, time
rank = int(os.environ["SUBSPACE_PROCESS"])
open(f"pid{rank}", "w").write(str(os.getpid()))
while not all(os.path.exists(f"pid{r}") for r in range(3)): time.sleep(.01)
"""


def watch(tmp_path, monkeypatch, code, config=Config(agents=6, processes="3")):
    """`launch.watch` over three processes of this code."""
    (tmp_path / "child.py").write_text(CHILD + code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return launch.watch("child", config, ".")


def alive(tmp_path):
    found = []
    for path in tmp_path.glob("pid*"):
        try:
            os.kill(int(path.read_text()), 0)
            found.append(path.name)
        except ProcessLookupError:
            pass
    return found


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("if rank == 1: os.kill(os.getpid(), 9)\ntime.sleep(99)", 1, "process 1 (agents 2-3) was killed by signal 9\n"),
        (  # the others fail through it, and may be seen first
            "if rank == 2: os.kill(os.getpid(), 9)\nos.abort()",
            1,
            "process 2 (agents 4-5) was killed by signal 9\n",
        ),
        (
            "time.sleep(.2 * (rank != 1)); print('lost' if rank - 1 else 'broken', flush=True); os._exit(2 - rank % 2)",
            1,
            "process 1 (agents 2-3) ended with status 1: broken\n",
        ),
        ("if rank == 2: print('error: no such graph'); sys.exit(2)\ntime.sleep(99)", 2, "error: no such graph\n"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); rank or os._exit(3); time.sleep(99)", 1, "status 3"),
        ("", 0, "3 processes compute; their messages: logs\n"),
    ],
    ids=["killed", "killed, the others fail first", "error", "refusal", "deaf to SIGTERM", "well"],
)
def test_the_parent_names_who_failed_and_ends_the_others(code, status, message, tmp_path, monkeypatch, capfd):
    assert watch(tmp_path, monkeypatch, code) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert alive(tmp_path) == []


def test_a_process_without_agents_is_named_by_its_number(tmp_path, monkeypatch, capfd):
    code = "if rank == 1: os.kill(os.getpid(), 9)\ntime.sleep(99)"
    assert watch(tmp_path, monkeypatch, code, launch.Config(processes="3")) == 1
    assert "process 1 was killed by signal 9\n" in capfd.readouterr().err


def test_an_interrupted_parent_ends_its_processes(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    timer = threading.Timer(2, _thread.interrupt_main)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            watch(tmp_path, monkeypatch, "time.sleep(30)")
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert alive(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"processes": "3"}, "got 8 agents on 1 x 3: 8 is divided by 1, 2, 4, 8"),
        ({"runner": "shard_map", "devices": 5}, "got 8 agents on 5 x 1: 8 is divided by 1, 2, 4, 8"),
        ({"processes": "two"}, "--processes is a number of at least 1, or auto; got 'two'"),
        ({"processes": "2", "runner": "pmap"}, "leave --runner pmap away"),
        ({"runner": "processes"}, "needs --processes"),
        ({"processes": "auto"}, "needs a --workdir"),
        ({"processes": "2", "devices": 2}, "one device; got --devices 2: use shard_map"),
        ({"devices": 2}, "one device; got --devices 2: use shard_map"),
        ({"timeout": 0}, "--timeout is at least 1 second; got 0"),
        ({"agents": 0}, "--agents is at least 1"),
    ],
)
def test_refused_before_anything_starts(flags, message):
    with pytest.raises(ValueError, match=message):
        launch.start(dataclasses.replace(PRESETS["cpu"], **flags))


def test_a_refusal_leaves_no_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test_launch", "--processes", "3", "--workdir", "w"])
    with pytest.raises(SystemExit) as stop:
        runner.run(main, PRESETS)
    assert stop.value.code == 2
    assert "8 is divided by 1, 2, 4, 8" in capfd.readouterr().err
    assert not (tmp_path / "w").exists()


def test_where_agents_run():
    def where(count=8, **flags):
        comm, run = agents.exchange_of(Config(**flags), count)
        return comm.agents, comm.devices, run.__name__

    assert where() == (8, 1, "vmap")
    assert where(runner="pmap") == (8, 8, "pmap")
    assert where(runner="shard_map", devices=2) == (8, 2, "shard_map")
    assert where(12, runner="shard_map") == (12, 1, "vmap")  # not the number that was asked for
    assert agents.exchange_of(Config(agents=10, runner="shard_map"), 10)[0].devices == 5  # the most of 8 that fit


if __name__ == "__main__":
    runner.run(main, PRESETS)
