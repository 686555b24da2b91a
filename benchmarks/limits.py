"""How near do the three hottest paths come to what the machine can do, and what stands in the way?

    uv run python -m benchmarks.limits                               # about 1 min on 2 cores
    uv run python -m benchmarks.limits --preset gpu --out gpu.json   # a wide MLP, ResNet-18; bfloat16 too

Curvature scores (fd_norm of 10 probes, the exact trace), the Gram matrix of a layer's inputs, a step of agents (D-PSGD,
NGC). Counted are the operations and bytes that the result needs whatever way it is computed, by formula: `product` is
what the compiler counts over that, where it counts all of it. The limit is the longer of two times: operations at the
rate of a large matrix product in the same precision, and a copy of as many bytes, both measured in the same turns.
`share` is that time over ours. Below each path stand its parts, run alone: what they take of its time. The products of
the layers' shapes are those of a forward pass, without what makes their operands: thin ones are slower than the rate.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.curvature import SHAPES, network
from benchmarks.decentralized_counts import NETWORKS, one_step, problem
from benchmarks.table import Ratio, Summary, header, run, show
from subspace_jax import nn
from subspace_jax.core import capture, costs, exchange, losses, moments, programs, topology
from subspace_jax.core.keys import rademacher, sample_keys
from subspace_jax.decentralized import gossip, ngc
from subspace_jax.memorization.scores import scorer

PRESETS = {
    "cpu": {"repeats": 5},
    "gpu": {
        "networks": ["wide_mlp", "resnet18"], "batch": 2048, "precisions": ["highest", "bfloat16"],
        "grams": [(65_536, 4608)], "agents": "resnet20", "side": 8192,
    },
}  # fmt: skip
PRECISIONS = "highest", "bfloat16"  # the second: of the network itself
LONGEST = 0.02  # seconds that a call lasts at least, by repetition


class Work(NamedTuple):
    """One path, compiled, and what it needs.

    Attributes:
      program: the call.
      flops: floating-point operations that the result needs.
      nbytes: bytes that have to be read or written once.
      counted: operations that the compiler counts; NaN where a loop hides some.
      precision: of the matrix rate that it is measured against.
      parts: calls that are parts of it, by what they compute.
    """

    program: Callable[[], Any]
    flops: float
    nbytes: float
    counted: float
    precision: str
    parts: dict[str, Callable[[], Any]]


def compiled(fn: Callable, *arguments: Any) -> tuple[Callable[[], Any], float]:
    """The call on these arguments, and its operations as the compiler counts them."""
    arguments = jax.device_put(arguments)
    program = jax.jit(fn).lower(*arguments).compile()
    return lambda: program(*arguments), programs.flops(program)


def rate(side: int, precision: str) -> Callable[[], Any]:
    """A large product, 2 side^3 operations."""
    factor = jnp.ones((side, side), "bfloat16" if precision == "bfloat16" else "float32")
    return compiled(lambda a: jnp.matmul(a, a, precision=_name(precision)), factor)[0]


def copy(nbytes: float) -> Callable[[], Any]:
    """A pass that reads half of so many bytes and writes the other half."""
    return compiled(lambda x: x + 1, jnp.zeros(int(nbytes / 8), "float32"))[0]


def _name(precision: str) -> str | None:
    return None if precision == "bfloat16" else precision


def products(table: Mapping[str, Any], batch: int, precision: str) -> Callable[[], Any]:
    """One matrix product for each layer, of the shapes of a forward pass."""
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    pairs = [
        (jnp.ones((layer.rows * batch, layer.d_in), dtype), jnp.ones((layer.d_in, layer.d_out), dtype))
        for layer in table.values()
    ]
    return compiled(lambda pairs: [jnp.matmul(a, b, precision=_name(precision)) for a, b in pairs], pairs)[0]


def curvature_flops(macs: int, batch: int, *, probes: int = 0, classes: int = 0) -> int:
    """Of fd_norm: 1 + probes gradients, each a forward pass and one back to the input; of the trace: 1 + C passes."""
    passes = 2 * (1 + probes) if probes else 1 + classes
    return 2 * macs * batch * passes


def curvature_work(name: str, batch: int, precision: str, probes: int) -> dict[str, Work]:
    """fd_norm and the exact trace of an untrained network, as `training.score_dataset` runs them."""
    model = network(name, dtype="bfloat16" if precision == "bfloat16" else "float32")
    x = jax.random.normal(jax.random.key(0), (batch, *SHAPES[name]))
    variables, y = jax.jit(model.init)(jax.random.key(1), x[:2]), jnp.arange(batch) % 10
    keys, loss = sample_keys(jax.random.key(2), np.arange(batch)), losses.cross_entropy(model.apply)
    table = capture.layers(model.apply, variables, x[:1])
    macs = costs.macs(table)
    given = {"fd_norm": {"probes": probes}, "ggn_exact": {"classes": 10}}
    with jax.default_matmul_precision(_name(precision)):
        forward = compiled(model.apply, variables, x)[0]
        gradient = compiled(lambda v, x: jax.grad(lambda x: loss(v, x, y).sum())(x), variables, x)[0]
    signs = compiled(lambda keys: rademacher(keys, 0, x.shape[1:]), keys)[0]
    found = {}
    for score, passes in given.items():
        scored = scorer(score, model.apply, probes=probes, precision=precision)
        program, counted = compiled(scored, keys, variables, x, y)
        parts = {"forward pass": forward, "products of its layers' shapes": products(table, batch, precision)}
        if score == "fd_norm":
            parts |= {"one gradient": gradient, "random signs of one probe": signs}
        work = Work(
            program, curvature_flops(macs, batch, **passes), 4.0 * (costs.parameters(variables) + 2 * x.size),
            counted if jax.default_backend() == "cpu" else math.nan, precision, parts,
        )  # fmt: skip
        found[f"{score}, {name}, batch {batch}, {precision}"] = work
    return found


def gram_flops(rows: int, features: int) -> int:
    """Of the distinct entries of X'X: it is symmetric, so that half of a plain product says nothing new."""
    return rows * features * (features + 1)


def gram_work(rows: int, features: int) -> dict[str, Work]:
    """Moments of one batch of rows."""
    x = jax.random.normal(jax.random.key(0), (rows, features))
    program, counted = compiled(moments.from_rows, x)
    looped = jax.default_backend() == "cpu" and rows >= 2 * moments.CHUNK
    square = compiled(lambda x: jnp.matmul(x.T, x, precision="highest"), x)[0]
    parts = {"X'X as a plain product": square, "sum of the rows": compiled(lambda x: x.sum(0), x)[0]}
    nbytes = 4.0 * (rows * features + features**2)
    work = Work(program, gram_flops(rows, features), nbytes, math.nan if looped else counted, "highest", parts)
    return {f"moments, {rows:,} x {features}": work}


def agents_flops(step: costs.Step, samples: int, passes: int) -> int:
    """Of `passes` gradients of a batch at each agent."""
    return 2 * sum(step) * samples * passes


def agents_bytes(parameters: int, agents: int, messages: int) -> int:
    """Of the models: the own one read and written, each message read."""
    return 4 * parameters * agents * (2 + messages)


def agents_work(name: str, agents: int, batch: int) -> dict[str, Work]:
    """One dispatched step of all agents on a ring, on one device."""
    given, weights, comm = problem(name, agents, batch), topology.weights("ring", agents), exchange.spread(agents, 1)
    arguments, _ = NETWORKS[name]
    alone = jax.tree.map(lambda leaf: leaf[0], given.params)
    model, loop = nn.build(name, **arguments), "vmap" if name == "mlp" else "map"
    table = capture.layers(lambda p, x: model.apply({"params": p}, x), alone, given.batch[0][0, :1])
    gradient = compiled(
        jax.vmap(jax.grad(lambda p, b: given.loss(p, {}, b, jax.random.key(0))[0])), given.params, given.batch
    )[0]
    mix = gossip.mixing(comm, weights)
    mixing = compiled(exchange.vmap(lambda p: mix(jnp.int32(0), p, p)[0], comm), given.params)[0]
    nothing = compiled(lambda p: jax.tree.map(lambda leaf: leaf + 1, p), given.params)[0]
    found = {}
    for method, make, passes, messages in (("d_psgd", gossip.d_psgd, 1, 2), ("ngc", ngc.ngc, 3, 4)):
        step, start = one_step(lambda loss, make=make, **rest: make(loss, loop=loop, **rest), given, comm, weights)
        program, counted = compiled(exchange.vmap(step, comm), start, given.batch)
        found[f"{method}, {name}, {agents} agents, batch {batch}"] = Work(
            program, agents_flops(costs.step_macs(table), agents * batch, passes),
            agents_bytes(costs.parameters(alone), agents, messages), counted if loop == "vmap" else math.nan, "highest",
            {"gradients of the own models": gradient, "mixing": mixing, "models read and written": nothing},
        )  # fmt: skip
    return found


def timings(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds a call, in turns, each repeated until it lasts LONGEST."""
    times = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        times[name] = 1 + int(LONGEST / (time.perf_counter() - start))
    seconds = {name: np.zeros(repeats) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(times[name]):
                jax.block_until_ready(call())
            seconds[name][turn] = (time.perf_counter() - start) / times[name]
    return seconds


def measured(works: dict[str, Work], args: argparse.Namespace) -> dict[str, dict[str, dict[str, Any]]]:
    """Rates of the machine; shares of the paths; what their parts take of them."""
    products = {precision: rate(args.side, precision) for precision in {work.precision for work in works.values()}}
    calls = products | {name: work.program for name, work in works.items()}
    calls |= {f"{name}: copy": copy(work.nbytes) for name, work in works.items()}
    calls |= {f"{name}: {part}": call for name, work in works.items() for part, call in work.parts.items()}
    seconds = timings(calls, args.repeats)
    paths, parts = {}, {}
    for name, work in works.items():
        ideal = work.flops / (2 * args.side**3) * seconds[work.precision], seconds[f"{name}: copy"]
        operations, nbytes = (float(np.median(limit / seconds[name])) for limit in ideal)
        paths[name] = {
            "ms": 1e3 * float(np.median(seconds[name])), "gflop": work.flops / 1e9, "mib": work.nbytes / 2**20,
            "share of operations": operations, "share of bytes": nbytes,
            "product": None if math.isnan(work.counted) else work.counted / work.flops,
        }  # fmt: skip
        for part in work.parts:
            own = seconds[f"{name}: {part}"]
            of_it = float(np.median(own / seconds[name]))
            parts[f"{name}: {part}"] = {"ms": 1e3 * float(np.median(own)), "of the path": of_it}
    rates = {name: {"gflop_per_second": 2e-9 * args.side**3 / float(np.median(seconds[name]))} for name in products}
    return {"rates": rates, "paths": paths, "parts": parts}


def main(args: argparse.Namespace) -> dict[str, Any]:
    """All three tables."""
    works: dict[str, Work] = {}
    for precision in args.precisions:
        for name in args.networks:
            works |= curvature_work(name, args.batch, precision, args.probes)
    for rows, features in args.grams:
        works |= gram_work(rows, features)
    works |= agents_work(args.agents, args.count, args.agent_batch)
    report = header("limits", args) | measured(works, args)
    for title in ("rates", "paths", "parts"):
        show(title, report[title])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios = []
    for name, row in report["paths"].items():
        share = {limit: row[f"share of {limit}"] for limit in ("operations", "bytes")}
        limit = max(share, key=lambda name: share[name])
        named = {"operations": "its operations at the rate of a product", "bytes": "a copy of as many bytes"}[limit]
        ratios.append(Ratio(name, "limit", named, row["ms"], share[limit]))
    return Summary(ratios, [])


def shape(text: str) -> tuple[int, int]:
    """(rows, features) of "4096x576"."""
    rows, _, features = text.partition("x")
    return int(rows), int(features)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--networks", nargs="+", choices=SHAPES, default=["mlp", "lenet5"], help="scored (%(default)s)")
    found.add_argument("--batch", type=int, default=64, help="samples of a score's call (%(default)s)")
    found.add_argument("--probes", type=int, default=10, help="of fd_norm (%(default)s)")
    found.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["highest"], help="(%(default)s)")
    found.add_argument("--grams", nargs="+", type=shape, default=[(4096, 576), (4096, 1152)], help="ROWSxFEATURES")
    found.add_argument("--agents", choices=NETWORKS, default="mlp", help="network of the agents (%(default)s)")
    found.add_argument("--count", type=int, default=16, help="agents (%(default)s)")
    found.add_argument("--agent-batch", type=int, default=32, help="samples of an agent's step (%(default)s)")
    found.add_argument("--side", type=int, default=1024, help="of the product that tells the rate (%(default)s)")
    found.add_argument("--repeats", type=int, default=9, help="turns of the timing; medians are shown (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
