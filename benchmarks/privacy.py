"""How many shadow models a minute, and what does a private step cost against an ordinary one and against jax-privacy?

    uv run python -m benchmarks.privacy                                            # 1 to 2 min on 2 cores
    uv run python -m benchmarks.privacy --networks resnet20 cnn5 --models 4 8 16 --batches 64 256 1024   # on a GPU
    expected: on a CPU about twice as many small networks a minute in one program as in a loop; a private step 10 to 100
              times an ordinary one, since it writes and reads the gradient of every sample; micro-batches bound memory

Models: `train_many` for all networks side by side (vmap), one after the other in one program (map), and one call for
each network, as a plain loop over shadow models would be, compiled once. All must have the same parameters after an
epoch. On a CPU convolutional networks are trained one by one whatever is asked for.
Step: the released gradient of one batch (clipped sum, noise, divided by the expected batch), ours whole and by
micro-batches, that of jax-privacy where it is installed, and the ordinary gradient of the mean loss. Ours and that of
jax-privacy must agree before noise. In turns; MiB: temporary memory of the program.
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.table import Ratio, Summary, absent, curve, header, number, run, show
from subspace_jax import nn, training
from subspace_jax.core import losses
from subspace_jax.privacy import clipping, noise
from subspace_jax.typing import PyTree

NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # arguments, shape of an image
    "mlp": ({"widths": (256, 128)}, (8, 8, 1)),
    "cnn5": ({"norm": "group"}, (32, 32, 3)),
    "resnet20": ({"norm": "group"}, (32, 32, 3)),
}
LR, CLIP, SIGMA = 0.05, 1.0, 1.0
AGREE = {"cpu": 1e-3, "other": 3e-2}  # of parameters after an epoch, relative; with the TF32 of a GPU
SUMMED = {"cpu": 1e-5, "other": 5e-3}  # of the largest entry of a clipped sum, relative
PRESETS = {
    "cpu": {
        "models": [4, 16], "epochs": 2, "model_repeats": 2, "batches": [32, 128], "widths": [32, 128], "repeats": 3,
    },
    "gpu": {"networks": ["resnet20", "cnn5"], "models": [4, 8, 16], "batches": [64, 256, 1024]},
}  # fmt: skip


class Problem(NamedTuple):
    """A network with initial variables, and random images with labels."""

    model: nn.Model
    variables: PyTree
    x: np.ndarray
    y: np.ndarray


def problem(network: str, samples: int, **changed: Any) -> Problem:
    arguments, shape = NETWORKS[network]
    model, rng = nn.build(network, **arguments | changed), np.random.default_rng(0)
    x, y = rng.random((samples, *shape), np.float32), rng.integers(0, 10, samples).astype(np.int32)
    return Problem(model, jax.jit(model.init)(jax.random.key(0), x[:1]), x, y)


def allowed(of: dict[str, float]) -> float:
    return of.get(jax.default_backend(), of["other"])


def apart(one: PyTree, other: PyTree) -> float:
    """Largest difference, relative to the largest entry."""
    differences = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), one, other)
    sizes = jax.tree.map(lambda a: float(np.abs(np.asarray(a)).max()), one)
    return max(jax.tree.leaves(differences)) / max(jax.tree.leaves(sizes))


def trainings(given: Problem, models: int, epochs: int, batch: int) -> dict[str, Callable]:
    """The ways to train so many networks, each on half of the samples."""
    half = len(given.y) // 2
    rng = np.random.default_rng(1)
    table = np.stack([np.sort(rng.permutation(len(given.y))[:half]) for _ in range(models)])
    tx, key, data = optax.sgd(LR, 0.9), jax.random.key(0), (given.x, given.y)
    many = functools.partial(training.train_many, key, given.model, tx, data, epochs=epochs, batch=batch)

    def one_by_one() -> PyTree:
        states = [many(table[t : t + 1], first=t)[0].params for t in range(models)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)

    return {
        "vmap": lambda: many(table)[0].params,
        "map": lambda: many(table, loop="map")[0].params,
        "loop": one_by_one,
    }


def timed(calls: dict[str, Callable], repeats: int, least: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds of each call in turns; a turn repeats a call until it lasts `least` seconds. All are compiled before."""
    seconds = {name: np.zeros(repeats) for name in calls}
    times = dict.fromkeys(calls, 1)
    for name, call in calls.items():
        jax.block_until_ready(call())
        started = time.perf_counter()
        jax.block_until_ready(call())
        times[name] = max(1, int(np.ceil(least / max(time.perf_counter() - started, 1e-6))))
    for turn in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready([call() for _ in range(times[name])][-1])
            seconds[name][turn] = (time.perf_counter() - started) / times[name]
    return seconds


def models_a_minute(network: str, counts: list[int], samples: int, epochs: int, batch: int, repeats: int) -> dict:
    """{number of models: models a minute by every way}."""
    rows, given = {}, problem(network, samples)
    for models in counts:
        calls = trainings(given, models, epochs, batch)
        ends = {name: call() for name, call in trainings(given, models, 1, batch).items()}  # later rounding grows
        for name in ("vmap", "map"):
            if not (away := apart(ends["loop"], ends[name])) < allowed(AGREE):
                raise AssertionError(
                    f"{models} models by {name} end {away:.2g} from those trained one after the other."
                )
        seconds = timed(calls, repeats)
        rate = {name: 60 * models / float(np.median(values)) for name, values in seconds.items()}
        rows[f"{models} models"] = {
            "vmap": rate["vmap"], "map": rate["map"], "loop_over_models": rate["loop"],
            "vmap_times_faster": float(np.median(seconds["loop"] / seconds["vmap"])),
            "map_times_faster": float(np.median(seconds["loop"] / seconds["map"])),
        }  # fmt: skip
    return rows


def ours(given: Problem, microbatch: int | None = None) -> Callable:
    """Our clipped sum, (params, x, y, is_padding) -> sum."""
    loss = clipping.of_params(losses.cross_entropy(given.model.apply))
    return lambda p, x, y, pad: clipping.clipped_sum(loss, p, x, y, pad, clip=CLIP, microbatch=microbatch)[0]


def peer(given: Problem) -> dict[str, Callable]:
    """That of jax-privacy under its name; nothing where it is not installed."""
    try:
        import jax_privacy
    except ImportError as error:
        absent("jax-privacy", error)
        return {}
    loss = clipping.of_params(losses.cross_entropy(given.model.apply))
    clipped = jax_privacy.clipped_grad(
        lambda p, x, y: loss(p, x, y).sum(), l2_clip_norm=CLIP, batch_argnums=(1, 2), keep_batch_dim=True
    )
    return {"jax_privacy": lambda params, x, y, is_padding: clipped(params, x, y, is_padding_example=is_padding)}


def gradients(given: Problem, microbatch: int) -> dict[str, Callable]:
    """By name, (params, x, y, is_padding) -> the gradient that an optimiser would get; all but one are private."""
    loss = clipping.of_params(losses.cross_entropy(given.model.apply))

    def released(clipped: Callable) -> Callable:
        def run(params, x, y, is_padding):
            tx = noise.gaussian_noise(jax.random.key(1), sigma=SIGMA, clip=CLIP, expected_batch=float(len(y)))
            return tx.update(clipped(params, x, y, is_padding), tx.init(params))[0]

        return run

    sums = {"ours": ours(given), "ours_microbatch": ours(given, microbatch)} | peer(given)
    mean = jax.grad(lambda params, x, y: loss(params, x, y).mean())
    found = {name: released(clipped) for name, clipped in sums.items()}
    return found | {"ordinary": lambda params, x, y, is_padding: mean(params, x, y)}


def check(given: Problem) -> None:
    """Refuse sums that are not the same; of few samples, one of them padding."""
    sums = {"ours": ours(given), "ours_microbatch": ours(given, 2)} | peer(given)
    rows = given.x[:8], given.y[:8], np.arange(8) == 3
    found = {name: jax.jit(clipped)(given.variables["params"], *rows) for name, clipped in sums.items()}
    for name, total in found.items():
        if not (away := apart(found["ours"], total)) < allowed(SUMMED):
            raise AssertionError(f"the clipped sum of {name} lies {away:.2g} from ours.")


def step_time(given: Problem, batch: int, microbatch: int, repeats: int) -> dict[str, float | None]:
    """Milliseconds and temporary MiB of one gradient."""
    x, y = jax.device_put((given.x[:batch], given.y[:batch]))
    rows = given.variables["params"], x, y, jnp.zeros(batch, bool)
    programs = {name: jax.jit(fn).lower(*rows).compile() for name, fn in gradients(given, microbatch).items()}
    seconds = timed({name: functools.partial(of, *rows) for name, of in programs.items()}, repeats, least=0.1)
    median = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    memory = {name: mebibytes(of) for name, of in programs.items()}
    ratio = seconds["jax_privacy"] / seconds["ours"] if "jax_privacy" in seconds else None
    return {
        "ordinary": median["ordinary"], "ours": median["ours"], "ours_microbatch": median["ours_microbatch"],
        "jax_privacy": median.get("jax_privacy"),
        "ours_of_ordinary": float(np.median(seconds["ours"] / seconds["ordinary"])),
        "jax_privacy_of_ours": None if ratio is None else float(np.median(ratio)),
        "ours_mib": memory["ours"], "microbatch_mib": memory["ours_microbatch"],
        "jax_privacy_mib": memory.get("jax_privacy"),
    }  # fmt: skip


def mebibytes(program: Any) -> float:
    """Temporary memory of a compiled program."""
    return program.memory_analysis().temp_size_in_bytes / 2**20


def main(args: argparse.Namespace) -> dict:
    report = header("privacy", args) | {"models": {}, "step": {}}
    for name in args.networks:
        title = f"{name}, {args.samples // 2} samples each, {args.epochs} epochs, models a minute"
        numbers = args.samples, args.epochs, args.batch, args.model_repeats
        report["models"][title] = models_a_minute(name, args.models, *numbers)
        show(title, report["models"][title])
        given = problem(name, max(args.batches))
        check(given)
        title = f"{name}, milliseconds a gradient against the batch"
        rows = {f"batch {b}": step_time(given, b, args.microbatch, args.repeats) for b in args.batches}
        report["step"][title] = rows
        show(title, rows)
    title = f"mlp, milliseconds a gradient against the width, batch {args.width_batch}"
    report["step"][title] = {
        f"width {w}": step_time(problem("mlp", args.width_batch, widths=(w, w)), args.width_batch, args.microbatch,
                                args.repeats)
        for w in args.widths
    }  # fmt: skip
    show(title, report["step"][title])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios, curves = [], []
    for title, rows in report["models"].items():
        network = title.split(",")[0]
        ms = {name: {"ms": 6e4 * number(name) / row["vmap"]} for name, row in rows.items()}
        ratios += [
            Ratio(f"training {name}, {network}", "plain", "model after model", ms[name]["ms"], row["vmap_times_faster"])
            for name, row in rows.items()
        ]
        curves += curve(f"training models, {network}", "models", ms, "ms")
    for title, rows in report["step"].items():
        what, _, axis = title.partition(", milliseconds a gradient against the ")
        for name, row in rows.items():
            gradient, ordinary = f"a private gradient, {what}, {name}", 1 / row["ours_of_ordinary"]
            ratios.append(Ratio(gradient, "plain", "the ordinary gradient", row["ours"], ordinary))
            if row["jax_privacy_of_ours"] is not None:
                ratios.append(Ratio(gradient, "peer", "jax-privacy", row["ours"], row["jax_privacy_of_ours"]))
        curves += curve(f"a private gradient, {what}", axis.split(",")[0], rows, "ours")
    return Summary(ratios, curves)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp"], help="(%(default)s)")
    found.add_argument("--models", nargs="+", type=int, default=[4, 16, 64], help="shadow models (%(default)s)")
    found.add_argument("--samples", type=int, default=1024, help="each model has half of them (%(default)s)")
    found.add_argument("--epochs", type=int, default=5, help="of a shadow model (%(default)s)")
    found.add_argument("--batch", type=int, default=32, help="of a shadow model (%(default)s)")
    found.add_argument("--model-repeats", type=int, default=3, help="turns of the trainings (%(default)s)")
    found.add_argument("--batches", nargs="+", type=int, default=[32, 128, 512], help="of a gradient (%(default)s)")
    found.add_argument("--microbatch", type=int, default=32, help="samples at a time (%(default)s)")
    found.add_argument("--widths", nargs="+", type=int, default=[32, 128, 512], help="of an mlp (%(default)s)")
    found.add_argument("--width-batch", type=int, default=128, help="samples there (%(default)s)")
    found.add_argument("--repeats", type=int, default=7, help="turns of the timing; medians are shown (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
