"""How every benchmark is called and reports: flags by preset, where it ran, tables, claims, ratios, all as JSON.

A benchmark is a file of this folder with `PRESETS` (sizes for --preset), `parser()`, `main(args) -> report`,
`summary(report) -> Summary` and `run(...)` at its end. `python -m benchmarks` finds it by its PRESETS and needs no
other word of it.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

OUT = "file for everything as JSON"
PRESET = "cpu: the sizes of `python -m benchmarks`; gpu: those of one GPU; without it what the other flags say"

Kind = Literal["authors", "plain", "peer", "limit"]


class Ratio(NamedTuple):
    """One comparison of our time.

    Attributes:
      what: that is computed.
      kind: whose way stands beside ours; plain: the obvious way to the same result, or a simpler computation that tells
        what ours adds; limit: a time that this machine cannot beat in the same run.
      against: the name of that way.
      ms: of ours, milliseconds.
      ratio: their time over ours: above 1 ours is faster; of a limit the share that is reached.
    """

    what: str
    kind: Kind
    against: str
    ms: float
    ratio: float


class Curve(NamedTuple):
    """Our time as work grows.

    Attributes:
      what: that is computed.
      axis: what grows.
      sizes: along it.
      ms: milliseconds at each.
    """

    what: str
    axis: str
    sizes: list[float]
    ms: list[float]


class Summary(NamedTuple):
    """What the table of all benchmarks shows of one."""

    ratios: list[Ratio]
    curves: list[Curve]


def run(
    main: Callable[[argparse.Namespace], dict[str, Any]], parser: argparse.ArgumentParser,
    presets: Mapping[str, Mapping[str, Any]], summary: Callable[[Mapping[str, Any]], Summary], *,
    devices: Callable[[argparse.Namespace], int] | None = None,
) -> None:  # fmt: skip
    """The command of a benchmark; `devices` tells how many its CPU has to pretend to be."""
    args = parse(parser, presets)
    if devices:
        import jax

        jax.config.update("jax_num_cpu_devices", devices(args))
    report = main(args)
    found = summary(report)
    lists = {"ratios": found.ratios, "curves": found.curves}
    write(report | {"summary": {k: [row._asdict() for row in rows] for k, rows in lists.items()}}, args.out)


def parse(
    parser: argparse.ArgumentParser, presets: Mapping[str, Mapping[str, Any]], argv: list[str] | None = None
) -> argparse.Namespace:
    """The flags; the sizes of --preset are the defaults of all others, and --help shows them."""
    parser.add_argument("--preset", choices=list(presets), help=PRESET)
    parser.add_argument("--out", type=pathlib.Path, help=OUT)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    parser.set_defaults(**presets.get(first.parse_known_args(argv)[0].preset or "", {}))
    return parser.parse_args(argv)


def header(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a report begins with: the command, the machine, the arguments."""
    import jax  # here, so that the command over all benchmarks starts at once

    spec = sys.modules["__main__"].__spec__
    flags = sys.argv[1:] if spec and spec.name == f"benchmarks.{name}" else []
    return {
        "command": " ".join([f"python -m benchmarks.{name}", *flags]).split(" --out")[0],
        "device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "jax": jax.__version__,
        "arguments": {key: value for key, value in vars(args).items() if key != "out"},
    }  # fmt: skip


def absent(peer: str, error: BaseException) -> None:
    """Tell that a peer is not measured, in the one line that `python -m benchmarks` passes on."""
    print(f"no rows of {peer}: {type(error).__name__}: {error}".splitlines()[0], flush=True)


def tell(claims: Iterable[Mapping[str, Any]]) -> None:
    """Each claim: its value, its threshold, whether it holds."""
    for claim in claims:
        print("{name}, at least {threshold}: {value:.4g}, {holds}".format_map(claim), flush=True)


def write(report: Mapping[str, Any], path: str | os.PathLike | None) -> None:
    """The report as JSON, if a file was named."""
    if path:
        pathlib.Path(path).write_text(json.dumps(report, indent=1, default=str) + "\n")


def number(row: str) -> float:
    """The first number in the name of a row: 64 of "64 agents"."""
    return next(float(word.strip("x,:")) for word in row.split() if word.strip("x,:").replace(".", "").isdigit())


def curve(what: str, axis: str, rows: Mapping[str, Mapping[str, float | None]], ms: str) -> list[Curve]:
    """Column `ms` of rows named by their size, where at least two have it."""
    sizes = {number(name): float(value) for name, row in rows.items() if (value := row.get(ms)) is not None}
    return [Curve(what, axis, list(sizes), list(sizes.values()))] if len(sizes) > 1 else []


def show(title: str, rows: Mapping[str, Mapping[str, float | str | None]]) -> None:
    """A table: one line a row, one column a key; "-" where a row has no number."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["", *columns]] + [[name, *(_cell(row.get(column)) for column in columns)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for name, *values in cells:
        numbers = (f"{value:>{width}s}" for value, width in zip(values, widths[1:], strict=True))
        print("  ".join([f"{name:{widths[0]}s}", *numbers]), flush=True)


def _cell(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
