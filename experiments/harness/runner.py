"""Runs an experiment: flags from presets, a run folder, resuming, one JSON line of results, a report.

stdout carries exactly one line, the summary; progress and messages go to stderr. Exit status 0 also where a claim does
not hold (that is a result), 2 with one sentence on bad input, 1 where an error is ours, 130 after Ctrl-C. However a run
ends, its README.txt says what lies in its folder, and stderr by which command it goes on.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import jax
import numpy as np

from experiments.harness import contents, flags, interrupt, launch, report
from experiments.harness.flags import Config
from subspace_jax import checkpoint, files
from subspace_jax.core import processes

F = TypeVar("F")  # figures

KEPT = "checkpoints", "stages", "models", "edited", "shadows"  # folders of a run that --resume reads


class Claim(NamedTuple):
    """A figure against its threshold: holds when value >= threshold (give both negated for an upper bound)."""

    name: str
    value: float
    threshold: float
    seeds: Sequence[float] = ()  # its value by every seed alone

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


def seeds(config: Config) -> range:
    """The seeds of a run."""
    return range(config.seed, config.seed + config.seeds)


def over_seeds(runs: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample deviation of every figure over the seeds; one seed has deviation 0."""
    values = {name: np.array([run[name] for run in runs], float) for name in runs[0]}
    deviation = {name: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for name, v in values.items()}
    return {name: float(v.mean()) for name, v in values.items()}, deviation


WHERE = "seed", "seeds", "workdir", "resume", "data_dir"  # flags that change no recipe


def follows(config: Config, recipe: Config, *free: str) -> bool:
    """Whether a run has the flags of a fixed recipe, whatever its seeds, its place, and these flags are."""
    return config == dataclasses.replace(recipe, **{name: getattr(config, name) for name in (*WHERE, *free)})


def judged(claims: Callable[[Any, F], list[Claim]], config: Config, figures: F, runs: Sequence[F]) -> list[Claim]:
    """The claims on the figures of all seeds, each with its value by the figures of every seed alone."""
    each = [[one.value for one in claims(config, run)] for run in runs]
    return [claim._replace(seeds=values) for claim, *values in zip(claims(config, figures), *each, strict=True)]


def stage(config: Config, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of one finished part of a run: computed once, read back when the run is resumed.

    Several processes compute together and the first one writes; whether there is something to compute it tells the
    others, who would not wait for each other otherwise where one of them sees its file and one does not.
    """
    path = pathlib.Path(config.workdir) / "stages" / f"{name}.npz"
    found = _kept(path) if launch.first() else None
    if processes.told(found is not None):
        return found or _loaded(path)
    arrays = {key: np.asarray(value) for key, value in compute().items()}
    if launch.first():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, arrays)
        return _kept(path) or arrays  # as a resumed run reads them
    return arrays


def _kept(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where there is none, or it is damaged, which is said."""
    if not path.exists():
        return None
    try:
        return _loaded(path)
    except Exception as error:  # zip, zlib and NumPy's header parser each raise their own
        print(f"{path} is damaged ({str(error).rstrip('.')}): it is computed again.", file=sys.stderr)
        return None


def _loaded(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz file, whole or not at all; it is read back without pickles, so objects are refused here."""
    for name, values in arrays.items():
        if np.asarray(values).dtype.hasobject:
            raise TypeError(f"{name} holds Python objects, and not numbers or text.")
    with files.written(path, "wb") as file:
        np.savez(file, **cast("dict[str, Any]", arrays))  # before NumPy 2.2 there is no allow_pickle


def write_table(config: Config, name: str, columns: dict[str, np.ndarray]) -> None:
    """The same table as <name>.csv, for people, and <name>.npz, for programs."""
    if not launch.first():
        return
    workdir = pathlib.Path(config.workdir)
    save_arrays(workdir / f"{name}.npz", columns)
    with files.written(workdir / f"{name}.csv") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def run(main: Callable[[Any], Summary], presets: dict[str, Any]) -> None:
    """Parse the flags, run `main`, write the workdir, print the summary.

    With --processes this process starts the others, each of which runs `main`; the first one writes.
    """
    with launch.leaving(), interrupt.heard():
        _run(main, presets)


def _run(main: Callable[[Any], Summary], presets: dict[str, Any]) -> None:
    module, doc = command_of(main), sys.modules[main.__module__].__doc__ or ""
    name = module.split(".")[-1]
    if not jax.config.jax_compilation_cache_dir:  # pyrefly: ignore[missing-attribute] -- a cache that was chosen stays
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "subspace_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    workdir = ""
    try:
        config = flags.configure(name, presets, doc, sys.argv[1:])
        with flags.locked(config.workdir):
            workdir = config.workdir
            if isinstance(config, launch.Config) and launch.parent(config):
                return _watch(module, doc, config, workdir)
            started = time.time()
            summary = main(config)
            if launch.first():
                _finish(module, doc, config, summary, time.time() - started)
    except ChildProcessError as error:  # a process of this run died: no bad input, and no fault that it could name
        print(error, file=sys.stderr)
        _leave(module, doc, workdir, 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        _leave(module, doc, workdir, 128 + signal.SIGINT)
    except Exception as error:
        _fail(module, doc, workdir, error)


def command_of(main: Callable) -> str:
    """The name for `python -m`: the package of an experiment, whose module `experiment` holds main."""
    module = main.__module__
    if module == "__main__" and (spec := sys.modules[module].__spec__):
        module = spec.name
    return module.removesuffix(".experiment")


def _finish(module: str, doc: str, config: Config, summary: Summary, seconds: float) -> None:
    """Write metrics, report and, once all else is on the disk, the summary; print the one line."""
    workdir, name = pathlib.Path(config.workdir), module.split(".")[-1]
    with files.written(workdir / "metrics.jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in summary.rows)
    claims = [{**claim._asdict(), "holds": claim.holds, "seeds": list(claim.seeds)} for claim in summary.claims]
    line = {"experiment": name, "preset": config.preset, "seconds": round(seconds, 1)}
    line |= {"figures": summary.figures, "std": summary.std, "claims": claims}
    details = line | {"config": dataclasses.asdict(config) | {"workdir": None}, "environment": environment()}
    report.write(workdir / "report.html", name, doc, details, summary.sections)
    with files.written(workdir / "summary.json") as file:
        json.dump(details, file, indent=2)
    _explain(module, doc, config.workdir, summary.sections)
    print(f"report: {workdir / 'report.html'}", file=sys.stderr)
    print(json.dumps(line))


def _watch(module: str, doc: str, config: launch.Config, workdir: str) -> None:
    """Let other processes compute, and print the line of the first one."""
    status = launch.watch(module, config, workdir)
    if status:
        _explain(module, doc, workdir)
        sys.exit(status)
    details = json.loads((pathlib.Path(workdir) / "summary.json").read_text())
    print(f"report: {workdir}/report.html", file=sys.stderr)
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


def _explain(module: str, doc: str, workdir: str, sections: Iterable[report.Section] = ()) -> None:
    question = doc.strip().partition("\n")[0]
    contents.write(workdir, module.split(".")[-1], question, launch.resuming(module, workdir), sections)


def refusal(error: Exception) -> bool:
    """Whether an error is a sentence on bad input, or on the machine; all others are faults of the code.

    A KeyError that quotes a key alone was raised by a dictionary, and not by a check.
    """
    if isinstance(error, KeyError):
        return bool(error.args) and " " in str(error.args[0])
    return isinstance(error, (ValueError, OSError))


def _told(error: Exception) -> str:
    """An error's sentence; those of the operating system name file, cause and, where it is known, the remedy."""
    denied = isinstance(error, PermissionError)  # perhaps of reading
    if isinstance(error, OSError) and not denied and (way_out := files.remedy(error.errno)):
        return f"{error.filename or 'a file'} could not be written ({error.strerror}): {way_out}."
    return str(error)


def _fail(module: str, doc: str, workdir: str, error: Exception) -> NoReturn:
    """Exit with 2 after one sentence on bad input, else with 1 after a traceback; error.txt keeps it in both cases."""
    refused = refusal(error)
    if not refused and launch.RANK in os.environ:  # the parent reads the traceback
        raise error
    if not refused:
        traceback.print_exc()
    message = error.args[0] if isinstance(error, KeyError) and refused else _told(error)
    print(f"error: {message}" if refused else f"fault: {type(error).__name__}: {message}", file=sys.stderr)
    if workdir and launch.first():
        details = pathlib.Path(workdir) / "error.txt"
        with contextlib.suppress(OSError):  # a full disk
            with files.written(details) as file:
                file.write(traceback.format_exc())
            print(f"details: {details}" if refused else f"please report it with {details}", file=sys.stderr)
    _leave(module, doc, workdir, 2 if refused else 1)


def _leave(module: str, doc: str, workdir: str, status: int) -> NoReturn:
    """Say by which command the run goes on; a refusal before anything was finished leaves its folder free."""
    folder = pathlib.Path(workdir)
    if workdir and launch.first():
        finished = any((folder / part).exists() for part in KEPT)
        if status == 2 and not finished:  # the same flags would be refused again
            with contextlib.suppress(OSError):
                (folder / "config.json").unlink(missing_ok=True)
        else:
            print(f"what was finished is kept: {launch.resuming(module, workdir)}", file=sys.stderr)
        with contextlib.suppress(OSError):
            _explain(module, doc, workdir)
    sys.exit(status)
