"""A spiking network layer by layer, or step by step? Time and memory of both, forward and backward.

    uv run python -m benchmarks.spiking                   # two convolutions on 8x8 images, 2 min on 2 cores
    uv run python -m benchmarks.spiking --steps 4 16 48 --out spiking.json
    expected: a training step layer by layer is 2 times as fast or more at 4 steps

Layer by layer: one product for all steps of a layer, a scan over time of its neurons (`spiking.network.run`). Step by
step: one scan over time of the whole network, as frameworks that call a network once a step run it. Both compute the
same logits, which is checked. Programs are compiled first and timed in turns; ratios are medians over the turns. The
encoder by frequencies stands beside a loop over its blocks. Where snnTorch (PyTorch on a CPU) or Spyx (JAX) can be
imported, the same network with their neurons has rows of its own; their surrogates differ, their logits must not.
"""

import argparse
import functools
import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Ratio, Summary, absent, curve, header, run, show, tell
from subspace_jax import nn
from subspace_jax.nn.layers.spiking import Order, fire
from subspace_jax.spiking import encode, network
from subspace_jax.spiking.network import LEAK, Spiking, drive

TARGETS = {"step by step over layer by layer, 4 steps, forward and backward": 2.0}
THRESHOLD = 0.5
PRESETS = {
    "cpu": {"steps": [4, 16], "repeats": 3},
    "gpu": {"widths": [64, 128], "side": 32, "batch": 256},
}


def step_by_step(snn: Spiking, spikes: jax.Array) -> jax.Array:
    """Logits by a scan over time of the whole network, update_first."""
    kernels, spike = [snn.params[layer.path.split("/")[0]]["kernel"] for layer in snn.layers], fire("triangle")

    def step(membranes, own):
        own, after = own[None], []
        for layer, kernel, membrane in zip(snn.layers, kernels, membranes, strict=False):
            reset = jax.lax.stop_gradient(jnp.where(membrane > THRESHOLD, THRESHOLD, 0.0))
            after.append(LEAK * membrane + drive(layer, kernel, own)[0] - reset)
            own = spike(after[-1], jnp.float32(THRESHOLD))[None]
        return after, drive(snn.layers[-1], kernels[-1], own)[0]

    shapes, own = [], jax.ShapeDtypeStruct((1, *spikes.shape[1:]), "float32")
    for layer, kernel in zip(snn.layers[:-1], kernels, strict=False):
        own = jax.eval_shape(lambda k, x, layer=layer: drive(layer, k, x), kernel, own)
        shapes.append(jnp.zeros(own.shape[1:]))
    return jax.lax.scan(step, shapes, spikes)[1].sum(0) / len(spikes)


def layer_by_layer(snn: Spiking, spikes: jax.Array, *, order: Order = "update_first") -> jax.Array:
    """The library's way."""
    thresholds = [THRESHOLD] * (len(snn.layers) - 1)
    return network.run(snn, thresholds, spikes, order=order)[0]


def compiled(way: Callable, snn: Spiking, spikes: jax.Array, *, backward: bool) -> tuple[Callable, float]:
    """The compiled call, and MiB of its temporary memory."""

    def forward(params, spikes):
        return way(snn._replace(params=params), spikes)

    def loss(params, spikes):
        return jnp.square(forward(params, spikes)).sum()

    program = jax.jit(jax.grad(loss) if backward else forward).lower(snn.params, spikes).compile()
    memory = program.memory_analysis()
    return lambda: program(snn.params, spikes), memory.temp_size_in_bytes / 2**20 if memory else float("nan")


def by_blocks(x: np.ndarray, block: int) -> np.ndarray:
    """Frames by a loop over blocks, as the authors' code makes them."""
    matrix, order = encode.dct_matrix(block), encode.zigzag(block)
    found = np.zeros((block**2, *x.shape), np.float32)
    for i in range(0, x.shape[1], block):
        for j in range(0, x.shape[2], block):
            own = x[:, i : i + block, j : j + block]
            values = np.einsum("mi,bijc,kj->bmkc", matrix, own, matrix)
            for r, (m, k) in enumerate(order):
                base = np.outer(matrix[m], matrix[k])[None, :, :, None]
                found[r, :, i : i + block, j : j + block] = values[:, m, k, None, None] * base
    return found


def turns(calls: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def prepared(args: argparse.Namespace) -> tuple[Spiking, np.ndarray]:
    """The network and the images of all rows."""
    model = nn.build("cnn2", widths=tuple(args.widths), pool="average", use_bias=False)
    x = np.random.default_rng(0).uniform(-1, 1, (args.batch, args.side, args.side, 1)).astype(np.float32)
    return network.spiking(model, jax.jit(model.init)(jax.random.key(0), x[:1])), x


def networks(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One row for each number of steps."""
    (snn, x), rows = prepared(args), {}
    for steps in args.steps:
        spikes = encode.poisson(jax.random.key(1), x, np.arange(len(x)), steps=steps)
        row = {}
        for kind, backward in {"forward": False, "forward and backward": True}.items():
            ways = {"layer": layer_by_layer, "step": step_by_step}
            made = {name: compiled(way, snn, spikes, backward=backward) for name, way in ways.items()}
            if not backward:
                one, other = (np.asarray(call()) for call, _ in made.values())
                np.testing.assert_allclose(one, other, atol=0.05 * np.abs(one).max())
            seconds = turns({name: call for name, (call, _) in made.items()}, args.repeats)
            row[f"{kind}, layer by layer ms"] = 1e3 * float(np.median(seconds["layer"]))
            row[f"{kind}, step by step over it"] = float(np.median(np.divide(seconds["step"], seconds["layer"])))
            row |= {f"{kind}, {name} MiB": mib for name, (_, mib) in made.items()}
        rows[f"{steps} steps"] = row
    return rows


def peers(args: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Rows of snnTorch and Spyx, and their versions; none where one fails to be imported."""
    (snn, x), rows, versions = prepared(args), {}, {}
    kernels = [np.asarray(snn.params[layer.path.split("/")[0]]["kernel"]) for layer in snn.layers]
    pools = [layer.pools for layer in snn.layers]
    order: dict[str, Order] = {"torch": "update_first", "spyx": "spike_first"}
    for name, own in order.items():
        try:
            module = importlib.import_module(f"benchmarks.spiking_{name}")
        except Exception as error:  # a peer that is broken on this machine is no reason to stop
            absent({"torch": "snnTorch", "spyx": "Spyx"}[name], error)
            continue
        versions |= module.VERSIONS
        way = functools.partial(layer_by_layer, order=own)
        for steps in args.steps:
            spikes = encode.poisson(jax.random.key(1), x, np.arange(len(x)), steps=steps)
            if own == "spike_first" and steps < len(kernels) + 1:
                continue  # no spike would reach the output
            theirs = module.calls(kernels, pools, np.asarray(spikes), leak=LEAK, threshold=THRESHOLD)
            ours = {kind: compiled(way, snn, spikes, backward=kind != "forward")[0] for kind in theirs}
            one, other = np.asarray(ours["forward"]()), theirs["forward"]()
            row = {"largest difference of logits": float(np.abs(one - other).max())}
            np.testing.assert_allclose(one, other, atol=0.05 * np.abs(one).max())
            for kind in theirs:
                seconds = turns({"peer": theirs[kind], "ours": ours[kind]}, args.repeats)
                row[f"{kind}, ms"] = 1e3 * float(np.median(seconds["peer"]))
                row[f"{kind}, over layer by layer"] = float(np.median(np.divide(seconds["peer"], seconds["ours"])))
            rows[f"{'snnTorch' if name == 'torch' else 'Spyx'}, {steps} steps"] = row
    return rows, versions


def encoders(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All blocks at once, and a loop over them."""
    x = np.random.default_rng(0).uniform(-1, 1, (args.batch, 32, 32, 1)).astype(np.float32)
    once = jax.jit(encode.dct_frames)
    np.testing.assert_allclose(once(x), by_blocks(x, 4), atol=1e-5)
    seconds = turns({"once": lambda: once(x), "loop": lambda: by_blocks(x, 4)}, args.repeats)
    ratio = float(np.median(np.divide(seconds["loop"], seconds["once"])))
    return {"32x32 images": {"ms": 1e3 * float(np.median(seconds["once"])), "loop over it": ratio}}


def claims(rows: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What must hold on a CPU, where four steps were measured."""
    if "4 steps" not in rows:
        return []
    ((name, least),) = TARGETS.items()
    value = rows["4 steps"]["forward and backward, step by step over it"]
    return [{"name": name, "value": value, "threshold": least, "holds": value >= least}]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Both tables, printed; as JSON with --out."""
    report = header("spiking", args) | {"networks": networks(args), "encoder": encoders(args)}
    beside, report["peer"] = peers(args)
    report |= {"peers": beside} if beside else {}
    for name in ("networks", "encoder", *(["peers"] if beside else [])):
        show(name, report[name])
    report["claims"] = claims(report["networks"])
    tell(report["claims"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    both = "forward and backward"
    ours = f"{both}, layer by layer ms"
    ratios = [
        Ratio(f"{both}, {name}", "plain", "step by step", row[ours], row[f"{both}, step by step over it"])
        for name, row in report["networks"].items()
    ]
    for title, row in report.get("peers", {}).items():
        name, steps = title.split(", ")
        for kind in [column.removesuffix(", ms") for column in row if column.endswith(", ms")]:
            over = row[f"{kind}, over layer by layer"]
            ratios.append(Ratio(f"{kind}, {steps}", "peer", name, row[f"{kind}, ms"] / over, over))
    ratios += [
        Ratio(f"encoding by frequencies, {name}", "authors", "a loop over blocks", row["ms"], row["loop over it"])
        for name, row in report["encoder"].items()
    ]
    return Summary(ratios, curve(both, "steps", report["networks"], ours))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--steps", type=int, nargs="+", default=[4, 16, 48], help="numbers of time steps")
    found.add_argument("--widths", type=int, nargs=2, default=[16, 32], help="channels of the two convolutions")
    found.add_argument("--side", type=int, default=8, help="pixels of an image's side")
    found.add_argument("--batch", type=int, default=64, help="images")
    found.add_argument("--repeats", type=int, default=7, help="turns")
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
