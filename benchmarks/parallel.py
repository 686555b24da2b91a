"""What does a step cost whose exchanges are placed by hand, beside the same step by annotations?

    uv run python -m benchmarks.parallel                     # a few minutes on 2 cores
    wanted: a step of the scheme bk takes at most 1.2 times the step by annotations (jit), at every width
    measured on 2 busy cores: .97, .69 and .28 times at widths 256, 1024 and 4096; again .28 at the last one

Groups x members of simulated devices, two dense layers behind two convolutions, SGD with momentum; every program is
compiled once, its seconds with it, then all are timed in turns: the least wall-clock seconds of a step, since devices
wait for each other. All devices share the cores: `of_one` is the step over the one of a single device with the whole
batch, 1 where spreading costs nothing; it says nothing of the speed of real devices.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.table import Kind, Ratio, Summary, curve, header, run, show, tell
from subspace_jax import nn
from subspace_jax.core import programs
from subspace_jax.parallel import splitbrain
from subspace_jax.parallel.splitbrain.step import ALL

SIDE, CLASSES = 32, 10
SCHEMES = "one", "bk", "modulo", "jit", "fsdp"
MOST = 1.2
OPTIMIZER = optax.sgd(0.01, 0.9)
PRESETS = {
    "cpu": {"widths": [256, 1024], "repeats": 5},
    "gpu": {"widths": [1024, 4096], "split": [1, 1], "batch": 64},  # one device: what the placement itself costs
}


def network(width: int) -> tuple[splitbrain.Network, Any]:
    """Two convolutions and dense layers of `width` and a quarter of it; the network in parts, its initial values."""
    dense, sizes = [width, max(width // 4, 8)], {"widths": [8, 16], "init": "lecun"}
    whole, trunk = (
        nn.build("cnn2", dense=layers, classes=classes, **sizes) for layers, classes in ((dense, CLASSES), ([], 0))
    )

    def head(params: Any, h: Any) -> Any:
        return h @ params["head"]["kernel"] + params["head"]["bias"][None]

    def features(params: Any, x: Any) -> Any:
        return trunk.apply({"params": params, "batch_stats": {}}, x)

    params = jax.jit(whole.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]
    return splitbrain.Network(features, ("dense0", "dense1"), head), jax.device_get(params)


def program(scheme: str, width: int, args: argparse.Namespace) -> tuple[Callable[[], Any], dict[str, float]]:
    """A call that takes one further step, and what compiling it took."""
    parts, params = network(width)
    data, model = (1, 1) if scheme == "one" else args.split
    mesh = splitbrain.grid(data, model, jax.devices()[: data * model])
    both = {"dense0": "column", "dense1": "row"}
    plan = splitbrain.plan(params, parts.dense, data=data, model=model, batch=args.batch, overrides=both)
    fsdp = scheme == "fsdp"
    specs = splitbrain.fsdp_specs(params, plan.devices) if fsdp else splitbrain.param_specs(plan, params)
    count = args.batch * args.split[0] * args.split[1]
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(count, SIDE, SIDE, 3)).astype(np.float32), np.arange(count, dtype=np.int32) % CLASSES
    start = time.perf_counter()
    loss = loss_of(scheme, parts, plan, mesh)
    step = splitbrain.compile_step(loss, OPTIMIZER, mesh, params, specs, batch)
    found = {"compile_seconds": time.perf_counter() - start, "temp_mib": programs.memory(step).temporaries / 2**20}
    found["collective_mib"] = sum(each.nbytes for each in programs.collectives(step).values()) / 2**20
    return running(step, mesh, params, specs, batch), found


def loss_of(scheme: str, parts: splitbrain.Network, plan: splitbrain.Plan, mesh: Mesh) -> Callable:
    """The loss of a row."""
    if scheme in ("one", "fsdp"):
        return splitbrain.plain_loss(parts)
    if scheme == "jit":
        return splitbrain.annotated_loss(parts, plan, mesh)
    return splitbrain.hybrid_loss(parts, plan, mesh, scheme=scheme)


def running(step: Callable, mesh: Mesh, params: Any, specs: Any, batch: Any) -> Callable[[], Any]:
    """Each call takes one step further; parameters and state are donated from one to the next."""

    def put(leaf: Any, spec: PartitionSpec) -> jax.Array:
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    state = jax.tree.map(put, OPTIMIZER.init(params), splitbrain.state_specs(OPTIMIZER, params, specs))
    now = [jax.tree.map(put, params, specs), state]
    x, y = (put(leaf, ALL) for leaf in batch)

    def call() -> Any:
        now[0], now[1], value = step(now[0], now[1], x, y)
        return value

    return call


def measure(width: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All rows of one width."""
    made = {scheme: program(scheme, width, args) for scheme in SCHEMES}
    least = dict.fromkeys(made, np.inf)
    for turn in range(args.repeats + 1):
        for scheme, (call, _) in made.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:  # the first one is slower
                least[scheme] = min(least[scheme], time.perf_counter() - start)
    return {scheme: ratios(least, scheme) | found for scheme, (_, found) in made.items()}


def ratios(least: dict[str, float], scheme: str) -> dict[str, float]:
    """Seconds of a step, over those of one device and of the compiler's placement."""
    own = least[scheme]
    return {"step_seconds": own, "of_one": own / least["one"], "of_jit": own / least["jit"]}


def claims(rows: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """The scheme bk against the compiler's own exchanges; negated, since every table of claims has a lower bound."""
    found = {f"minus bk over jit, {width}": -row["bk"]["of_jit"] for width, row in rows.items()}
    return [
        {"name": name, "value": value, "threshold": -MOST, "holds": value >= -MOST} for name, value in found.items()
    ]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and return everything."""
    rows = {f"width {width}": measure(width, args) for width in args.widths}
    report = header("parallel", args) | {
        "device": f"{args.split[0] * args.split[1]} simulated of {jax.devices()[0].device_kind}",
        "statistic": "least wall-clock seconds",
        "widths": rows, "claims": claims(rows),
    }  # fmt: skip
    for title, table in rows.items():
        show(f"{title}, {args.split[0]}x{args.split[1]} devices", table)
    tell(report["claims"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios, growth = [], {}
    for name, rows in report["widths"].items():
        own = rows["bk"]
        growth[name] = {"ms": 1e3 * own["step_seconds"]}
        others: dict[Kind, tuple[str, float]] = {
            "peer": ("annotations, jit", own["of_jit"]),
            "plain": ("one device, whole batch", own["of_one"]),
        }
        ratios += [
            Ratio(f"hybrid step bk, {name}", kind, other, growth[name]["ms"], 1 / over)
            for kind, (other, over) in others.items()
        ]
    return Summary(ratios, curve("hybrid step bk", "width", growth, "ms"))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--widths", type=int, nargs="+", default=[256, 1024, 4096], help="(%(default)s)")
    found.add_argument("--split", type=int, nargs=2, default=[2, 4], help="groups and members (%(default)s)")
    found.add_argument("--batch", type=int, default=8, help="samples a device (%(default)s)")
    found.add_argument("--repeats", type=int, default=10, help="turns of the timing (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary, devices=lambda args: args.split[0] * args.split[1])
