"""What does it cost a client to encode its update, against the local steps before it and against top-k?

    uv run python -m benchmarks.federated                                          # under 1 min on 2 cores
    uv run python -m benchmarks.federated --networks resnet8 --clients 1 10        # on a GPU
    expected: encoding takes 20 to 100 times the local epoch of a small MLP, more the more proxies, and as many times
              top-k; decoding and signs take less than the epoch; on a CPU clients one after the other are as fast as
              all in one program

Encode: `tofu.encode` of the update of one local epoch (steps x batch random images), milliseconds. Decode: what the
server does with a proxy. top_k: of the whole update in the bytes of the proxies. In turns; all are compiled before, and
1 - cos that the encoder states must be that of the decoded update. Clients: milliseconds a client of the encoder, all
clients in one program (vmap), and one after the other (map).
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.table import Ratio, Summary, curve, header, number, run, show
from subspace_jax import nn, trees
from subspace_jax.core import compress
from subspace_jax.federated import fedavg, tofu
from subspace_jax.typing import PyTree

CLASSES, LR = 10, 0.2
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {  # name and arguments in nn.build, an image
    "mlp": ("mlp", {"widths": (128, 128), "activation": "silu"}, (8, 8, 1)),
    "resnet8": ("resnet20", {"blocks": (1, 1, 1), "width": 64, "norm": "evonorm"}, (32, 32, 3)),
}
AGREE = 1e-3  # of 1 - cos, in float32
PRESETS = {
    "cpu": {"proxies": [1, 16, 64], "clients": [1, 5], "steps": 100, "repeats": 3},
    "gpu": {"networks": ["resnet8"], "clients": [1, 10]},
}


class Problem(NamedTuple):
    """A network, the samples of one local epoch, and the update that they make."""

    loss: Callable
    params: PyTree
    batch: tuple[np.ndarray, np.ndarray]
    update: PyTree
    shape: tuple[int, ...]


def problem(network: str, steps: int, batch: int) -> Problem:
    """Random images with labels, (steps, batch, ...)."""
    name, arguments, shape = NETWORKS[network]
    model, rng = nn.build(name, **arguments), np.random.default_rng(0)
    x = rng.random((steps, batch, *shape), np.float32)
    samples = x, rng.integers(0, CLASSES, (steps, batch)).astype(np.int32)
    params, loss = jax.jit(model.init)(jax.random.key(0), x[0, :1])["params"], fedavg.classification(model.apply)
    return Problem(loss, params, samples, epoch(loss)(params, samples), shape)


@functools.lru_cache
def epoch(loss: Callable) -> Callable:
    """(params, batches) -> update, compiled."""
    return jax.jit(lambda params, batches: fedavg.local_update(loss, params, batches, lr=LR)[0])


def calls(given: Problem, proxies: int, steps: int) -> dict[str, Callable]:
    """What a client and the server compute, by name."""
    found = encoder(given, proxies, steps)(jax.random.key(1), given.params, given.update)
    size, budget = compress.nbytes(given.update) // 4, compress.nbytes(found.proxy)
    kept = min(budget // 8, size - 1)
    wires = {"top_k": compress.as_vector(compress.top_k(1 - (kept + 0.5) / size)), "sign": compress.sign()}
    away = float(fedavg.distance(given.update, tofu.decode(given.loss, given.params, found.proxy)))
    if not abs(away - float(found.trace[-1])) < AGREE:
        raise AssertionError(f"{proxies} proxies: the encoder states 1 - cos {found.trace[-1]:.4g}, it is {away:.4g}.")
    return {
        "epoch": lambda: epoch(given.loss)(given.params, given.batch),
        "encode": lambda: encoder(given, proxies, steps)(jax.random.key(1), given.params, given.update),
        "decode": lambda: tofu.decode(given.loss, given.params, found.proxy),
    } | {
        name: functools.partial(jax.jit(wire.encode), jax.random.key(1), given.update) for name, wire in wires.items()
    }  # fmt: skip


def encoder(given: Problem, proxies: int, steps: int) -> Callable:
    """(key, params, update) -> Encoded."""
    sizes = {"proxies": proxies, "shape": given.shape, "classes": CLASSES, "steps": steps}
    return lambda key, params, update: tofu.encode(key, given.loss, params, update, **sizes)


def timed(of: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds of each call, in turns."""
    for call in of.values():
        jax.block_until_ready(call())
    found = {name: np.zeros(repeats) for name in of}
    for turn in range(repeats):
        for name, call in of.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            found[name][turn] = 1e3 * (time.perf_counter() - started)
    return found


def encoding(given: Problem, proxies: int, steps: int, repeats: int) -> dict[str, float]:
    """One row: medians, and ratios turn by turn."""
    taken = timed(calls(given, proxies, steps), repeats)
    found = encoder(given, proxies, steps)(jax.random.key(1), given.params, given.update)
    median = {name: float(np.median(values)) for name, values in taken.items()}
    return {
        "encode_ms": median["encode"], "decode_ms": median["decode"], "epoch_ms": median["epoch"],
        "top_k_ms": median["top_k"], "sign_ms": median["sign"],
        "encode_of_epoch": float(np.median(taken["encode"] / taken["epoch"])),
        "encode_of_top_k": float(np.median(taken["encode"] / taken["top_k"])),
        "bytes": float(compress.nbytes(found.proxy)),
        "times_smaller": compress.nbytes(given.update) / compress.nbytes(found.proxy),
        "one_minus_cos": float(found.trace[-1]),
    }  # fmt: skip


def together(given: Problem, clients: int, proxies: int, steps: int, repeats: int) -> dict[str, float]:
    """Milliseconds a client, of so many in one program and one after the other."""
    keys = jax.random.split(jax.random.key(2), clients)
    params, update = (trees.stack([tree] * clients) for tree in (given.params, given.update))
    one = encoder(given, proxies, steps)
    ways = {
        "vmap": jax.jit(jax.vmap(one)),
        "map": jax.jit(lambda *args: jax.lax.map(lambda each: one(*each), args)),
    }
    taken = timed({name: functools.partial(way, keys, params, update) for name, way in ways.items()}, repeats)
    found = {f"{name}_ms": float(np.median(values)) / clients for name, values in taken.items()}
    return found | {"vmap_times_faster": float(np.median(taken["map"] / taken["vmap"]))}


def main(args: argparse.Namespace) -> dict:
    """All tables."""
    report = header("federated", args) | {"encoding": {}, "clients": {}}
    for name in args.networks:
        given = problem(name, args.local_steps, args.batch)
        title = f"{name}, {args.steps} steps of the encoder, a local epoch of {args.local_steps} x {args.batch}"
        report["encoding"][title] = {f"{n} proxies": encoding(given, n, args.steps, args.repeats) for n in args.proxies}
        show(title, report["encoding"][title])
        middle = args.proxies[len(args.proxies) // 2]
        title = f"{name}, {middle} proxies, milliseconds a client"
        report["clients"][title] = {
            f"{count} clients": together(given, count, middle, args.steps, args.repeats) for count in args.clients
        }
        show(title, report["clients"][title])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios, curves = [], []
    for title, rows in report["encoding"].items():
        network = title.split(",")[0]
        for name, row in rows.items():
            others = {"top-k of as many bytes": row["encode_of_top_k"], "the local epoch": row["encode_of_epoch"]}
            ratios += [
                Ratio(f"encoding, {network}, {name}", "plain", other, row["encode_ms"], 1 / over)
                for other, over in others.items()
            ]
        curves += curve(f"encoding, {network}", "proxies", rows, "encode_ms")
    for title, rows in report["clients"].items():
        total = {name: {"ms": number(name) * row["vmap_ms"]} for name, row in rows.items()}
        curves += curve(f"encoding, {title.removesuffix(', milliseconds a client')}", "clients", total, "ms")
    return Summary(ratios, curves)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp"], help="(%(default)s)")
    found.add_argument("--proxies", nargs="+", type=int, default=[1, 4, 16, 64, 256], help="(%(default)s)")
    found.add_argument("--clients", nargs="+", type=int, default=[1, 5, 20], help="in one program (%(default)s)")
    found.add_argument("--steps", type=int, default=200, help="of the encoder (%(default)s)")
    found.add_argument("--local-steps", type=int, default=9, help="of a client (%(default)s)")
    found.add_argument("--batch", type=int, default=32, help="samples of a local step (%(default)s)")
    found.add_argument("--repeats", type=int, default=7, help="turns of the timing; medians are shown (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
