"""What does the space of a layer's inputs cost: from streamed Grams, against one SVD of all activations?

    uv run python -m benchmarks.subspace                          # routes and growth, 2 to 3 min on 2 cores
    uv run python -m benchmarks.subspace --preset gpu --out gpu.json     # a ViT-B/16-sized edit too
    expected, 2 cores: at 576 x 14,400 the Cholesky route >= 20 x and the float64 eigh route >= 10 x faster than the SVD
    uv run python -m benchmarks.subspace --vit --vit-depth 12 --vit-images 100    # the whole ViT-B/16, on a CPU too
    expected, one GPU: the ViT-B/16 edit in less than 5 s; with 100 images of each set, without a GPU, about 160 CPU
              seconds for 20 TFLOP

What is timed: ours from the rows X (n, d), in chunks as they come, to the finished projector, as two programs, the Gram
and what is made of it; the released way only its thin SVD of the activation matrix (d, n), in NumPy on the host,
without projector and without collecting; beside it the same SVD by XLA. Programs are compiled first and timed in turns,
so that a busy machine slows all alike; ratios are medians over the turns. Errors are relative, of the projector, to
that of a float64 SVD.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Ratio, Summary, curve, header, run, show
from subspace_jax import nn
from subspace_jax.core import capture, moments, subspace
from subspace_jax.unlearning import class_projection

CHUNK = 1440  # rows at a time, of which only the Gram is kept
ALPHA, ENERGY = 100.0, 0.99
SVD, XLA_SVD = "thin SVD, NumPy (released)", "thin SVD, XLA"
TARGETS = {"float32 Cholesky": 20, "float64 eigh": 10}  # times faster than the SVD, at the first size, on CPU
PAUSE = (
    0.3  # seconds: the threads of NumPy's and XLA's libraries spin for a while after a call, each on the other's core
)
VIT_BATCH = 111  # images a call: a ninth of 999
SIDE = 4096  # of the matrices that tell the rate of the machine
PRESETS = {
    "cpu": {"sizes": [(576, 14_400)], "repeats": 2},
    "gpu": {"vit": True, "vit_depth": 12, "vit_images": 999},
}


def activations(d: int, n: int) -> np.ndarray:
    """Rows (n, d) whose energies fall as 1/k, float32."""
    return np.random.default_rng(0).standard_normal((n, d), np.float32) / np.sqrt(1 + np.arange(d, dtype=np.float32))


def gram(x: jax.Array, dtype: str) -> moments.Floats:
    """X'X over chunks of rows."""
    chunks = x.reshape(-1, math.gcd(CHUNK, len(x)), x.shape[1])
    start = moments.zeros(x.shape[1], dtype=dtype)
    return jax.lax.scan(lambda t, c: (moments.merge(t, moments.from_rows(c, dtype=dtype)), None), start, chunks)[0].gram


def soften(gram: jax.Array) -> subspace.Square:
    """Soft projector, by one Cholesky solve."""
    return subspace.resolvent(gram, ALPHA)


def cut(gram: jax.Array) -> subspace.Square:
    """Projector onto the share ENERGY, by eigh."""
    return subspace.projector(subspace.from_gram(gram, energy=ENERGY))


def route(x: np.ndarray, finish: Callable, dtype: str) -> tuple[Callable, int]:
    """The Gram, then what is made of it; the larger temporary memory of the two programs."""
    wide = dtype == "float64"
    summed, memory = compiled(functools.partial(gram, dtype=dtype), x, wide=wide)
    finished, more = compiled(finish, np.zeros((x.shape[1],) * 2, dtype), wide=wide, free=True)
    return lambda: finished(jax.block_until_ready(summed())), max(memory, more)  # `capture.collect` waits too


def oracles(x: np.ndarray) -> dict[str, np.ndarray]:
    """Both projectors from a float64 SVD of the rows, through their R: the same values and right vectors, sooner."""
    _, s, vt = np.linalg.svd(np.linalg.qr(x.astype(np.float64), mode="r"))
    p = s**2 / (s**2).sum()
    kept = vt[: np.searchsorted(p.cumsum(), ENERGY) + 1]
    return {"float32 Cholesky": (vt.T * (ALPHA * p / ((ALPHA - 1) * p + 1))) @ vt, "float64 eigh": kept.T @ kept}


def compiled(fn: Callable, *arguments: Any, wide: bool = False, free: bool = False) -> tuple[Callable, int]:
    """The call, on these arguments or (free) on any like them, and its temporary memory in bytes."""
    with jax.enable_x64(wide):
        arguments = jax.device_put(arguments)
        program = jax.jit(fn).lower(*arguments).compile()
    memory = program.memory_analysis()
    call = program if free else lambda: program(*arguments)
    return call, memory.temp_size_in_bytes if memory else 0


def timings(calls: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """Seconds a call, in turns; what is called was compiled before."""
    seconds = {name: np.zeros(repeats) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name][turn] = time.perf_counter() - started
    return seconds


def routes(d: int, n: int, repeats: int, *, check: bool) -> dict[str, dict]:
    """Seconds, speed against the SVD, temporary memory, and, where asked for, the error of each route."""
    x = activations(d, n)
    programs = {
        "float32 Cholesky": route(x, soften, "float32"),
        "float64 eigh": route(x, cut, "float64"),
        XLA_SVD: compiled(functools.partial(jnp.linalg.svd, full_matrices=False), x.T.copy()),
        SVD: (functools.partial(np.linalg.svd, x.T.copy(), full_matrices=False), None),
    }
    calls = {name: call for name, (call, _) in programs.items()}
    seconds = timings(calls, repeats)
    expected = oracles(x) if check else {}
    rows = {}
    for name, (call, memory) in programs.items():
        error = None
        if name in expected:
            error = float(np.linalg.norm(np.asarray(call()) - expected[name]) / np.linalg.norm(expected[name]))
        rows[name] = {
            "seconds": float(np.median(seconds[name])),
            "times_faster": float(np.median(seconds[SVD] / seconds[name])),
            "of_xla": float(np.median(seconds[XLA_SVD] / seconds[name])),
            "temp_mib": None if memory is None else memory / 2**20,
            "error": error,
        }
    return rows


def growth(repeats: int, batch: int = 64) -> dict[str, dict]:
    """Capture of all kernels of a LeNet-5 over more samples, of wider networks: one program a row."""
    calls, rows = {}, {}
    for batches, factor in ((1, 1), (4, 1), (16, 1), (4, 2), (4, 4)):
        model = nn.build("lenet5", filters=(6 * factor, 16 * factor))
        x = np.random.default_rng(0).standard_normal((batches, batch, 28, 28, 1), np.float32)
        variables = jax.jit(model.init)(jax.random.key(0), x[0])

        def stream(variables: Any, x: jax.Array, model: nn.Model = model) -> Any:
            def more(total: Any, part: jax.Array) -> tuple[Any, None]:
                return moments.merge(total, capture.observe(model.apply, variables, part)[1]), None

            blank = jax.eval_shape(lambda: capture.observe(model.apply, variables, x[0])[1])
            return jax.lax.scan(more, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), blank), x)[0]

        name = f"samples {batches * batch}, width x{factor}"
        calls[name], memory = compiled(stream, variables, x)
        table = capture.layers(model.apply, variables, x[0])
        kept = 4 * batches * sum(layer.rows * layer.d_in for path, layer in table.items() if layer.shares == path)
        rows[name] = {"temp_mib": memory / 2**20, "activations_mib": kept / 2**20}
    seconds = timings(calls, repeats)
    return {name: {"milliseconds": 1e3 * float(np.median(seconds[name]))} | row for name, row in rows.items()}


def vit(depth: int, images: int, repeats: int) -> dict[str, float]:
    """One class unlearned from a ViT-B/16 of random weights: two passes over the images, then all kernels edited.

    Counted are the Grams, the products of the layers and the solves, not the products of the attention; the rate is
    that of one large product at the precision of the Grams. `cpu_seconds` are those of all threads, which other
    processes on the machine do not stretch.
    """
    model, batch = nn.build("vit_b16", classes=1000, depth=depth), min(images, VIT_BATCH)
    x = jax.random.normal(jax.random.key(0), (2, batch, 224, 224, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x[0, :1])
    table = capture.layers(model.apply, variables, x[0])
    sums = jax.eval_shape(lambda v, x: capture.observe(model.apply, v, x)[1], variables, x[0])
    first = jax.jit(lambda v, x: capture.observe(model.apply, v, x)[1]).lower(variables, x[0]).compile()
    add = jax.jit(moments.merge, donate_argnums=0).lower(sums, sums).compile()
    edit = jax.jit(lambda v, retain, forget: class_projection.unlearn_classes(table, v, retain, forget))
    edit = edit.lower(variables, sums, sums).compile()  # not called before it is timed: it takes minutes on a CPU

    def measure(x: jax.Array) -> Any:
        total = first(variables, x)
        for _ in range(images // batch - 1):
            total = add(total, first(variables, x))
        return total

    def measured_edit() -> Any:
        started = time.process_time()
        edited = jax.block_until_ready(edit(variables, measure(x[0]), measure(x[1])))
        cpu_seconds.append(time.process_time() - started)
        return edited

    cpu_seconds: list[float] = []
    factor = jax.random.normal(jax.random.key(2), (SIDE, SIDE))
    product = jax.jit(functools.partial(jnp.matmul, precision="highest"))
    calls = {
        "edit": measured_edit,
        "product": lambda: product(factor, factor),
    }
    jax.block_until_ready(calls["product"]())
    seconds = timings(calls, repeats)
    distinct = [layer for path, layer in table.items() if layer.shares == path]
    flops = 4 * (images // batch) * sum(layer.rows * layer.d_in**2 for layer in distinct)
    flops += 4 * (images // batch) * sum(layer.rows * layer.d_in * layer.d_out for layer in table.values())
    flops += 2 * sum(7 / 3 * layer.d_in**3 for layer in distinct)
    flops += 4 * sum(layer.d_in**2 * layer.d_out for layer in table.values())
    rate = 2 * SIDE**3 / np.median(seconds["product"])
    measured = float(np.median(seconds["edit"]))
    return {
        "kernels": len(table), "inputs": len(distinct), "images": images // batch * batch, "seconds": measured,
        "cpu_seconds": float(np.median(cpu_seconds)), "tflop": flops / 1e12, "tflop_per_second": rate / 1e12,
        "of_its_flops": measured * rate / flops,
    }  # fmt: skip


def claims(rows: dict[str, dict]) -> list[dict]:
    """What must hold on a CPU, as {name, value, threshold, holds}."""
    if jax.default_backend() != "cpu":
        return []
    values = {name: (rows[name]["times_faster"], least) for name, least in TARGETS.items()}
    return [
        {"name": f"{name}, times faster than the released SVD, at least", "value": v, "threshold": t, "holds": v >= t}
        for name, (v, t) in values.items()
    ]


def main(args: argparse.Namespace) -> dict:
    device = jax.devices()[0].device_kind
    report = header("subspace", args) | {"routes": {}}
    for number, (d, n) in enumerate(args.sizes):
        rows = routes(d, n, args.repeats if number == 0 else 1, check=number == 0)
        show(f"rows (n = {n:,}, d = {d}) to a projector, on {device}", rows)
        report["routes"][f"{d} x {n}"] = rows
    report["claims"] = claims(next(iter(report["routes"].values())))
    for claim in report["claims"]:
        print("{name} {threshold}: {value:.1f}, {holds}".format_map(claim))
    report["growth"] = growth(args.repeats)
    show("capture of LeNet-5: one program over all batches", report["growth"])
    if args.vit:
        report["vit"] = vit(args.vit_depth, args.vit_images, args.repeats)
        show(f"an edit of ViT-B/16, {args.vit_depth} blocks", {"measured": report["vit"]})
    return report


def size(text: str) -> tuple[int, int]:
    d, _, n = text.partition("x")
    return int(d), int(n)


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios = [
        Ratio(f"rows to a projector, {name}, {size}", kind, other, 1e3 * row["seconds"], row[column])
        for size, rows in report["routes"].items()
        for name, row in rows.items() if name in TARGETS
        for kind, other, column in (("authors", SVD, "times_faster"), ("peer", XLA_SVD, "of_xla"))
    ]  # fmt: skip
    if vit := report.get("vit"):
        products = "its operations at the measured rate"
        ratios.append(Ratio("an edit of ViT-B/16", "limit", products, 1e3 * vit["seconds"], 1 / vit["of_its_flops"]))
    samples = {name: row for name, row in report["growth"].items() if name.endswith("width x1")}
    widths = {name.split(", ")[1]: row for name, row in report["growth"].items() if name.startswith("samples 256")}
    what = "capture of LeNet-5"
    return Summary(
        ratios, [*curve(what, "samples", samples, "milliseconds"), *curve(what, "width", widths, "milliseconds")]
    )


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--sizes", nargs="+", type=size, default=[(576, 14_400), (576, 57_600), (1152, 14_400)],
                        help="features x rows; the first in --repeats turns, with errors, the others in one")
    found.add_argument("--repeats", type=int, default=5, help="turns of the timing; medians are shown (%(default)s)")
    found.add_argument("--vit", action=argparse.BooleanOptionalAction, default=False, help="(%(default)s)")
    found.add_argument("--vit-depth", type=int, default=1, help="blocks (%(default)s)")
    found.add_argument("--vit-images", type=int, default=8, help="of each set (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
