"""What does a detector cost beside the forward pass: measured against predicted, and against a peer.

    uv run python -m benchmarks.ood                       # a small CNN on 2 cores, 1 min
    uv run python -m benchmarks.ood --preset gpu --out gpu.json          # a ResNet-18
    expected: the auxiliary class <= 1.02 of the operations of a forward pass, ODIN >= 3; KNN stores more than 1,000
              times as many numbers as the auxiliary class

Random weights and inputs: cost does not depend on them. Programs are compiled first and timed in turns; ratios are
medians over the turns. of_forward is the time of a forward pass and the detector together, over that of the pass alone
(ODIN takes the place of the pass; the auxiliary class is a network with one output more); flops are those that the
compiler counts, per input, without exponentials, sorting and the loops of libraries. Where pytorch-ood can be imported
its scores of the same outputs stand beside ours, with the rank correlation of both.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.table import Ratio, Summary, absent, header, run, show, tell
from subspace_jax import nn
from subspace_jax.core import capture, costs, metrics
from subspace_jax.ood import ash, detectors, knn, mahalanobis, norm_scaling, odin, react, scores, vim
from subspace_jax.ood.detectors import Outputs

CLASSES = 10
SHAPES = {
    "mlp": (8, 8, 1), "cnn2": (28, 28, 1), "lenet5": (28, 28, 1), "resnet20": (32, 32, 3), "resnet18": (32, 32, 3),
}  # fmt: skip
TARGETS = {"aux of_forward flops, negated": -1.02, "odin of_forward flops": 3.0, "numbers stored, knn over aux": 1000.0}
NEIGHBOURS = 50
SLOWEST = "vim", "mahalanobis", "knn", "odin"
PRESETS = {
    "cpu": {"samples": 2560, "repeats": 10},
    "gpu": {"network": "resnet18", "samples": 51_200},
}


def program(fn: Callable, *arguments: Any) -> tuple[Callable, float]:
    """The compiled call on these arguments, and the operations that the compiler counts."""
    arguments = jax.device_put(arguments)
    compiled = jax.jit(fn).lower(*arguments).compile()
    counted = compiled.cost_analysis() or {}
    counted = counted[0] if isinstance(counted, list) else counted
    return lambda: compiled(*arguments), float(counted.get("flops", np.nan))


def outputs_of(model: nn.Model, variables: Any, x: Any) -> Outputs:
    """Logits and penultimate features."""
    stages = model.features(variables, x)
    return Outputs(stages["logits"], {"penultimate": stages["penultimate"]})


def candidates(head: Any, apply: Callable) -> dict[str, detectors.Detector]:
    """All that look at outputs, and odin."""
    return {
        "msp": scores.msp(), "maxlogit": scores.maxlogit(), "energy": scores.energy(), "entropy": scores.entropy(),
        "gen": scores.gen(), "norm": norm_scaling.norm_scaling("norm"), "react": react.react(head),
        "ash_s": ash.ash(head), "vim": vim.vim(head), "mahalanobis": mahalanobis.mahalanobis(),
        "knn": knn.knn(k=NEIGHBOURS), "odin": odin.odin(apply),
    }  # fmt: skip


def measure(args: argparse.Namespace) -> tuple[dict[str, dict], dict[str, dict], dict[str, str]]:
    """Rows of our detectors, rows of the peer, its versions."""
    if args.samples % args.batch:
        raise SystemExit(f"--samples are whole batches of {args.batch}; got {args.samples}.")
    shape, rng = SHAPES[args.network], np.random.default_rng(0)
    x = rng.standard_normal((args.samples, *shape), np.float32)
    model, wider = (nn.build(args.network, classes=CLASSES + more) for more in (0, 1))
    variables, wide = (jax.jit(net.init)(jax.random.key(0), x[:1]) for net in (model, wider))
    forward, counted = program(lambda v, x: tuple(outputs_of(model, v, x)), variables, x[: args.batch])
    again, more = program(lambda v, x: tuple(outputs_of(wider, v, x)), wide, x[: args.batch])
    read = jax.jit(lambda v, x: outputs_of(model, v, x))
    train = jax.device_get([read(variables, part) for part in np.split(x, len(x) // args.batch)])
    train = jax.tree.map(lambda *leaves: np.concatenate(leaves), *train)
    label = np.arange(len(x)) % CLASSES
    test = jax.device_get(read(variables, x[: args.batch]))
    test = test._replace(features=test.features | {"input": x[: args.batch]})
    head = variables["params"]["head"]
    listed = candidates((head["kernel"], head["bias"]), lambda x: model.apply(variables, x))
    states = {name: detector.fit(train, label) for name, detector in listed.items()}
    programs = {name: program(listed[name].score, states[name], test) for name in listed}
    ours = {name: np.asarray(call()) for name, (call, _) in programs.items()}
    theirs, versions = peer(train, label, test)
    calls = {"forward": forward, "aux": again} | {name: call for name, (call, _) in programs.items()}
    seconds = timings(calls | {f"peer {name}": call for name, call in theirs.items()}, args.repeats)
    sizes = detectors.Sizes(
        CLASSES,
        head["kernel"].shape[0],
        len(x),
        x[0].size,
        2 * costs.macs(capture.layers(model.apply, variables, x[:1])),
    )
    flops = {name: count / args.batch for name, (_, count) in programs.items()} | {"aux": (more - counted) / args.batch}
    base, rows = counted / args.batch, {}
    for name in (*listed, "aux"):
        cost = listed[name].cost(sizes) if name in listed else detectors.Cost(2 * sizes.width, sizes.width + 1)
        whole = seconds[name] if name in ("odin", "aux") else seconds["forward"] + seconds[name]
        alone = flops[name] - base if name == "odin" else flops[name]
        rows[name] = {
            "of_forward": float(np.median(whole / seconds["forward"])),
            "of_forward_flops": 1 + alone / base,
            "of_forward_predicted": 1 + cost.flops / sizes.forward,
            "flops": alone, "flops_predicted": cost.flops, "floats": cost.floats,
            "microseconds": 1e6 * float(np.median(seconds[name])) / args.batch,
        }  # fmt: skip
    rows |= {"forward": dict.fromkeys(next(iter(rows.values())), None) | {
        "flops": base, "flops_predicted": sizes.forward,
        "microseconds": 1e6 * float(np.median(seconds["forward"])) / args.batch}}  # fmt: skip
    beside = {
        name: {
            "microseconds": rows[name]["microseconds"],
            "peer_microseconds": 1e6 * float(np.median(seconds[f"peer {name}"])) / args.batch,
            "times_faster": float(np.median(seconds[f"peer {name}"] / seconds[name])),
            "rank_correlation": float(metrics.spearman(ours[name], -call().astype(np.float32))),
        }
        for name, call in theirs.items()
    }
    return rows, beside, versions


def peer(train: Outputs, label: np.ndarray, test: Outputs) -> tuple[dict[str, Callable], dict[str, str]]:
    """pytorch-ood's calls by our names, and its versions; none where anything fails to be imported."""
    try:
        from benchmarks import ood_torch
    except Exception as error:  # a peer that is broken on this machine is no reason to stop
        absent("pytorch-ood", error)
        return {}, {}
    sides = [(np.array(one.logits), np.array(one.features["penultimate"])) for one in (train, test)]
    return ood_torch.calls(sides[0], label, sides[1], k=NEIGHBOURS), ood_torch.VERSIONS


def timings(calls: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """Seconds a call, in turns; what is called was compiled before."""
    seconds = {name: np.zeros(repeats) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            jax.block_until_ready(call())  # what ran before it leaves caches and threads as it likes
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name][turn] = time.perf_counter() - started
    return seconds


def claims(rows: dict[str, dict]) -> list[dict]:
    """What must hold on any machine, in operations and numbers, as {name, value, threshold, holds}."""
    aux, knn = rows["aux"], rows["knn"]
    values = -aux["of_forward_flops"], rows["odin"]["of_forward_flops"], knn["floats"] / aux["floats"]
    return [
        {"name": name, "value": value, "threshold": least, "holds": value >= least}
        for (name, least), value in zip(TARGETS.items(), values, strict=True)
    ]


def main(args: argparse.Namespace) -> dict:
    device = jax.devices()[0].device_kind
    rows, beside, versions = measure(args)
    report = header("ood", args) | {"peer": versions, "detectors": rows}
    show(f"{args.network}, {args.samples:,} samples fitted on, batch {args.batch}, per input, on {device}", rows)
    if beside:
        report["pytorch-ood"] = beside
        show(f"beside pytorch-ood {versions}", beside)
    report["claims"] = claims(rows)
    tell(report["claims"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    network, batch = report["arguments"]["network"], report["arguments"]["batch"]
    ms = {name: 1e-3 * batch * row["microseconds"] for name, row in report["detectors"].items()}
    ratios = [
        Ratio(f"{name}, {network}", "peer", "pytorch-ood", ms[name], row["times_faster"])
        for name, row in report.get("pytorch-ood", {}).items()
    ] + [
        Ratio(f"{name} with its forward pass, {network}", "limit", "the pass alone",
              ms["forward"] * row["of_forward"], 1 / row["of_forward"])
        for name, row in report["detectors"].items() if name in SLOWEST
    ]  # fmt: skip
    return Summary(ratios, [])


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--network", choices=list(SHAPES), default="cnn2", help="(%(default)s)")
    found.add_argument("--samples", type=int, default=5_120, help="fitted on (%(default)s)")
    found.add_argument("--batch", type=int, default=128, help="inputs scored in a call (%(default)s)")
    found.add_argument("--repeats", type=int, default=20, help="turns of the timing (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
