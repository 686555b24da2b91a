"""What does gradient projection cost: after a task against the released way, in a training step against its FLOPs.

    uv run python -m benchmarks.continual                      # 1 to 2 min on 2 cores
    expected: bases after a task much faster than by the released way, with the same result; a projection <= 1.5 times
              the time of its own products at the rate of the machine

After a task: ours from the samples to the grown bases (capture, float64 Grams, eigh), compiled before. The released
way: patches by Python loops over samples and positions, then two SVDs of the activation matrix a layer, in NumPy; its
forward pass is not counted. In a step: `projection.project` alone, in a compiled loop, against the cheaper of
2 d^2 d_out (dense) and 4 d k d_out (by the basis) operations at the rate of a product of the same sizes.
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Ratio, Summary, header, run
from subspace_jax import nn
from subspace_jax.continual import gpm, projection
from subspace_jax.core import capture
from subspace_jax.core.subspace import Subspace

ENERGY, NETWORK, SIDE = 0.97, "alexnet", 32
SHAPES = (784, 100, 300), (576, 128, 300), (1024, 2048, 250), (2048, 2048, 250)  # d, d_out, k: MLP, conv, dense
STEPS = 20  # of one compiled loop
PRESETS = {"cpu": {"repeats": 5}, "gpu": {"samples": 125}}


def patches_by_loops(x: np.ndarray, kernel: int) -> np.ndarray:
    """(features, rows): one column an output position, copied one by one as in the released scripts."""
    n, height, _, channels = x.shape
    side = height - kernel + 1
    matrix, k = np.zeros((kernel * kernel * channels, side * side * n), np.float32), 0
    for sample in range(n):
        for i in range(side):
            for j in range(side):
                matrix[:, k] = x[sample, i : i + kernel, j : j + kernel].reshape(-1)
                k += 1
    return matrix


def grow_by_svds(basis: np.ndarray, r: np.ndarray) -> np.ndarray:
    """GPM's growth (eq. 9) by two SVDs, the first for ||R||^2 alone."""
    total = (np.linalg.svd(r, full_matrices=False)[1] ** 2).sum()
    outside = r - basis @ (basis.T @ r)
    u, s, _ = np.linalg.svd(outside, full_matrices=False)
    kept = 1 - (s**2).sum() / total + np.concatenate([[0], np.cumsum(s**2)[:-1] / total])
    return np.hstack([basis, u[:, kept < ENERGY]])


def after_a_task(samples: int) -> dict[str, dict]:
    """Seconds of both ways for the second task of an AlexNet, layer by layer for the released one."""
    model = nn.build(NETWORK, norm="none")
    tasks = np.random.default_rng(0).random((2, samples, SIDE, SIDE, 3), np.float32) - 0.5
    tasks[1, ..., :2] *= 0.1  # another colour: the tasks share a part of their spaces
    variables = jax.jit(model.init)(jax.random.key(0), tasks[0, :1])
    table = capture.layers(model.apply, variables, tasks[0])
    own = [path for path in table if not path.startswith("head")]
    bases = gpm.init(capture.Layers({path: table[path] for path in own}, ()))

    def learn(bases: dict[str, Subspace], x: np.ndarray) -> dict[str, Subspace]:
        moments = capture.collect(model.apply, variables, [x], layers=own, dtype="float64")
        return gpm.update(bases, moments, energy=ENERGY)

    first = learn(bases, tasks[0])
    learn(first, tasks[1])  # compiles
    started = time.perf_counter()
    second = jax.block_until_ready(learn(first, tasks[1]))
    ours = time.perf_counter() - started
    theirs, stages = 0.0, jax.device_get(model.features(variables, tasks[1]))
    inputs = dict(zip(own, [tasks[1], *(stages[name] for name in list(stages)[: len(own) - 1])], strict=True))
    for path in own:
        x, started = inputs[path], time.perf_counter()
        convolution = table[path].kind == "conv"
        r = patches_by_loops(x, int(np.sqrt(table[path].d_in // x.shape[-1]))) if convolution else _rows(x)
        old = np.asarray(first[path].basis[:, : int(first[path].rank)])
        grown = grow_by_svds(old, r)
        theirs += time.perf_counter() - started
        check(path, grown, second[path], r)
    return {"task": {"ours": ours, "released": theirs, "times_faster": theirs / ours, "samples": samples}}


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).T


def check(path: str, grown: np.ndarray, space: Subspace, r: np.ndarray) -> None:
    """Both hold the same share of the task, with as many directions; near the threshold one may differ by rounding."""
    basis = np.asarray(space.basis, np.float64)
    ranks = grown.shape[1], int(space.rank)
    shares = [float((np.square(m.T @ r)).sum() / np.square(r).sum()) for m in (grown, basis)]
    if abs(ranks[0] - ranks[1]) > 1 or abs(shares[0] - shares[1]) > 1e-3:
        raise AssertionError(f"{path}: ranks {ranks}, shares {shares} differ between the two ways.")


def in_a_step(repeats: int, shapes: Any = SHAPES) -> dict[str, dict]:
    """Seconds of one projection, and of its cheaper product alone."""
    rows = {}
    for d, n, k in shapes:
        kernel = jax.random.normal(jax.random.key(0), (d, n))
        basis = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (d, k)))[0]
        space = Subspace(jnp.pad(basis, ((0, 0), (0, d - k))), jnp.int32(k))
        table = capture.layers(lambda p, x: x @ p["kernel"], {"kernel": kernel}, jnp.zeros((1, d)))
        plan = projection.plan(table, heads=(), freeze=False)

        def project(kernel, space, plan=plan):
            step = lambda _, g: projection.project(plan, {"kernel": g}, {"kernel": space})["kernel"] + kernel  # noqa: E731
            return jax.lax.fori_loop(0, STEPS, step, kernel)

        def share(kernel, left, right):
            step = lambda _, g: kernel - jnp.matmul(left, jnp.matmul(right, g))  # noqa: E731
            return jax.lax.fori_loop(0, STEPS, step, kernel)

        dense, thin = 2 * d * d * n, 4 * d * k * n
        cheaper = (jnp.eye(d), basis @ basis.T) if dense < thin else (basis, basis.T)
        only = jax.jit(lambda kernel, p: jax.lax.fori_loop(0, STEPS, lambda _, g: kernel - p @ g, kernel))
        calls = {
            "project": (jax.jit(project), (kernel, space)),
            "share": (only, (kernel, cheaper[1])) if dense < thin else (jax.jit(share), (kernel, *cheaper)),
        }
        seconds = {name: np.zeros(repeats) for name in calls}
        for turn in range(-1, repeats):  # the first turn compiles
            for name, (fn, arguments) in calls.items():
                started = time.perf_counter()
                jax.block_until_ready(fn(*arguments))
                if turn >= 0:
                    seconds[name][turn] = (time.perf_counter() - started) / STEPS
        rows[f"{d} x {n}, rank {k}"] = {
            "milliseconds": 1e3 * float(np.median(seconds["project"])),
            "share_milliseconds": 1e3 * float(np.median(seconds["share"])),
            "ratio": float(np.median(seconds["project"] / seconds["share"])),
            "mflop": min(dense, thin) / 1e6,
        }
    return rows


def main(args: argparse.Namespace) -> dict:
    report = header("continual", args)
    report["after"] = after_a_task(args.samples)
    report["step"] = in_a_step(args.repeats)
    for part in ("after", "step"):
        for name, row in report[part].items():
            print(f"{name:26s}" + "".join(f"  {key} {value:.4g}" for key, value in row.items()), flush=True)
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    task = report["after"]["task"]
    ratios = [Ratio(f"bases after a task, {NETWORK}, {task['samples']} samples", "authors", "patches by loops, SVDs",
                    1e3 * task["ours"], task["times_faster"])]  # fmt: skip
    ratios += [
        Ratio(f"a projection, {name}", "limit", "its products alone", row["milliseconds"], 1 / row["ratio"])
        for name, row in report["step"].items()
    ]
    return Summary(ratios, [])


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--samples", type=int, default=24, help="of each task (%(default)s)")
    found.add_argument("--repeats", type=int, default=7, help="turns of the timing; medians are shown (%(default)s)")
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
