"""What every experiment does alike: flags from presets, a workdir, resuming, one JSON line, a report.

stdout carries exactly one line, the summary; progress and messages go to stderr. Exit status 0 also where a claim does
not hold (that is a result), 2 with one sentence on bad input.
"""

import csv
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn

import jax
import numpy as np
import tyro

from experiments.harness import launch, report
from subspace_jax import checkpoint


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags of every experiment."""

    preset: Literal["smoke", "cpu", "gpu"] = "cpu"
    """Defaults of all flags: smoke < 20 s, cpu < 5 min on 2 cores, gpu < 20 min on one GPU."""
    seed: int = 0
    """First seed."""
    seeds: int = 3
    """Number of seeds: figures are means over them."""
    workdir: str = ""
    """Folder of this run; runs/<experiment>/<next number> when not given."""
    resume: bool = False
    """Continue the run in --workdir, or the latest unfinished one."""
    data: str = "digits"
    """Data set: digits needs nothing else; mnist, cifar10, your own, ... are read from --data-dir."""
    data_dir: str = ""
    """Folder of data sets; the environment variable SUBSPACE_DATA_DIR when not given."""
    checkpoint: str = ""
    """Use the network saved there instead of training one."""


class Claim(NamedTuple):
    """A figure against its threshold: holds when value >= threshold (give both negated for an upper bound)."""

    name: str
    value: float
    threshold: float

    @property
    def holds(self) -> bool:
        """Also false when the value is NaN."""
        return bool(self.value >= self.threshold)


class Summary(NamedTuple):
    """What an experiment returns."""

    figures: dict[str, float]  # "a/b": mean over the seeds
    std: dict[str, float]
    claims: list[Claim]
    sections: list[report.Section]
    rows: list[dict[str, Any]]  # metrics.jsonl


def over_seeds(runs: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample deviation of every figure over the seeds; one seed has deviation 0."""
    values = {name: np.array([run[name] for run in runs], float) for name in runs[0]}
    deviation = {name: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for name, v in values.items()}
    return {name: float(v.mean()) for name, v in values.items()}, deviation


def stage(config: Config, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of one finished part of a run: computed once, read back when the run is resumed.

    Several processes compute together and the first one writes.
    """
    path = pathlib.Path(config.workdir) / "stages" / f"{name}.npz"
    if not path.exists():
        arrays = {key: np.asarray(value) for key, value in compute().items()}
        if not launch.first():
            return arrays
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        save_arrays(partial, arrays)
        partial.rename(path)
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """An npz file."""
    np.savez(path, allow_pickle=False, **arrays)


def write_table(config: Config, name: str, columns: dict[str, np.ndarray]) -> None:
    """The same table as <name>.csv, for people, and <name>.npz, for programs."""
    if not launch.first():
        return
    workdir = pathlib.Path(config.workdir)
    save_arrays(workdir / f"{name}.npz", columns)
    with (workdir / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def run(main: Callable[[Any], Summary], presets: dict[str, Any]) -> None:
    """Parse the flags, run `main`, write the workdir, print the summary.

    With --processes this process starts the others, each of which runs `main`; the first one writes.
    """
    with launch.leaving():
        _run(main, presets)


def _run(main: Callable[[Any], Summary], presets: dict[str, Any]) -> None:
    module, doc = command_of(main), sys.modules[main.__module__].__doc__ or ""
    name = module.split(".")[-1]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "subspace_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    config = None
    try:
        config = _configure(name, presets, doc, sys.argv[1:])
        if isinstance(config, launch.Config) and launch.parent(config):
            return _watch(module, config)
        started = time.time()
        summary = main(config)
        if launch.first():
            _finish(name, doc, config, summary, time.time() - started)
    except (ValueError, KeyError, OSError) as error:
        _refuse(error, config)


def command_of(main: Callable) -> str:
    """What `python -m` takes: the room of a question, whose module `experiment` holds main."""
    module = main.__module__
    if module == "__main__" and (spec := sys.modules[module].__spec__):
        module = spec.name
    return module.removesuffix(".experiment")


def _configure(name: str, presets: dict[str, Any], description: str, argv: list[str]) -> Any:
    """--preset (or the resumed run's config) gives the defaults, every other flag overrides them."""
    chosen = next((argv[i + 1] for i, flag in enumerate(argv[:-1]) if flag == "--preset"), "cpu")
    chosen = next((flag.split("=", 1)[1] for flag in argv if flag.startswith("--preset=")), chosen)
    default = dataclasses.replace(presets.get(chosen, presets["cpu"]), preset=chosen if chosen in presets else "cpu")
    config = tyro.cli(type(default), default=default, args=argv, description=description, prog=f"experiments.{name}")
    if config.seeds < 1:
        raise ValueError(f"--seeds must be at least 1; got {config.seeds}.")
    if config.resume:
        config = _resumed(name, config, argv, description)
    if isinstance(config, launch.Config):
        launch.start(config)
    return config if config.resume else _opened(name, config)


def _opened(name: str, config: Any) -> Any:
    """A new run's folder, in which the first process writes the flags."""
    workdir = pathlib.Path(config.workdir) if config.workdir else _next(pathlib.Path("runs") / name)
    if launch.first() and (workdir / "config.json").exists():
        raise ValueError(f"{workdir} already holds a run: continue it with --resume, or give another --workdir.")
    workdir.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, workdir=str(workdir))
    if launch.first():
        (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2))
    return config


def _resumed(name: str, config: Any, argv: list[str], description: str) -> Any:
    """The saved flags of the run to continue; flags that would change it are refused, where it computes may change."""
    runs = pathlib.Path("runs") / name
    unfinished = [d for d in _numbered(runs) if (d / "config.json").exists() and not (d / "summary.json").exists()]
    workdir = pathlib.Path(config.workdir) if config.workdir else (unfinished or [None])[-1]
    if workdir is None or not (workdir / "config.json").exists():
        where = workdir or runs
        raise FileNotFoundError(f"no run to resume at {where}: give its --workdir, or start one without --resume.")
    saved = json.loads((workdir / "config.json").read_text())
    fields = {f.name: f.default for f in dataclasses.fields(config)}
    saved = {k: tuple(v) if isinstance(fields[k], tuple) else v for k, v in saved.items()}
    old = type(config)(**saved)
    again = tyro.cli(type(old), default=old, args=argv, description=description)
    differ = [f for f in fields if f not in ("resume", "workdir", "preset") and getattr(again, f) != getattr(old, f)]
    changed = [f for f in differ if f not in launch.PLACES]
    if changed:
        flag, was = changed[0], getattr(old, changed[0])
        raise ValueError(f"the run at {workdir} was started with {flag} = {was}; resume it unchanged or start another.")
    resumed = dataclasses.replace(again, preset=old.preset, workdir=str(workdir), resume=True)
    if differ:  # the processes that a parent starts read it
        (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(resumed), indent=2))
    return resumed


def _numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    found = [d for d in folder.glob("*") if d.name.isdigit()]
    return sorted(found, key=lambda d: int(d.name))


def _next(folder: pathlib.Path) -> pathlib.Path:
    return folder / str(max([0, *(int(d.name) for d in _numbered(folder))]) + 1)


def _finish(name: str, doc: str, config: Any, summary: Summary, seconds: float) -> None:
    """Write metrics, summary and report; print the one line."""
    workdir = pathlib.Path(config.workdir)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in summary.rows))
    claims = [{**claim._asdict(), "holds": claim.holds} for claim in summary.claims]
    line = {"experiment": name, "preset": config.preset, "seconds": round(seconds, 1)}
    line |= {"figures": summary.figures, "std": summary.std, "claims": claims}
    details = line | {"config": dataclasses.asdict(config) | {"workdir": None}, "environment": environment()}
    (workdir / "summary.json").write_text(json.dumps(details, indent=2))
    report.write(workdir / "report.html", name, doc, details, summary.sections)
    print(f"report: {workdir / 'report.html'}", file=sys.stderr)
    print(json.dumps(line))


def _watch(module: str, config: Any) -> None:
    """Let other processes compute, and print the line of the first one."""
    status = launch.watch(module, config, config.workdir)
    if status:
        sys.exit(status)
    details = json.loads((pathlib.Path(config.workdir) / "summary.json").read_text())
    print(f"report: {config.workdir}/report.html", file=sys.stderr)
    print(json.dumps({key: value for key, value in details.items() if key not in ("config", "environment")}))


def environment() -> dict[str, Any]:
    """Hardware, versions and commit of a result."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=pathlib.Path(__file__).parent
    )
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": git.stdout.strip() or "unknown",
        **checkpoint.versions(),
    }


def _refuse(error: Exception, config: Any) -> NoReturn:
    """One sentence and status 2; the traceback is kept beside the run."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"error: {message}", file=sys.stderr)
    if config is not None:
        trace = pathlib.Path(config.workdir) / "error.txt"
        trace.write_text(traceback.format_exc())
        print(f"details: {trace}; what was finished is kept: --resume --workdir {config.workdir}", file=sys.stderr)
    sys.exit(2)
