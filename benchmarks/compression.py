"""What does counting cost, and what do packed bits buy? Streamed covariances against PCA, packed convolutions.

    uv run python -m benchmarks.compression            # 20 s on 2 cores
    expected: the same counts as PCA, in half the time or less; memory of counting constant in the images, where the
              kept responses grow with them; a packed kernel of one bit 30 times smaller, its convolution as fast as the
              float one up to 128 channels, twice as fast at 256

Counting: `pca_design.spectra` of two convolutions, programs compiled before, against scikit-learn's PCA of all their
responses, whose capture is not timed. Convolutions: one layer in inference, packed (XOR and population count), in whole
numbers as the quantised network has it, and in float32. Timed in turns; medians.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from sklearn.decomposition import PCA

from benchmarks.table import Ratio, Summary, curve, header, run
from subspace_jax import nn
from subspace_jax.compression import pca_design
from subspace_jax.core import capture
from subspace_jax.core.subspace import significant_dims
from subspace_jax.nn.layers.binary import QuantConv, packed_kernel

TAU, CALL, SIDE = 0.99, 100, 16
SHAPES = (64, 16), (128, 8), (256, 8)  # channels and side of a convolution
BATCH = 8
PRESETS = {
    "cpu": {"images": [100, 400], "repeats": 3},
    "gpu": {"images": [400, 1600, 6400], "widths": [64, 128]},
}


def counting(images: int, widths: tuple[int, int], repeats: int) -> dict[str, float]:
    """Seconds and memory of both ways; raises where the counts differ."""
    model = nn.build("cnn", widths=widths, pools=(1,))
    x = np.random.default_rng(0).random((images, SIDE, SIDE, 3), np.float32)
    batches = [x[start : start + CALL] for start in range(0, images, CALL)]
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    _, rows = capture.record(model.apply, variables, x, of="outputs")
    kept = {path: np.asarray(rows[path]) for path in list(rows)[:-1]}
    calls: dict[str, Callable] = {
        "ours": lambda: counts(pca_design.spectra(model, variables, batches)),
        "pca": lambda: [int(PCA(TAU, svd_solver="full").fit(own).n_components_) for own in kept.values()],
    }
    found = {name: call() for name, call in calls.items()}  # compiles
    if found["ours"] != found["pca"]:
        raise AssertionError(f"counts differ: {found}.")
    seconds = turns(calls, repeats)
    program = jax.jit(lambda v, x: capture.observe(model.apply, v, x, of="outputs")[1]).lower(variables, batches[0])
    memory = program.compile().memory_analysis()
    return {
        "seconds": float(np.median(seconds["ours"])),
        "pca_seconds": float(np.median(seconds["pca"])),
        "times_faster": float(np.median(seconds["pca"] / seconds["ours"])),
        "temp_mib": memory.temp_size_in_bytes / 2**20 if memory else float("nan"),
        "responses_mib": sum(own.nbytes for own in kept.values()) / 2**20,
    }


def counts(spectra: list[pca_design.LayerSpectrum]) -> list[int]:
    return [int(significant_dims(one.eigenvalues, tau=TAU)) for one in spectra]


def convolution(channels: int, side: int, repeats: int) -> dict[str, float]:
    """Milliseconds and bytes of one binary layer, packed and not, and of the float one."""
    x = np.random.default_rng(0).standard_normal((BATCH, side, side, channels), np.float32)
    binary, full = QuantConv(channels), QuantConv(channels, 32, 32)
    params: dict[str, Any] = dict(binary.init(jax.random.key(0), x)["params"])
    words = packed_kernel(params["kernel"], bits_w=1, bits_a=1)
    layers = {"packed": (QuantConv(channels, packed=True), words), "levels": (binary, params), "float": (full, params)}
    calls, outs = {}, {}
    for name, (layer, own) in layers.items():
        run = jax.jit(lambda own, x, layer=layer: layer.apply({"params": own}, x))
        calls[name] = lambda run=run, own=own: run(own, x)
        outs[name] = np.asarray(calls[name]())
    np.testing.assert_allclose(outs["packed"], outs["levels"], rtol=1e-5, atol=1e-5)
    seconds = turns(calls, repeats)
    return {f"{name}_ms": 1e3 * float(np.median(own)) for name, own in seconds.items()} | {
        "of_levels": float(np.median(seconds["packed"] / seconds["levels"])),
        "of_float": float(np.median(seconds["packed"] / seconds["float"])),
        "packed_kib": sum(leaf.nbytes for leaf in words.values()) / 1024,
        "float_kib": params["kernel"].nbytes / 1024,
    }


def turns(calls: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """Seconds a call, in turns, so that a busy machine slows all alike."""
    seconds = {name: np.zeros(repeats) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name][turn] = time.perf_counter() - started
    return seconds


def main(args: argparse.Namespace) -> dict:
    report = header("compression", args)
    report["counting"] = {f"{n} images": counting(n, tuple(args.widths), args.repeats) for n in args.images}
    report["packed"] = {f"{c} channels, {s} x {s}": convolution(c, s, args.repeats) for c, s in args.shapes}
    for part in ("counting", "packed"):
        for name, row in report[part].items():
            print(f"{name:26s}" + "".join(f"  {key} {value:.4g}" for key, value in row.items()), flush=True)
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    what = "counts of two convolutions"
    ratios = [
        Ratio(f"{what}, {name}", "peer", "PCA, scikit-learn", 1e3 * row["seconds"], row["times_faster"])
        for name, row in report["counting"].items()
    ]
    for name, row in report["packed"].items():
        others = {"whole numbers": row["of_levels"], "float32": row["of_float"]}
        ratios += [
            Ratio(f"packed convolution, {name}", "plain", other, row["packed_ms"], 1 / over)
            for other, over in others.items()
        ]
    rows = {name: {"ms": 1e3 * row["seconds"]} for name, row in report["counting"].items()}
    return Summary(ratios, curve(what, "images", rows, "ms"))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--images", nargs="+", type=int, default=[100, 400, 1600], help="measured (%(default)s)")
    found.add_argument("--widths", nargs=2, type=int, default=[32, 64], help="of the network (%(default)s)")
    found.add_argument("--repeats", type=int, default=5, help="turns of the timing; medians are shown (%(default)s)")
    found.set_defaults(shapes=SHAPES)
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
