"""What does a training step of a convolutional network cost, in its own forward passes and beside PyTorch?

    uv run python -m benchmarks.training --torch PYTHON    # an interpreter that has torch; several minutes on 2 cores
    wanted: a step of every network takes at most 5 forward passes
    measured on 2 busy cores: LeNet-5 2.5, VGG-11 3.2, cnn5 4.8; more than 5: ResNet-20 and cnn 5.4, AlexNet 8.0

One batch of 32x32 images, SGD with momentum. Every call is compiled, then timed in turns: the processor seconds of this
process, its smallest over the turns, which other programs on the machine disturb least. `forward` is inference;
`forward, training` has batch statistics and dropout. `of_plain` is the step over that with the convolutions and sums of
JAX as they are; `of_limit` the operations that the compiler counts, over those of a large matrix product in the same
seconds. PyTorch runs in a process of its own in the same run, skipped where it is missing.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Kind, Ratio, Summary, curve, header, number, run, show, tell, write
from subspace_jax import nn, training

NETWORKS = "lenet5", "cnn2", "cnn5", "cnn", "lenet", "resnet20", "alexnet", "vgg11"
SIDE, CLASSES, MATRIX = 32, 10, 1024
MOST_FORWARDS = 5
RECIPE = training.Recipe(lr=0.01)
PRESETS = {
    "cpu": {
        "networks": ["lenet5", "cnn5", "resnet20"], "batch": 32, "widths": [], "batches": [], "repeats": 2,
        "torch": sys.executable,
    },
    "gpu": {"batch": 512, "widths": [16, 64], "batches": [128, 2048], "torch": sys.executable},
}  # fmt: skip


def programs(name: str, batch: int, **sizes: Any) -> dict[str, tuple[Callable, float]]:
    """Compiled forward passes and training step of a network on one batch, with the operations of each."""
    model, tx = nn.build(name, classes=CLASSES, **sizes), training.optimizer(RECIPE, 1)
    x = jax.random.normal(jax.random.key(0), (batch, SIDE, SIDE, 3))
    y, key = jnp.arange(batch) % CLASSES, jax.random.key(1)
    state = training.create(key, model, tx, x[:2])
    calls = {
        "forward": (lambda state: model.apply(training.variables(state), x)),
        "forward, training": (lambda state: model.train_apply(training.variables(state), x, key)),
        "step": (lambda state: training.train_step(model, tx)(state, x, y)),
    }
    return {row: compiled(call, state) for row, call in calls.items()}


def compiled(call: Callable, *arguments: Any) -> tuple[Callable, float]:
    """The program without its arguments, and the operations it counts."""
    program = jax.jit(call).lower(*arguments).compile()
    return lambda: program(*arguments), float((program.cost_analysis() or {}).get("flops", np.nan))


def seconds(calls: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Least processor seconds of each call, in turns."""
    least = dict.fromkeys(calls, np.inf)
    for turn in range(repeats + 1):
        for row, call in calls.items():
            start = time.process_time()
            jax.block_until_ready(call())
            if turn:  # the first one is slower
                least[row] = min(least[row], time.process_time() - start)
    return least


def measure(name: str, args: argparse.Namespace, *, batch: int | None = None, **sizes: Any) -> dict[str, float]:
    """One row: rates, ratios, share of the limit, what the plain convolution takes."""
    batch, square = batch or args.batch, jnp.ones((MATRIX, MATRIX))
    found = programs(name, batch, **sizes)
    plain = {"convolve": jax.lax.conv_general_dilated, "kept": lambda x: x}
    with mock.patch.multiple("subspace_jax.nn.parts", **plain):
        found["plain"] = programs(name, batch, **sizes)["step"]
    found["matrix"] = compiled(jnp.matmul, square, square)
    least = seconds({row: call for row, (call, _) in found.items()}, args.repeats)
    limit = 2 * MATRIX**3 / least["matrix"]
    return {
        "forward_per_second": batch / least["forward"],
        "step_per_second": batch / least["step"],
        "of_forward": least["step"] / least["forward"],
        "of_forward_training": least["step"] / least["forward, training"],
        "of_plain": least["step"] / least["plain"],
        "of_limit": found["step"][1] / least["step"] / limit,
    }


def peer(python: str | None, networks: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The same of PyTorch, by the interpreter that has it; nothing where there is none."""
    if not python:
        return {}
    command = [python, str(pathlib.Path(__file__).with_name("training_torch.py")), str(args.batch), str(args.repeats)]
    waits = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin would count as work
    done = subprocess.run([*command, *networks], capture_output=True, text=True, env=waits)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"{python} ended with {done.returncode}"])[-1]
        print(f"no rows of PyTorch: {reason}", flush=True)
        return {}
    return json.loads(done.stdout)


def growth(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """ResNet-20 along one axis at a time."""
    rows = {f"width {width}": measure("resnet20", args, width=width) for width in args.widths}
    return rows | {f"batch {batch}": measure("resnet20", args, batch=batch) for batch in args.batches}


def claims(rows: dict[str, dict[str, float | None]]) -> list[dict[str, Any]]:
    """A step of every network costs at most MOST_FORWARDS; negated, since every table of claims has a lower bound."""
    found = {f"minus the forwards of a step of {name}": -(row["of_forward"] or np.nan) for name, row in rows.items()}
    return [
        {"name": name, "value": value, "threshold": -MOST_FORWARDS, "holds": bool(value >= -MOST_FORWARDS)}
        for name, value in found.items()
    ]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and return everything."""
    report = header("training", args) | {"statistic": "least processor seconds"}
    if torch := report["arguments"].pop("torch"):
        report["command"] = report["command"].replace(torch, "PYTHON")  # where it lies says nothing of the result
    rows: dict[str, dict[str, Any]] = {}
    for name in args.networks:
        rows[name] = measure(name, args)
        finish(report, rows, args.out)
    for name, row in peer(args.torch, args.networks, args).items():
        rows[name] |= row | {"of_torch": rows[name]["step_per_second"] / row["torch_step_per_second"]}
    finish(report, rows, args.out)
    show(f"training, batch {args.batch}, samples a processor second", report["networks"])
    tell(report["claims"])
    if args.widths or args.batches:
        report["growth"] = growth(args)
        show("growth of resnet20", report["growth"])
        finish(report, rows, args.out)
    return report


def finish(report: dict[str, Any], rows: dict[str, dict[str, Any]], path: pathlib.Path | None) -> None:
    """Put what is measured so far into the report, every column in every row, and write it."""
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    report["networks"] = {name: {column: row.get(column) for column in columns} for name, row in rows.items()}
    report["claims"] = claims(rows)
    write(report, path)


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    batch, ratios = report["arguments"]["batch"], []
    for name, row in report["networks"].items():
        others: dict[Kind, str] = {"plain": "JAX's convolutions", "peer": "PyTorch", "limit": "a matrix product"}
        values: dict[Kind, float | None] = {
            "plain": 1 / row["of_plain"],
            "peer": row.get("of_torch"),
            "limit": row["of_limit"],
        }
        ms = 1e3 * batch / row["step_per_second"]
        ratios += [
            Ratio(f"a training step, {name}, batch {batch}", kind, others[kind], ms, value)
            for kind, value in values.items() if value is not None
        ]  # fmt: skip
    curves = []
    for axis in ("width", "batch"):
        rows = {name: row for name, row in report.get("growth", {}).items() if name.startswith(axis)}
        ms = {name: {"ms": 1e3 * (number(name) if axis == "batch" else batch) / row["step_per_second"]}
              for name, row in rows.items()}  # fmt: skip
        curves += curve("a training step, resnet20", axis, ms, "ms")
    return Summary(ratios, curves)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(%(default)s)")
    found.add_argument("--batch", type=int, default=64, help="samples a step (%(default)s)")
    found.add_argument("--widths", type=int, nargs="*", default=[8, 16, 32], help="of ResNet-20 (%(default)s)")
    found.add_argument("--batches", type=int, nargs="*", default=[16, 64, 128], help="of ResNet-20 (%(default)s)")
    found.add_argument("--repeats", type=int, default=5, help="turns of the timing (%(default)s)")
    found.add_argument("--torch", help="an interpreter that imports torch, for the peer")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
