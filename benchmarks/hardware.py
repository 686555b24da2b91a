"""Networks inside analog memories: how much faster than the plain ways to compute the same?

    uv run python -m benchmarks.hardware                  # a minute on 2 cores
    uv run python -m benchmarks.hardware --chips 1000 --out hardware.json
    expected: group sums 3 times as fast as a gather or more; snap 10 times as fast as a loop over tiles or more

sums: group sums of the simulated circuit as one matrix product of low rank, as 16 one-hot products (one for each
magnitude), and by looking up every product. chips: in chunks by vmap, and one after the other. snap: all tiles at once,
and a loop over tiles with percentiles. step: a training step with the gated penalty, over the plain one. The results of
the ways are compared before anything is timed; programs are compiled first and timed in turns; ratios are medians over
the turns. aihwkit and CrossSim are named with their versions where they import: they simulate other devices, and have
neither the table of products nor chips as an axis, so that no ratio to them is of the same computation.
"""

import argparse
import importlib.metadata
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.table import Ratio, Summary, header, run, show, tell
from subspace_jax import nn, training
from subspace_jax.hardware import adc_pruning, products, snapping, sram
from subspace_jax.hardware.circuit import CIRCUIT, group_sums

TARGETS = {"sums, gather over low rank": 3.0, "snap, loop over tiles at once": 10.0}
PEERS = "aihwkit", "cross-sim"
CROSSBAR = 16
PRESETS = {"cpu": {"chips": 50, "repeats": 3}, "gpu": {"chips": 1000, "batch": 1024}}


def gathered(v: jax.Array, w: jax.Array, table: jax.Array, rows: int) -> jax.Array:
    """Group sums by looking up every product."""
    groups = -(-len(w) // rows)
    fill = groups * rows - len(w)
    v, w = jnp.pad(v, ((0, 0), (0, fill))).astype(int), jnp.pad(w, ((0, fill), (0, 0))).astype(int)
    return table[w[None], v[:, :, None]].reshape(len(v), groups, rows, -1).sum(2)


def one_hot(v: jax.Array, w: jax.Array, table: jax.Array, rows: int) -> jax.Array:
    """Group sums by a product for each magnitude of a weight."""
    groups = -(-len(w) // rows)
    fill = groups * rows - len(w)
    v, w = jnp.pad(v, ((0, 0), (0, fill))).astype(int), jnp.pad(w, ((0, fill), (0, 0)))
    w, total = w.reshape(groups, rows, -1), jnp.zeros((len(v), groups, w.shape[1]))
    for code in range(len(table)):
        own = table[code][v].reshape(len(v), groups, rows)
        total += jnp.einsum("ngr,grm->ngm", own, (w == code).astype(own.dtype), precision="highest")
    return total


def by_tiles(kernel: np.ndarray, threshold: float, rows: int) -> np.ndarray:
    """`snapping.snap` of one kernel, one tile and one column after the other."""
    matrix = np.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1).copy()
    levels = snapping.levels(rows)
    for i in range(0, len(matrix), rows):
        for j in range(0, matrix.shape[1], rows):
            tile = matrix[i : i + rows, j : j + rows]
            share = min((np.abs(column) <= threshold).mean() for column in tile)
            k = int(np.flatnonzero(levels <= share)[-1])
            if k < len(levels) - 2 and share >= (levels[k] + levels[k + 1]) / 2:
                k += 1
            for column in tile:
                column[np.argsort(np.abs(column), kind="stable")[: math.ceil(levels[k] * len(column))]] = 0
    *window, c_in, c_out = kernel.shape
    return np.moveaxis(matrix.reshape(c_out, c_in, *window), (0, 1), (-1, -2))


def turns(calls: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Ms of the first call, and by its name what each other takes over it: medians over turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    first, *others = calls
    found = {f"{first} ms": 1e3 * float(np.median(seconds[first]))}
    return found | {f"{name} over it": float(np.median(np.divide(seconds[name], seconds[first]))) for name in others}


def sums(args: argparse.Namespace) -> dict[str, float]:
    """Group sums of the simulated circuit."""
    rng = np.random.default_rng(0)
    v, w = (jnp.asarray(rng.integers(0, 16, shape), jnp.float32) for shape in ((args.batch, 288), (288, 32)))
    table, rows = products.product_table(), CIRCUIT.rows
    held = jnp.asarray(table, jnp.float32)
    low = jax.jit(lambda v, w: group_sums(v, w, table, rows=rows, rank=CIRCUIT.rank))
    hot, gather = (jax.jit(lambda v, w, way=way: way(v, w, held, rows)) for way in (one_hot, gathered))
    np.testing.assert_allclose(hot(v, w), gather(v, w), atol=1e-4)
    np.testing.assert_allclose(low(v, w), gather(v, w), atol=rows * 1.1e-4 + 1e-4)
    ways = {"low rank": low, "one-hot": hot, "gather": gather}
    return turns({name: lambda call=call: call(v, w) for name, call in ways.items()}, args.repeats)


def network(args: argparse.Namespace) -> tuple[nn.Model, Any, np.ndarray, np.ndarray]:
    """Two convolutions on 8x8 images, untrained: times do not depend on what it learned."""
    model = nn.build("cnn2", widths=tuple(args.widths), dense=(32,))
    x = np.random.default_rng(0).random((args.batch, 8, 8, 1)).astype(np.float32)
    return model, jax.jit(model.init)(jax.random.key(0), x[:1]), x, np.arange(args.batch) % 10


def chips(args: argparse.Namespace) -> dict[str, float]:
    """Accuracy of many chips."""
    model, variables, x, y = network(args)
    calibration = sram.calibrate(model.apply, variables, x)

    def run(at_once: int) -> np.ndarray:
        return sram.over_chips(
            jax.random.key(1), model.apply, variables, calibration, x, y, chips=args.chips, at_once=at_once
        )

    np.testing.assert_allclose(run(10), run(1), atol=1e-6)
    return turns({"vmap": lambda: run(10), "one by one": lambda: run(1)}, args.repeats)


def snap(args: argparse.Namespace) -> dict[str, float]:
    """One kernel cut to whole bits."""
    width = args.channels
    kernel = np.random.default_rng(0).normal(size=(3, 3, width, width)).astype(np.float32)
    threshold = float(np.percentile(np.abs(kernel), 85))

    def at_once() -> np.ndarray:
        return snapping.snap({"w": kernel}, CROSSBAR, percentiles=[85.0]).kernels["w"]

    np.testing.assert_array_equal(at_once(), by_tiles(kernel, threshold, CROSSBAR))
    return turns({"at once": at_once, "loop": lambda: by_tiles(kernel, threshold, CROSSBAR)}, args.repeats)


def step(args: argparse.Namespace) -> dict[str, float]:
    """A training step with the penalty, and without one."""
    model, variables, x, y = network(args)
    layers = adc_pruning.mapped(model.apply, variables, x, rows=CROSSBAR)
    tx = optax.sgd(0.05, 0.9)
    state = tx.init(variables["params"])

    def taken(objective: Callable) -> Callable:
        @jax.jit
        def one(params, state, strength):
            constants = {"strength": strength}
            loss = jax.grad(objective, has_aux=True)
            grads, _ = loss(params, variables["batch_stats"], ((x, y),), constants, jax.random.key(0))
            return optax.apply_updates(params, tx.update(grads, state, params)[0])

        return one

    plain = taken(training.mean_loss(model.train_apply))
    gated = taken(adc_pruning.objective(model.train_apply, layers, CROSSBAR))
    start = variables["params"], state
    none, some = jnp.float32(0), jnp.float32(0.005)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain(*start, none), gated(*start, none))
    return turns({"plain": lambda: plain(*start, none), "penalty": lambda: gated(*start, some)}, args.repeats)


def peers() -> dict[str, str]:
    """Versions of simulators of other devices, where they are installed."""
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def claims(rows: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What must hold on a CPU at the sizes of the command."""
    values = {
        "sums, gather over low rank": rows["sums"]["gather over it"],
        "snap, loop over tiles at once": rows["snap"]["loop over it"],
    }
    return [
        {"name": name, "value": values[name], "threshold": least, "holds": values[name] >= least}
        for name, least in TARGETS.items()
    ]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """All rows, printed; as JSON with --out."""
    rows = {"sums": sums(args), "chips": chips(args), "snap": snap(args), "step": step(args)}
    report: dict[str, Any] = header("hardware", args) | {"peers": peers(), **rows}
    report["claims"] = claims(rows)
    for name, row in rows.items():
        show(name, {"": row})
    print("\n" + ", ".join(f"{name}: {version}" for name, version in report["peers"].items()))
    tell(report["claims"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    sums, chips, snap, step = (report[name] for name in ("sums", "chips", "snap", "step"))
    of_chips, penalty = f"{report['arguments']['chips']} chips", "a training step with penalty"
    over = step["penalty over it"]
    return Summary([
        Ratio("group sums", "plain", "gather", sums["low rank ms"], sums["gather over it"]),
        Ratio("group sums", "plain", "one-hot products", sums["low rank ms"], sums["one-hot over it"]),
        Ratio(of_chips, "plain", "one by one", chips["vmap ms"], chips["one by one over it"]),
        Ratio("snapping a kernel", "authors", "a loop over tiles", snap["at once ms"], snap["loop over it"]),
        Ratio(penalty, "plain", "a step without", step["plain ms"] * over, 1 / over),
    ], [])  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--batch", type=int, default=256, help="images, and rows of the group sums")
    found.add_argument("--widths", type=int, nargs=2, default=[16, 32], help="channels of the two convolutions")
    found.add_argument("--channels", type=int, default=128, help="of the kernel that is snapped")
    found.add_argument("--chips", type=int, default=100, help="chips")
    found.add_argument("--repeats", type=int, default=5, help="turns")
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
