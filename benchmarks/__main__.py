"""All benchmarks, one after the other: what our way costs beside the authors', a plain one, peers, and the limit.

    uv run python -m benchmarks                                # on a CPU, under 10 min on 2 quiet cores
    uv run python -m benchmarks --only curvature ood           # these two; the rows of the others stay as they are
    uv run python -m benchmarks --resume                       # go on with what was stopped or failed
    uv run python -m benchmarks --preset gpu                   # the large sizes, on one GPU
    uv run python -m benchmarks --list                         # what there is to measure
    uv run python -m experiments.results                       # put the table into RESULTS.md

Each benchmark is a process of its own: one that crashes, and a peer that is not installed (torch, foolbox, snnTorch,
...), is told in one line, and the others go on. After each the file is written, so that nothing is lost. A ratio is
their time over ours, so that above 1 ours is faster; of a limit it is the share that is reached. Plain is the obvious
way to the same result, or a simpler computation that tells what ours adds. Sizes are cut so that all of it is done in
ten minutes; `python -m benchmarks.NAME` measures one at its full sizes, with all its tables.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.table import show

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent
KINDS = "authors", "plain", "peer", "limit"
UNKNOWN = 40.0  # seconds of a benchmark that never ran here


def benchmarks(folder: pathlib.Path = FOLDER) -> tuple[dict[str, str], dict[str, str]]:
    """{name: its question} of those that have presets, and of those that are run by hand; nothing is imported."""
    found: tuple[dict[str, str], dict[str, str]] = {}, {}
    for path in sorted(folder.glob("[!_]*.py")):
        text = path.read_text()
        if '\nif __name__ == "__main__":' in text and not path.stem.endswith("_torch"):
            by_hand = not re.search(r"^PRESETS\b", text, re.M)
            found[by_hand][path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return found


def command(name: str, preset: str, out: pathlib.Path) -> list[str]:
    """The command line of one benchmark."""
    return [sys.executable, "-m", f"benchmarks.{name}", "--preset", preset, "--out", str(out)]


def measured(name: str, preset: str, timeout: float) -> dict[str, Any]:
    """The entry of one benchmark: its rows, or the reason why there are none; its seconds, and its missing peers."""
    start, before = time.perf_counter(), os.times()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "report.json"
        try:
            done = subprocess.run(
                command(name, preset, out), cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=timeout
            )
            failed = _reason(done.returncode, done.stderr) if done.returncode or not out.exists() else None
            printed = done.stdout
        except subprocess.TimeoutExpired:
            failed, printed = f"not done after {timeout:g} s", ""
        report = {} if failed else json.loads(out.read_text())
    after = os.times()
    told = dict.fromkeys(line for line in printed.splitlines() if line.startswith("no rows of "))
    entry = {
        "failed": failed, "absent": list(told),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(sum(after[2:4]) - sum(before[2:4]), 1),
    }  # fmt: skip
    return entry | {key: report.get(key) for key in ("device", "cores", "jax")} | report.get("summary", {})


def _reason(code: int, errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]  # JAX adds lines
    return f"exit status {code}: {(raised or lines or ['no message'])[-1]}"


def write(path: pathlib.Path, report: Mapping[str, Any]) -> None:
    """The file as a whole or not at all: what stops this leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    beside.replace(path)


def table(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | str | None]]:
    """One row for all that was compared with one of our ways."""
    rows: dict[str, dict[str, float | str | None]] = {}
    for name, entry in entries.items():
        for one in entry.get("ratios", ()):
            row = rows.setdefault(f"{name}: {one['what']}", {"ours, ms": one["ms"]} | dict.fromkeys(KINDS))
            said = f"{one['ratio']:.3g} ({one['against']})"
            row[one["kind"]] = f"{row[one['kind']]}, {said}" if row[one["kind"]] else said
    return rows


def run_all(names: list[str], path: pathlib.Path, *, preset: str, resume: bool, keep: bool, timeout: float) -> int:
    """Run these and write the file after each; how many failed.

    Args:
      names: of benchmarks, in order.
      path: the file.
      preset: sizes.
      resume: leave out those that the file has.
      keep: let the rows of others stay in it.
      timeout: seconds that one may take.
    """
    before = json.loads(path.read_text())["benchmarks"] if path.exists() else {}
    known = {name: entry["seconds"] for name, entry in before.items() if not entry["failed"]}
    entries = before if keep or resume else {}
    todo = [name for name in names if not (resume and name in known)]
    started = time.perf_counter()
    for number, name in enumerate(todo):
        left = sum(known.get(other, UNKNOWN) for other in todo[number:])
        say(f"[{number + 1}/{len(todo)}] {name}, {(time.perf_counter() - started) / 60:.1f} min gone, about "
            f"{left / 60:.1f} min to go")  # fmt: skip
        entries[name] = measured(name, preset, timeout)
        for line in (*entries[name]["absent"], *filter(None, [entries[name]["failed"]])):
            say(f"    {name}: {line}")
        write(path, {
            "command": f"python -m benchmarks --preset {preset}", "benchmarks": dict(sorted(entries.items())),
        })  # fmt: skip
    ran = {name: entries[name] for name in names}
    show("their time over ours; of a limit the share reached", table(ran))
    broken = [name for name, entry in ran.items() if entry["failed"]]
    end = f"; without rows: {', '.join(broken)} (run python -m benchmarks.NAME --preset {preset})" if broken else ""
    seconds, cpu = (sum(entry[key] for entry in ran.values()) for key in ("seconds", "cpu_seconds"))
    say(f"{len(ran)} benchmarks, {seconds:.0f} s, {cpu:.0f} processor seconds, in {path}{end}")
    return len(broken)


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    known, by_hand = benchmarks()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # fmt: off
    parser.add_argument("--preset", choices=("cpu", "gpu"), default="cpu", help="sizes (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(known), metavar="NAME", help="of these; --list shows them")
    parser.add_argument("--resume", action="store_true", help="leave out what the file already has")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and what each asks, and end")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that one may take (%(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="the file (results/benchmarks_PRESET.json)")
    # fmt: on
    args = parser.parse_args(argv)
    if args.list:
        for name, question in known.items():
            print(f"{name:14s} {question}")
        for name, question in by_hand.items():
            print(f"{name:14s} {question} (not part of the run: python -m benchmarks.{name})")
        return 0
    path = args.out or ROOT / "results" / f"benchmarks_{args.preset}.json"
    return int(run_all(
        args.only or list(known), path, preset=args.preset, resume=args.resume, keep=bool(args.only),
        timeout=args.timeout,
    ) > 0)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
