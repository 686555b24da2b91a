"""How every benchmark reports: where it ran, tables, claims, and everything as JSON."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax


def header(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a report begins with: the command, the machine, the arguments."""
    spec = sys.modules["__main__"].__spec__
    flags = sys.argv[1:] if spec and spec.name == f"benchmarks.{name}" else []
    return {
        "command": " ".join([f"python -m benchmarks.{name}", *flags]).split(" --out")[0],
        "device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "jax": jax.__version__,
        "arguments": {key: value for key, value in vars(args).items() if key != "out"},
    }  # fmt: skip


def tell(claims: Iterable[Mapping[str, Any]]) -> None:
    """Each claim: its value, its threshold, whether it holds."""
    for claim in claims:
        print("{name}, at least {threshold}: {value:.4g}, {holds}".format_map(claim), flush=True)


def write(report: Mapping[str, Any], path: str | os.PathLike | None) -> None:
    """The report as JSON, if a file was named."""
    if path:
        pathlib.Path(path).write_text(json.dumps(report, indent=1, default=str) + "\n")


def show(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """A table: one line a row, one column a key; "-" where a row has no number."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["", *columns]] + [[name, *(_number(row.get(column)) for column in columns)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for name, *values in cells:
        numbers = (f"{value:>{width}s}" for value, width in zip(values, widths[1:], strict=True))
        print("  ".join([f"{name:{widths[0]}s}", *numbers]), flush=True)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
