"""What does curvature cost: in forward passes, against the released way, against PyTorch and a general trace library?

    uv run python -m benchmarks.curvature                                       # MLP and LeNet-5, 2 min on 2 cores
    uv run python -m benchmarks.curvature --preset gpu --out gpu.json           # one GPU, with the precision frontier
    expected, 2 cores:   ggn_exact within 1.4 x of its 11 forwards; fd_norm at most .7 of the released way
    expected, one H200:  ResNet-18, against PyTorch as released: ggn_exact 4 x (TF32), 7 x (bf16), fd_norm 2 x (TF32)

Every network is trained on digits with wrong labels first. Calls are compiled, then timed in turns, so that a busy
machine slows all alike; ratios are medians over the turns. `as released` is one jitted call a probe, each with its own
base gradient: inside one program XLA would merge them. PyTorch runs where it is installed, with its default TF32
convolutions. Errors are medians, relative to `exact` on the first samples, of what estimates tr(H).
"""

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Ratio, Summary, absent, curve, header, run, show, write
from subspace_jax import data, nn, training
from subspace_jax.core import curvature, losses, metrics
from subspace_jax.core.keys import sample_keys
from subspace_jax.memorization.scores import scorer

SHAPES = {"mlp": (28, 28, 1), "lenet5": (28, 28, 1), "resnet18": (32, 32, 3), "wide_mlp": (32, 32, 3)}
ESTIMATORS = ("fd_norm", "fd_quad", "hutchinson", "hv_norm", "ggn_exact", "ggn_probe", "ggn_spectrum", "input_grad")
TRACES = ("fd_quad", "hutchinson", "ggn_exact", "ggn_probe", "ggn_spectrum", "matfree")
STEP = 1e-3
EXACT_SAMPLES, EXACT_INPUTS = 8, 1024  # a convolutional network keeps as many tangents of a sample as it has inputs
RELEASED, TORCH = "as released", "as released, torch"
CLASSES = 10
AXES = ("probes", "fd_norm"), ("classes", "ggn_exact"), ("width", "fd_norm"), ("samples", "fd_norm")
SHORTEST = 0.02  # seconds a timing lasts at least, by repetition
PRECISIONS = "highest", "tensorfloat32", "bfloat16"
PRESETS = {
    "cpu": {"parts": ["growth"], "epochs": 1, "repeats": 3},
    "gpu": {"networks": ["resnet18"], "precisions": list(PRECISIONS), "device_batch": 512},
}


class Case(NamedTuple):
    """A network, trained or not, and one batch."""

    name: str
    model: nn.Model
    variables: dict
    x: np.ndarray
    y: np.ndarray
    keys: jax.Array

    def call(self, fn: Callable) -> tuple[Callable, int]:
        """Compile fn(keys, variables, x, y) for this batch: the call, and its temporary memory in bytes."""
        arguments = jax.device_put((self.keys, self.variables, self.x, self.y))
        program = jax.jit(fn).lower(*arguments).compile()
        memory = program.memory_analysis()
        return lambda: program(*arguments), memory.temp_size_in_bytes if memory else 0

    def score(self, name: str, *, precision: str = "highest", **options) -> tuple[Callable, int]:
        """Compile one of our scores; "bfloat16" is the network computing in it."""
        model = network(self.name, dtype="bfloat16") if precision == "bfloat16" else self.model
        if name == "ggn_spectrum":
            return self.call(lambda keys, v, x, y: curvature.ggn_spectrum(model.apply, v, x, precision=precision))
        return self.call(scorer(name, model.apply, precision=precision, **options))


def network(name: str, *, factor: int = 1, classes: int = CLASSES, dtype: str = "float32") -> nn.Model:
    sizes = {
        "mlp": {"widths": (256 * factor, 128 * factor)}, "lenet5": {"filters": (6 * factor, 16 * factor)},
        "resnet18": {"width": 64 * factor}, "wide_mlp": {"widths": (4096 * factor,) * 3},
    }  # fmt: skip
    return nn.build(name.removeprefix("wide_"), classes=classes, dtype=dtype, **sizes[name])


def case(name: str, batch: int, *, epochs: int = 0, **options) -> Case:
    """Digits enlarged to the network's input, every tenth label wrong; trained for some epochs."""
    digits, shape = data.load("digits", "train"), SHAPES[name]
    x = jax.image.resize(digits["image"] / np.float32(16), (len(digits["image"]), *shape[:2], 1), "linear")
    x, model = np.repeat(np.asarray(x), shape[2], axis=3), network(name, **options)
    y = ((digits["label"] + (digits["index"] % 10 == 0)) % 10).astype(np.int32)
    recipe = training.Recipe(lr=0.02, epochs=max(epochs, 1))
    tx = training.optimizer(recipe, recipe.epochs * (len(x) // recipe.batch))
    state = training.create(jax.random.key(0), model, tx, x[:2])
    state, _ = training.fit(training.train_epoch(model, tx, batch=recipe.batch), state, (x, y), epochs=epochs)
    index, keys = np.resize(np.arange(len(x)), batch), sample_keys(jax.random.key(1), np.arange(batch))
    return Case(name, model, training.variables(state), x[index], y[index], keys)


def as_released(case: Case, probes: int) -> tuple[Callable, int]:
    """Score as the authors' scripts do: a call a probe, the base gradient every time."""
    loss = losses.cross_entropy(case.model.apply)

    def one(keys, variables, x, y):
        v = jax.random.rademacher(keys, x.shape, x.dtype)
        with jax.default_matmul_precision("highest"):
            base, moved = (jax.grad(lambda x: loss(variables, x, y).sum())(z) for z in (x, x + STEP * v))
        return jnp.sqrt(((moved - base) ** 2).reshape(len(x), -1).sum(axis=1))

    call, memory = case._replace(keys=jax.random.key(2)).call(one)
    return lambda: [call() for _ in range(probes)], memory  # one probe again and again: only its time counts


def matfree(case: Case, probes: int) -> tuple[Callable, int]:
    """Score by a general library: Hutchinson for one sample, under vmap."""
    from matfree import stochtrace

    loss = losses.cross_entropy(case.model.apply)

    def one(key, variables, x, y):
        def product(v):
            return jax.jvp(jax.grad(lambda x: loss(variables, x[None], y[None])[0]), (x,), (v,))[1]

        signs = stochtrace.sampler_signs(x, num=probes)
        return stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), signs)(product, key)

    return case.call(lambda keys, variables, x, y: jax.vmap(one, in_axes=(0, None, 0, 0))(keys, variables, x, y))


def released_torch(case: Case, probes: int) -> tuple[Callable, int]:
    """Score by the authors' way in PyTorch."""
    from benchmarks.curvature_torch import released

    return released(case.name, case.x, case.y, probes=probes, step=STEP), 0


def timings(calls: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """Seconds a call, `repeats` times each, in turns."""
    inner = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        inner[name] = 1 + int(SHORTEST / (time.perf_counter() - start))
    seconds = {name: np.zeros(repeats) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(inner[name]):
                jax.block_until_ready(call())
            seconds[name][turn] = (time.perf_counter() - start) / inner[name]
    return seconds


def estimators(on: Case, args: argparse.Namespace) -> dict[str, dict]:
    """Every estimator and every peer: the rows of the main table."""
    calls = {"forward": on.call(lambda keys, variables, x, y: on.model.apply(variables, x))}
    for precision in args.precisions:
        for quantity in ESTIMATORS:
            row = quantity if precision == "highest" else f"{quantity} {precision}"
            calls[row] = on.score(quantity, precision=precision, probes=args.probes, step=STEP)
    calls[RELEASED] = as_released(on, args.probes)
    for row, peer in {"matfree": matfree, TORCH: released_torch}.items():
        try:
            calls[row] = peer(on, args.probes)
        except ModuleNotFoundError as error:
            absent(row, error)
    seconds = timings({row: call for row, (call, _) in calls.items()}, args.repeats)
    few = on._replace(**{field: getattr(on, field)[:EXACT_SAMPLES] for field in ("x", "y", "keys")})
    exact = few.score("exact")[0]() if on.x[0].size <= EXACT_INPUTS else None
    rows = {}
    for row, (call, memory) in calls.items():
        error = None
        if row in TRACES and exact is not None:
            value = np.asarray(call())[:EXACT_SAMPLES].reshape(EXACT_SAMPLES, -1).sum(axis=1)  # sums the spectrum
            error = float(np.median(abs(value - exact) / exact))
        rows[row] = {
            "samples_per_second": args.device_batch / np.median(seconds[row]),
            "forwards": np.median(seconds[row] / seconds["forward"]),
            "of_released": np.median(seconds[row] / seconds[RELEASED]),
            "temp_mib": memory / 2**20,
            "error": error,
        }
    return rows


def growth(name: str, args: argparse.Namespace) -> dict[str, dict]:
    """Milliseconds along one axis at a time, untrained."""
    batch, calls = args.device_batch, {}

    def add(row, quantity, *, probes=args.probes, batch=batch, **options):
        calls[f"{row}: {quantity}"] = case(name, batch, **options).score(quantity, probes=probes)[0]

    for probes in (1, 3, 10, 30):
        add(f"probes {probes}", "fd_norm", probes=probes)
    for classes in (10, 100):
        for quantity in ("ggn_exact", "ggn_probe", "ggn_spectrum"):
            add(f"classes {classes}", quantity, classes=classes)
    for factor in (1, 2, 4):
        add(f"width x{factor}", "fd_norm", factor=factor)
    for samples in (batch // 4, batch, 4 * batch):
        add(f"samples {samples}", "fd_norm", batch=samples)
    return {row: {"milliseconds": 1e3 * np.median(s)} for row, s in timings(calls, args.repeats).items()}


def frontier(name: str, args: argparse.Namespace) -> dict[str, dict]:
    """Speed and Spearman of fd_norm against fp32, step 1e-3 and the same probes, over precision x step x probes."""
    grid = [(step, args.probes) for step in (STEP, 1e-2, 3e-2, 1e-1)] + [(STEP, 3)]
    on, calls = case(name, args.device_batch, epochs=args.epochs), {}
    for precision, (step, probes) in itertools.product(args.precisions, grid):
        score, _ = on.score("fd_norm", precision=precision, step=step, probes=probes)
        calls[f"{precision}, step {step:g}, probes {probes}"] = score
    seconds = timings(calls, args.repeats)
    reference = next(iter(calls.values()))()
    speeds = {row: args.device_batch / np.median(seconds[row]) for row in calls}
    agreement = {row: float(metrics.spearman(call(), reference)) for row, call in calls.items()}
    return {row: {"samples_per_second": speeds[row], "spearman": agreement[row]} for row in calls}


def claims(name: str, rows: dict[str, dict]) -> list[dict]:
    """What must hold on this backend, as {name, value, threshold, holds}."""
    found = []
    if jax.default_backend() == "cpu":
        found.append(("ggn_exact of its 11 forwards, at most", rows["ggn_exact"]["forwards"] / 11, 1.4, -1))
        found.append(("fd_norm of the released way, at most", rows["fd_norm"]["of_released"], 0.7, -1))
    elif name == "resnet18" and TORCH in rows:
        speed = {
            row: figures["samples_per_second"] / rows[TORCH]["samples_per_second"] for row, figures in rows.items()
        }
        wanted = {"ggn_exact tensorfloat32": 4, "ggn_exact bfloat16": 7, "fd_norm tensorfloat32": 2}
        found += [(f"{row} over torch, at least", speed[row], least, 1) for row, least in wanted.items() if row in rows]
    return [{"name": n, "value": v, "threshold": t, "holds": bool(sign * v >= sign * t)} for n, v, t, sign in found]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that are asked for, one after the other."""
    report: dict[str, Any] = header("curvature", args) | {"networks": {}}
    for name in args.networks:
        on = case(name, args.device_batch, epochs=args.epochs)
        rows = estimators(on, args)
        show(f"{name}, {args.device_batch} samples, {args.probes} probes, on {report['device']}", rows)
        report["networks"][name] = {"estimators": rows, "claims": claims(name, rows)}
        for claim in report["networks"][name]["claims"]:
            print("{name} {threshold}: {value:.2f}, {holds}".format_map(claim))
        write(report, args.out)
    last = args.networks[-1]
    if "growth" in args.parts:
        report["growth"] = growth(last, args)
        show(f"growth of {last}", report["growth"])
        write(report, args.out)
    if "frontier" in args.parts and len(args.precisions) > 1:
        report["frontier"] = frontier(last, args)
        show(f"frontier of {last}: speed against agreement with {args.precisions[0]}", report["frontier"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios = []
    for network, measured in report["networks"].items():
        rows = measured["estimators"]
        ms = {row: 1e3 * report["arguments"]["device_batch"] / v["samples_per_second"] for row, v in rows.items()}
        for row in (row for row in rows if row.startswith("fd_norm")):
            ratios.append(Ratio(f"{row}, {network}", "authors", RELEASED, ms[row], 1 / rows[row]["of_released"]))
            if TORCH in rows:
                ratios.append(Ratio(f"{row}, {network}", "peer", TORCH, ms[row], ms[TORCH] / ms[row]))
        passes, exact = 1 + CLASSES, rows["ggn_exact"]["forwards"]
        ratios.append(
            Ratio(f"ggn_exact, {network}", "plain", f"{passes} forward passes", ms["ggn_exact"], passes / exact)
        )
        if "matfree" in rows:
            ratios.append(
                Ratio(f"hutchinson, {network}", "peer", "matfree", ms["hutchinson"], ms["matfree"] / ms["hutchinson"])
            )
    curves, last = [], report["arguments"]["networks"][-1]
    for axis, score in AXES:
        rows = {k: v for k, v in report.get("growth", {}).items() if k.startswith(axis) and k.endswith(f" {score}")}
        curves += curve(f"{score}, {last}", axis, rows, "milliseconds")
    return Summary(ratios, curves)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--networks", nargs="+", choices=SHAPES, default=["mlp", "lenet5"],
                        help="networks to measure; growth and frontier are those of the last (%(default)s)")
    found.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["highest"],
                        help="of matrix products, bfloat16: of the network; two or more draw the frontier against "
                        "the first (%(default)s)")
    found.add_argument("--device-batch", type=int, default=64, help="samples a call (%(default)s)")
    found.add_argument("--probes", type=int, default=10, help="random directions, 10 as published")
    found.add_argument("--epochs", type=int, default=5, help="training before scoring (%(default)s)")
    found.add_argument("--repeats", type=int, default=9, help="turns of the timing; medians are shown (%(default)s)")
    found.add_argument("--parts", nargs="*", choices=["growth", "frontier"], default=["growth", "frontier"],
                        help="what follows the table of estimators (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
