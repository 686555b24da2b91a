"""How long would it take on 8, 64 and 512 devices? A model on paper, from compiled programs and published rates.

    uv run python -m benchmarks.pod --out results/benchmark_pod_cpu.json      # 5 min on 2 cores: programs are compiled
    uv run python -m benchmarks.pod --parts check                            # 1, 2 and 4 processes of this machine

Three jobs: ImageNet scored by a ResNet-50 (fd_norm of 10 probes), 64 shadow ResNet-18 on CIFAR-10, a step of 1,024
agents with a ResNet-20 each on a ring and on a torus. The time is a lower bound: the longer of operations at the
published rate of bfloat16 and bytes at the published bandwidth of the memory, then the exchange, which waits for them:
bytes received over a link, and a latency for each call (assumed, not published). What a real device reaches of its rate
is measured by `benchmarks.limits`; data is taken to be there in time.

check: agents in 1, 2 and 4 processes of this machine against the same formula, with what a process alone takes for its
agents and with latency and bandwidth measured between these processes.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import pod_counts
from benchmarks.decentralized_counts import one_step, problem
from benchmarks.pod_counts import Unit
from benchmarks.table import header, parse, show, write
from subspace_jax.core import exchange, programs, topology
from subspace_jax.decentralized import gossip


class Device(NamedTuple):
    """Published figures of one device.

    Attributes:
      flops: a second, bfloat16, dense.
      memory: bytes a second.
      near: bytes a second and direction of a link to a device of the same group.
      far: to a device of another group.
      group: devices in one.
      source: where they stand.
    """

    flops: float
    memory: float
    near: float
    far: float
    group: int
    source: str


DEVICES = {
    "H100 SXM": Device(
        989.4e12, 3.35e12, 450e9, 50e9, 8,
        "glennklockwood.com/garden/processors/h100 after NVIDIA (without sparsity; NVLink 900 GB/s in both directions "
        "together); 400 Gbit/s a GPU between nodes, as MLPerf's descriptions of such systems have it",
    ),
    "TPU v5p": Device(
        459e12, 2.765e12, 100e9, 100e9, 8960,
        "docs.cloud.google.com/tpu/docs/v5p (1,200 GB/s a chip in both directions over the six links of a 3D torus, of "
        "which a neighbour is one)",
    ),
}  # fmt: skip
LATENCY = 1e-5  # seconds a call: assumed
PODS = 8, 64, 512
IMAGENET, CIFAR10 = 1_281_167, 50_000
MODELS, EPOCHS, BATCH = 64, 30, 256  # shadow models, each on half of CIFAR-10
AGENTS, SAMPLES = 1024, 32
PROCESSES, LOCAL = (1, 2, 4), 8  # of the check, and its agents
STEPS, TURNS, WAIT = 10, 15, 300  # calls dispatched at once, timings, seconds until a process counts as stuck
LARGE = 2**20  # numbers of the message that tells the bandwidth


def seconds(unit: Unit, device: Device, devices: int, latency: float = LATENCY) -> dict[str, float]:
    """Of the work of one device among so many: the parts of the model, and their sum."""
    link = device.near if devices <= device.group else device.far
    parts = {
        "operations": unit.flops / device.flops, "memory": unit.nbytes / device.memory, "bytes": unit.wire / link,
        "calls": unit.calls * latency,
    }  # fmt: skip
    return parts | {"total": max(parts["operations"], parts["memory"]) + parts["bytes"] + parts["calls"]}


def jobs() -> dict[str, Callable[[int], Unit]]:
    """By title, the work of one device among so many."""
    score = pod_counts.scored("resnet50", (224, 224, 3), classes=1000, probes=10, batch=4)
    step = pod_counts.trained("resnet18", (32, 32, 3), batch=BATCH)
    steps = EPOCHS * (CIFAR10 // 2 // BATCH)
    found: dict[str, Callable[[int], Unit]] = {
        "ImageNet scored by ResNet-50, seconds": lambda n: score.times(math.ceil(IMAGENET / n)),
        f"{MODELS} shadow ResNet-18, {EPOCHS} epochs, seconds": lambda n: step.times(steps * models_of_one(n)),
    }
    for graph in ("ring", "torus"):
        for method in pod_counts.METHODS:
            found[f"{AGENTS:,} agents, ResNet-20, {method} on a {graph}, seconds of 1,000 steps"] = (
                lambda n, graph=graph, method=method: pod_counts.agents(graph, method, AGENTS, n, SAMPLES).times(1000)
            )
    return found


def models_of_one(devices: int) -> int:
    """Shadow models of a device: as many devices work as divide their number."""
    return MODELS // math.gcd(MODELS, devices)


def on_paper(sizes: tuple[int, ...] = PODS) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """The tables: what was counted for a device, and how long that takes."""
    work: dict[str, dict[str, dict[str, float]]] = {}
    pods: dict[str, dict[str, dict[str, float]]] = {}
    for title, of_one in jobs().items():
        units = {count: of_one(count) for count in sizes}
        work[title] = {
            f"{count} devices": {
                "tflop": unit.flops / 1e12, "gigabytes": unit.nbytes / 1e9, "received_gigabytes": unit.wire / 1e9,
                "calls": float(unit.calls),
            }
            for count, unit in units.items()
        }  # fmt: skip
        pods[title] = {
            f"{count} x {name}": seconds(unit, device, count)
            for name, device in DEVICES.items()
            for count, unit in units.items()
        }
        show(title, pods[title])
    return {"work": work, "pods": pods}


def check() -> dict[str, dict[str, dict[str, float]]]:
    """A step of agents in processes: measured, and by the model."""
    rows: dict[str, dict[str, float]] = {}
    cores = len(os.sched_getaffinity(0))
    for processes in PROCESSES:
        found = launched(processes, LOCAL)
        alone = launched(1, LOCAL // processes)["step"] if processes > 1 else found["step"]
        model = predicted(found, alone, processes, cores)
        bandwidth = found["bandwidth"] / 1e6 if processes > 1 else 0.0
        rows[f"{processes} processes"] = {
            "agents_each": LOCAL / processes, "alone_ms": alone, "calls": found["calls"],
            "received_kilobytes": found["wire"] / 1e3, "latency_ms": found["latency"],
            "megabytes_a_second": bandwidth, "model_ms": model, "measured_ms": found["step"],
            "measured_over_model": found["step"] / model,
        }  # fmt: skip
    title = f"D-PSGD, {LOCAL} agents in processes of one device each, cores to run on: {cores}"
    show(title, rows)
    return {title: rows}


def predicted(found: dict[str, float], alone: float, processes: int, cores: int) -> float:
    """Milliseconds of a step: the work of a process, slower where processes share cores, then the exchange."""
    return (
        alone * max(1.0, processes / cores)
        + found["calls"] * found["latency"]
        + 1e3 * found["wire"] / found["bandwidth"]
    )


def launched(processes: int, agents: int) -> dict[str, float]:
    """What the first of so many processes measured."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command, pipe = [sys.executable, "-m", "benchmarks.pod", "--worker"], subprocess.PIPE
    started = [
        subprocess.Popen([*command, f"{rank},{processes},{port},{agents}"], stdout=pipe, stderr=pipe, text=True)
        for rank in range(processes)
    ]
    printed = [process.communicate(timeout=WAIT) for process in started]
    for process, (_, errors) in zip(started, printed, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process ended with {process.returncode}: {errors.strip().splitlines()[-1]}")
    return json.loads(printed[0][0].strip().splitlines()[-1])


def worker(rank: int, processes: int, port: int, agents: int) -> None:
    """One process: what a step, a small message and a large one take; the first one tells."""
    jax.config.update("jax_num_cpu_devices", 1)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, rank)
    given, comm = problem("mlp", agents, SAMPLES), exchange.spread(agents, processes)
    step, start = one_step(gossip.d_psgd, given, comm, topology.weights("ring", agents))
    run = jax.jit((exchange.shard_map if processes > 1 else exchange.vmap)(step, comm))
    arguments = exchange.place(start, comm), exchange.place(given.batch, comm)
    found = {"step": timed(run, *arguments)}
    kinds = programs.collectives(run.lower(*arguments).compile())
    sent = kinds.get("collective-permute", programs.Collective(0, 0))
    found |= {"wire": float(sent.nbytes), "calls": float(sent.calls), "latency": 0.0, "bandwidth": 1.0}
    if processes > 1:
        ring = exchange.spread(processes, processes)
        pass_on = jax.jit(exchange.shard_map(lambda x: ring.permute(x, tuple(np.roll(range(processes), 1))), ring))
        messages = [exchange.place(np.zeros((processes, size), np.float32), ring) for size in (1, LARGE)]
        small, large = (timed(pass_on, message) for message in messages)
        found |= {"latency": small, "bandwidth": 4e3 * LARGE / max(large - small, small)}
        jax.distributed.shutdown()
    if rank == 0:
        print(json.dumps(found), flush=True)


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    """Milliseconds of a call among STEPS that are dispatched at once, the median over turns."""
    taken = []
    for _ in range(TURNS + 1):
        start = time.perf_counter()
        jax.block_until_ready([call(*arguments) for _ in range(STEPS)])
        taken.append(1e3 * (time.perf_counter() - start) / STEPS)
    return statistics.median(taken[1:])


def main(args: argparse.Namespace) -> dict[str, Any]:
    """The parts that are asked for."""
    report = header("pod", args) | {"statistic": "lower bounds from compiled programs; the check: medians"}
    if "paper" in args.parts:
        if any(pod_counts.independent(8).values()):
            raise AssertionError("scoring or train_many exchanges between devices: the model takes them not to.")
        report |= on_paper()
    if "check" in args.parts:
        report["check"] = check()
    report["arguments"]["repeats"] = TURNS
    report["note"] = " ".join(f"{name}: {device.source}." for name, device in DEVICES.items())
    return report


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--parts", nargs="+", choices=("paper", "check"), default=["paper", "check"], help="(both)")
    found.add_argument(
        "--worker", help=argparse.SUPPRESS
    )  # rank,processes,port,agents: how the check starts its processes
    return found


if __name__ == "__main__":
    arguments = parse(parser(), {})
    if arguments.worker:
        worker(*map(int, arguments.worker.split(",")))
    else:
        jax.config.update("jax_num_cpu_devices", max(PODS))
        write(main(arguments), arguments.out)
