"""What does kill -9, or Ctrl-C, cost? Five long pipelines, each stopped at random moments and continued.

    uv run python -m benchmarks.kills                      (ten kills of each of five pipelines, 10 min on 2 cores)
    uv run python -m benchmarks.kills --pipelines train score --kills 3 --signal INT
    uv run pytest -m campaign                              the same, as a test

A kill takes the whole process group with SIGKILL. Half of them fall between the first and the last file that an
undisturbed run saves, the others anywhere in it. Then the command that the run itself would have named goes on
(--resume; the first command again where nothing had begun). A result is lost where figures, rows, saved arrays or
parameters differ in any bit from those of the undisturbed run; times apart. After Ctrl-C (--signal INT) also where the
run did not end with status 130, or showed a traceback.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.table import header, show, write
from subspace_jax.checkpoint import folder, reading

# Experiments at small size, with more epochs, models, steps or scores so that there are many files to save.
PIPELINES = {
    "train": "memorization --preset smoke --scores loss --no-refits --epochs 120 --save-every 6 --score-every 60",
    "score": "memorization --preset smoke --checkpoint train --scores fd_norm hv_norm input_grad --no-refits",
    "train_many": "stability_memorization --preset smoke --models 16 --group 2 --epochs 8",
    "decentralized": "decentralized --preset smoke --steps 60 --every 5",
    "lifecycle": "lifecycle --preset smoke",
}
ROOT = pathlib.Path(__file__).parent.parent
POLL = 0.01  # seconds
SAVED = "checkpoints", "stages", "models", "edited"


class Whole(NamedTuple):
    """An undisturbed run: its outcome, its seconds, and when it saved its first and its last file."""

    outcome: dict[str, Any]
    seconds: float
    first: float
    last: float


def campaign(
    name: str, base: pathlib.Path, *, kills: int, seed: int, by: signal.Signals = signal.SIGKILL
) -> dict[str, float | None]:
    """Kill one pipeline `kills` times at moments drawn from `seed`, and compare each end with the undisturbed one."""
    if name == "score":
        _finished(PIPELINES["train"], base, "train")
    whole, rng = undisturbed(name, base), np.random.default_rng(seed)
    lost, between, seconds = 0, 0, []
    for number in range(kills):
        inside = number % 2 == 0
        span = whole.last - whole.first if inside else whole.seconds
        while not (said := killed(name, base / f"{name}{number}", wait=rng.uniform(0, span), inside=inside, by=by)):
            span /= 2  # it was faster than the undisturbed run
        rude = by == signal.SIGINT and not polite(*said)
        if rude:
            print(f"{name}{number} ended with {said[0]}:\n{said[1][-2000:]}", file=sys.stderr)
        between += inside
        started = time.monotonic()
        again = _finished(PIPELINES[name], base, f"{name}{number}")
        seconds.append(time.monotonic() - started)
        lost += rude or not (again and same(outcome(base / f"{name}{number}"), whole.outcome))
        (base / f"{name}{number}.log").unlink()
        shutil.rmtree(base / f"{name}{number}")
    return {
        "kills": kills, "between_saves": between, "lost": lost, "seconds_per_recovery": float(np.mean(seconds)),
        "seconds_undisturbed": whole.seconds, "networks": len(whole.outcome["networks"]),
    }  # fmt: skip


def undisturbed(name: str, base: pathlib.Path) -> Whole:
    """Run a pipeline to its end and watch what it saves."""
    started, moments, files = time.monotonic(), [], 0
    with _start(PIPELINES[name], base, f"{name}_whole") as run:
        while run.poll() is None:
            if (now := saved(base / f"{name}_whole")) != files:
                moments.append(time.monotonic() - started)
                files = now
            time.sleep(POLL)
    if run.returncode or not moments:
        raise RuntimeError(f"{name} ended with {run.returncode} after {len(moments)} saves")
    return Whole(outcome(base / f"{name}_whole"), time.monotonic() - started, moments[0], moments[-1])


def killed(
    name: str, workdir: pathlib.Path, *, wait: float, inside: bool, by: signal.Signals
) -> tuple[int, str] | None:
    """Kill a new run after `wait` seconds, counted from its first save where `inside`; None where it ended before.

    Returns:
      Its exit status and what it said.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    log = workdir.with_suffix(".log")
    with _start(PIPELINES[name], workdir.parent, workdir.name, log=log) as run:
        while inside and run.poll() is None and not saved(workdir):
            time.sleep(POLL)
        time.sleep(wait)
        ended = run.poll() is not None
        if not ended:
            os.killpg(run.pid, by)
    return None if ended or (workdir / "summary.json").exists() else (run.returncode, log.read_text())


def polite(status: int, text: str) -> bool:
    """Whether a run stopped as it should after Ctrl-C."""
    return status == 128 + signal.SIGINT and "stopped" in text.splitlines() and "Traceback" not in text


def saved(workdir: pathlib.Path) -> int:
    """Files of results in a run's folder, those that are just being written too."""
    return sum(len(files) for part in SAVED for *_, files in os.walk(workdir / part))


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
    """Figures, rows, arrays and parameters of a finished run, times apart."""
    summary = json.loads((workdir / "summary.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    stages = {path.name: dict(np.load(path)) for path in sorted(workdir.glob("stages/*.npz"))}
    folders = {path.parent.parent for path in workdir.rglob("variables") if path.parent.name.isdigit()}
    return {
        "figures": _timeless(summary["figures"]),
        "rows": [_timeless(row) for row in rows],
        "stages": {name: _timeless(arrays) for name, arrays in stages.items()},
        "networks": {str(path.relative_to(workdir)): parameters(path) for path in sorted(folders)},
    }


def parameters(directory: pathlib.Path) -> list[np.ndarray]:
    """The newest variables in a folder of checkpoints."""
    with folder.reader(directory) as source:
        tree = reading.read(source, folder.whole(directory)[-1], "variables", None, way_out=lambda *_: "")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a: Any, b: Any) -> bool:
    """Whether two outcomes are equal in every bit."""
    pairs = [[np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in (a, b)]
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()) for x, y in zip(*pairs, strict=True)
    )


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if "seconds" not in name}


def _start(
    pipeline: str, base: pathlib.Path, workdir: str, *flags: str, log: pathlib.Path | None = None
) -> subprocess.Popen:
    command = [sys.executable, "-m", f"experiments.{pipeline.split()[0]}", *(flags or pipeline.split()[1:])]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with (log or base / "log").open("w" if log else "a") as file:
        run = subprocess.Popen(
            [*command, "--workdir", workdir], cwd=base, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    signal.signal(signal.SIGINT, heard)
    return run


def _finished(pipeline: str, base: pathlib.Path, workdir: str) -> bool:
    """Run to the end: go on where something had begun."""
    begun = (base / workdir / "config.json").exists()
    with _start(pipeline, base, workdir, *(["--resume"] if begun else [])) as run:
        return run.wait() == 0


def main(args: argparse.Namespace) -> dict:
    rows: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as base:
        for name in args.pipelines:
            by = signal.Signals[f"SIG{args.signal}"]
            rows[name] = campaign(name, pathlib.Path(base), kills=args.kills, seed=args.seed, by=by)
            show(name, {name: rows[name]})
    sums = {key: sum(row[key] or 0 for row in rows.values()) for key in ("kills", "between_saves", "lost")}
    rows["all"] = dict.fromkeys(next(iter(rows.values()))) | sums
    show("all pipelines", rows)
    report = header("kills", args) | {"statistic": "means", "kills": rows}
    report["arguments"]["repeats"] = args.kills
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", nargs="+", choices=list(PIPELINES), default=list(PIPELINES), help="(all)")
    parser.add_argument("--kills", type=int, default=10, help="of each (%(default)s)")
    parser.add_argument("--signal", choices=["KILL", "INT"], default="KILL", help="kill -9, or Ctrl-C (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="write everything as JSON here")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    write(main(arguments), arguments.out)
