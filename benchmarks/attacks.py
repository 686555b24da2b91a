"""What does an attack cost beside a peer's, beside the machine's limit, and as networks, steps and images grow?

    uv run python -m benchmarks.attacks                   # an MLP on 360 images of 8x8 pixels, 2 min on 2 cores
    uv run python -m benchmarks.attacks --widths 512 512 --images 2000 --out attacks.json
    expected: PGD 4 times as fast as foolbox's on a jitted network or more; the transfer matrix of all strengths as one
              program no slower than a loop that attacks each source once

Random weights and images: cost does not depend on them. Programs are compiled first and timed in turns; ratios are
medians over the turns. pgd: 20 steps from the same start, whose examples are compared; the limit is the rate of a large
matrix product in the same run, of which an attack needs a forward pass and a backward pass to the pixels a step.
transfer: counts of all pairs at all strengths, which are compared too. neighbours: the k nearest entries of a table, at
once and 500 entries at a time, over the product of inputs and table alone.
"""

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.spiking import turns
from benchmarks.table import Ratio, Summary, absent, curve, header, run, show, tell
from subspace_jax import nn, trees
from subspace_jax.core import attacks, capture, costs, keys
from subspace_jax.nn.layers.neighborhood import nearest
from subspace_jax.robustness import trend

TARGETS = {
    "foolbox's PGD on a jitted network over ours": 4.0,
    "a loop over sources over one program, transfer counts": 1.0,
}
EPS, STEPS, SIDE, LIMIT = 0.1, 20, 8, 1024
STRENGTHS = 0.025, 0.05, 0.075, 0.1
APART = 0.05  # by which the networks of one family differ, in units of their weights
WIDTH, NEIGHBORS, CHUNK = 256, 10, 500
Rows = dict[str, dict[str, float]]
PRESETS = {
    "cpu": {"models": 6, "entries": [500, 2000, 8000], "repeats": 5},
    "gpu": {"widths": [1024, 1024], "images": 10_000, "models": 16, "entries": [2000, 8000, 32_000, 128_000]},
}


def family(args: argparse.Namespace, models: int) -> tuple[nn.Model, Any]:
    """A network and stacked variables of some that are alike."""
    model = nn.build("mlp", widths=tuple(args.widths))
    base = jax.jit(model.init)(jax.random.key(0), np.zeros((1, SIDE, SIDE, 1), np.float32))
    leaves, shape = jax.tree.flatten(base)
    rng = np.random.default_rng(0)
    drawn = [leaf[None] * (1 + APART * rng.standard_normal((models, *leaf.shape), np.float32)) for leaf in leaves]
    return model, jax.tree.unflatten(shape, drawn)


def case(model: nn.Model, variables: Any, count: int) -> tuple[Any, jax.Array, jax.Array]:
    """Keys, images, and the first network's answers as labels."""
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(count, SIDE, SIDE, 1)), jnp.float32)
    first = jax.tree.map(lambda leaf: leaf[0], variables)
    return keys.sample_keys(jax.random.key(0), np.arange(count)), x, model.apply(first, x).argmax(1)


def flops(model: nn.Model, one: Any, x: jax.Array, steps: int) -> int:
    """Of gradient steps on all images: two products a layer, one forward and one back to its input."""
    return 4 * costs.macs(capture.layers(model.apply, one, x[:1])) * len(x) * steps


def beside_peer(args: argparse.Namespace) -> Rows:
    """PGD here and in foolbox, from the image itself."""
    model, variables = family(args, 1)
    own_keys, x, y = case(model, variables, args.images)
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    attack, fn = attacks.pgd(steps=STEPS, random_start=False), jax.tree_util.Partial(model.apply, one)
    calls: dict[str, Callable] = {"ours": lambda: attacks.run(own_keys, attack, fn, x, y, eps=EPS)}
    calls |= foolbox_calls(fn, x, y)
    made = {name: np.asarray(call()) for name, call in calls.items()}
    for name, examples in made.items():
        np.testing.assert_allclose(examples, made["ours"], atol=1e-5, err_msg=name)
    square = jnp.ones((LIMIT, LIMIT))
    product = jax.jit(jnp.matmul)
    seconds = turns(calls | {"limit": lambda: product(square, square)}, args.repeats)
    rate = 2 * LIMIT**3 / float(np.median(seconds["limit"]))
    work = flops(model, one, x, STEPS)
    return {
        name: {
            "ms": 1e3 * float(np.median(seconds[name])),
            "over ours": float(np.median(np.divide(seconds[name], seconds["ours"]))),
            "share of the limit": work / float(np.median(seconds[name])) / rate,
        }
        for name in calls
    }


def foolbox_calls(fn: Callable, x: jax.Array, y: jax.Array) -> dict[str, Callable]:
    """The same steps in foolbox, its network compiled and not; nothing where it cannot be imported."""
    try:
        import foolbox
    except Exception as error:  # a peer that is broken on this machine is no reason to stop
        absent("foolbox", error)
        return {}
    attack = foolbox.attacks.LinfPGD(rel_stepsize=1 / 8, steps=STEPS, random_start=False)

    def call(network: Callable) -> Callable:
        peer = foolbox.JAXModel(network, bounds=(0, 1))
        return lambda: attack.run(peer, x, y, epsilon=EPS)

    return {"foolbox, network jitted": call(jax.jit(fn)), "foolbox": call(fn)}


def one_program(model: nn.Model, attack: attacks.Attack) -> Callable:
    """(variables, keys, x, y, strengths) -> counts (strengths, sources, targets), all in one program."""

    def examples(one, own_keys, x, y, eps):
        return attacks.run(own_keys, attack, jax.tree_util.Partial(model.apply, one), x, y, eps=eps)

    def right(variables, x, y):
        return jax.vmap(lambda one: model.apply(one, x).argmax(1) == y)(variables)

    def counts(variables, own_keys, x, y, strengths):
        clean = right(variables, x, y)

        def at(eps):
            made = jax.vmap(examples, (0, None, None, None, None))(variables, own_keys, x, y, eps)
            answers = jax.vmap(right, (None, 0, None))(variables, made, y)
            fell = clean & ~answers[jnp.arange(len(clean)), jnp.arange(len(clean))]
            return (fell[:, None] & clean[None] & ~answers).sum(2)

        return jax.lax.map(at, strengths)

    return jax.jit(counts)


def loop(model: nn.Model, attack: attacks.Attack, variables: Any, own: tuple, *, again: bool = False) -> np.ndarray:
    """The same counts, by compiled calls a network at a time; again: each source is attacked anew for each target."""
    own_keys, x, y = own
    everyone = [jax.tree_util.Partial(model.apply, one) for one in trees.unstack(variables)]
    clean = np.stack([np.asarray(attacks.right(own_keys, fn, x, y)) for fn in everyone])
    counts = []
    for eps in STRENGTHS:
        answers = np.zeros((len(everyone), *clean.shape), bool)
        for s, source in enumerate(everyone):
            made = attacks.run(own_keys, attack, source, x, y, eps=eps)
            for t, target in enumerate(everyone):
                if again and t:
                    made = attacks.run(own_keys, attack, source, x, y, eps=eps)
                answers[s, t] = attacks.right(own_keys, target, made, y)
        counts.append(trend.transfer_counts(clean, answers)[0])
    return np.stack(counts)


def transfers(args: argparse.Namespace) -> Rows:
    """Counts of all pairs at all strengths: one program, a loop over sources, a loop over pairs."""
    model, variables = family(args, args.models)
    own, attack = case(model, variables, args.images), attacks.pgd(steps=STEPS)
    whole, strengths = one_program(model, attack), jnp.asarray(STRENGTHS)
    calls = {
        "one program": lambda: whole(variables, *own, strengths),
        "loop over sources": lambda: loop(model, attack, variables, own),
        "loop over pairs": lambda: loop(model, attack, variables, own, again=True),
    }
    found = {name: np.asarray(call()) for name, call in calls.items()}
    np.testing.assert_array_equal(found["loop over sources"], found["loop over pairs"])
    few = 0.01 * args.images  # an image that lies on a boundary falls in one order of the sums and not in the other
    np.testing.assert_allclose(found["one program"], found["loop over pairs"], atol=few)
    seconds = turns(calls, max(2, args.repeats // 2))
    return {
        name: {
            "ms": 1e3 * float(np.median(seconds[name])),
            "over one program": float(np.median(np.divide(seconds[name], seconds["one program"]))),
        }
        for name in calls
    }


def growth(args: argparse.Namespace) -> Rows:
    """PGD with more networks, steps and images: time over that of the first row of its kind, a unit at a time."""
    calls: dict[str, tuple[str, int, Callable]] = {}
    for models in (1, 2, 4, 8):
        calls[f"{models} networks"] = "networks", models, attacked(args, models, STEPS, args.images)
    for steps in (STEPS, 2 * STEPS, 5 * STEPS):
        calls[f"{steps} steps"] = "steps", steps, attacked(args, 1, steps, args.images)
    for images in (args.images, 2 * args.images, 8 * args.images):
        calls[f"{images} images"] = "images", images, attacked(args, 1, STEPS, images)
    seconds = turns({name: call for name, (_, _, call) in calls.items()}, args.repeats)
    rows: Rows = {}
    first: dict[str, tuple[str, int]] = {}
    for name, (kind, units, _) in calls.items():
        base, least = first.setdefault(kind, (name, units))
        ratio = float(np.median(np.divide(seconds[name], seconds[base])))
        rows[name] = {"ms": 1e3 * float(np.median(seconds[name])), "over the first": ratio,
                      "a unit over the first": ratio * least / units}  # fmt: skip
    return rows


def attacked(args: argparse.Namespace, models: int, steps: int, images: int) -> Callable:
    """PGD on networks side by side, compiled."""
    model, variables = family(args, models)
    own_keys, x, y = case(model, variables, images)
    attack = attacks.pgd(steps=steps)

    def examples(one, own_keys, x, y):
        return attacks.run(own_keys, attack, jax.tree_util.Partial(model.apply, one), x, y, eps=EPS)

    program = jax.jit(jax.vmap(examples, (0, None, None, None)))
    return functools.partial(program, variables, own_keys, x, y)


def neighbours(args: argparse.Namespace) -> Rows:
    """The nearest entries of tables of several sizes."""
    rows: Rows = {}
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.standard_normal((args.images, WIDTH)), jnp.float32)
    for entries in args.entries:
        table = jnp.asarray(rng.standard_normal((entries, WIDTH)), jnp.float32)
        ways = {"ms": functools.partial(nearest, neighbors=NEIGHBORS),
                "chunked": functools.partial(nearest, neighbors=NEIGHBORS, chunk=CHUNK),
                "product": lambda h, table: jnp.matmul(h, table.T, precision="highest").max(1)}  # fmt: skip
        made = {name: jax.jit(way).lower(h, table).compile() for name, way in ways.items()}
        np.testing.assert_array_equal(made["ms"](h, table), made["chunked"](h, table))
        calls = {name: functools.partial(program, h, table) for name, program in made.items()}
        seconds = turns(calls, args.repeats)
        rows[f"{entries} entries"] = {
            "ms": 1e3 * float(np.median(seconds["ms"])), "MiB": temporary(made["ms"]),
            "over the product": float(np.median(np.divide(seconds["ms"], seconds["product"]))),
            "chunked over it": float(np.median(np.divide(seconds["chunked"], seconds["ms"]))),
            "MiB chunked": temporary(made["chunked"]),
        }  # fmt: skip
    return rows


def temporary(program: Any) -> float:
    """MiB of a program's temporary memory."""
    memory = program.memory_analysis()
    return memory.temp_size_in_bytes / 2**20 if memory else float("nan")


def claims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What must hold on a CPU; nothing of a peer that is not there."""
    values = [
        report["pgd"].get("foolbox, network jitted", {}).get("over ours"),
        report["transfer"]["loop over sources"]["over one program"],
    ]
    return [
        {"name": name, "value": value, "threshold": least, "holds": value >= least}
        for (name, least), value in zip(TARGETS.items(), values, strict=True)
        if value is not None
    ]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """All tables, printed; as JSON with --out."""
    report = header("attacks", args)
    for name, measure in {
        "pgd": beside_peer, "transfer": transfers, "growth": growth, "neighbours": neighbours,
    }.items():  # fmt: skip
        report[name] = measure(args)
        show(name, report[name])
    report["claims"] = claims(report)
    tell(report["claims"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    own, name = report["pgd"]["ours"], f"PGD, {report['arguments']['images']} images"
    ratios = [Ratio(name, "limit", "a matrix product", own["ms"], own["share of the limit"])]
    ratios += [
        Ratio(name, "peer", peer, own["ms"], row["over ours"]) for peer, row in report["pgd"].items() if peer != "ours"
    ]
    alone, pairs = report["transfer"]["one program"]["ms"], f"transfer, {report['arguments']['models']} networks"
    ratios += [
        Ratio(pairs, "plain", f"a {way}", alone, row["over one program"])
        for way, row in report["transfer"].items() if way != "one program"
    ]  # fmt: skip
    ratios += [
        Ratio(f"nearest of {size}", "limit", "the product alone", row["ms"], 1 / row["over the product"])
        for size, row in report["neighbours"].items()
    ]
    curves = curve(f"nearest {NEIGHBORS} of a table", "entries", report["neighbours"], "ms")
    for axis in ("networks", "steps", "images"):
        rows = {name: row for name, row in report["growth"].items() if name.endswith(axis)}
        curves += curve("PGD", axis, rows, "ms")
    return Summary(ratios, curves)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--widths", type=int, nargs="+", default=[256, 128], help="hidden layers of the networks")
    found.add_argument("--images", type=int, default=360, help="attacked at a time")
    found.add_argument("--models", type=int, default=9, help="networks of the transfer matrix")
    found.add_argument("--entries", type=int, nargs="+", default=[500, 2000, 8000, 32000], help="sizes of the table")
    found.add_argument("--repeats", type=int, default=9, help="turns")
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
