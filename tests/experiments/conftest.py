"""Experiments run in this process: once a preset for all tests and workers, or with flags of one's own."""

import contextlib
import fcntl
import functools
import importlib
import io
import json
import os
import pathlib
import sys
from typing import NamedTuple

import jax
import pytest

from experiments.harness import launch, plots, runner


class Finished(NamedTuple):
    """A run that has ended: its folder, the line on stdout, what was said on stderr, the exit status."""

    workdir: pathlib.Path
    line: dict
    err: str
    status: int

    @property
    def figures(self):
        return self.line["figures"]

    def outcome(self):
        """Figures without times."""
        return {name: value for name, value in self.figures.items() if not name.startswith("seconds/")}


def blank(figure, workdir, name):
    """Where a picture would lie; drawing them takes a third of a small run."""
    path = pathlib.Path(workdir) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def asked(name, *flags, cwd, workdir="w", draw=False):
    """What `python -m experiments.<name> <flags>` does, in this process; stdout holds one line, or none."""
    question = importlib.import_module(f"experiments.{name}")
    out, err, status = io.StringIO(), io.StringIO(), 0
    before, argv, x64 = os.getcwd(), sys.argv, jax.config.jax_enable_x64
    start, launch.start = launch.start, lambda config: config.check()  # the devices of this process are there already
    save, plots.save = plots.save, plots.save if draw else blank
    os.chdir(cwd)
    sys.argv = [name, *flags, *([] if "--workdir" in flags or not workdir else ["--workdir", workdir])]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runner.run(question.main, question.PRESETS)
    except SystemExit as stop:
        status = stop.code
    finally:
        launch.start, plots.save = start, save
        os.chdir(before)
        sys.argv = argv
        jax.config.update("jax_enable_x64", x64)
    lines = out.getvalue().splitlines()
    assert len(lines) == (0 if status else 1), out.getvalue()
    folder = pathlib.Path(cwd) / (workdir or "runs")
    return Finished(folder, json.loads(lines[0]) if lines else {}, err.getvalue(), status)


@pytest.fixture
def ask(tmp_path):
    """`asked` in a folder of the test."""
    return functools.partial(asked, cwd=tmp_path)


@pytest.fixture
def refuse(ask, tmp_path):
    """Run flags that must be refused: nothing on stdout, status 2, the message in the first line, no traceback."""

    def run(name, *flags, message):
        found = ask(name, "--preset", "smoke", *flags)
        assert found.status == 2
        assert message in found.err.splitlines()[0], found.err
        assert "Traceback" not in found.err
        assert not [path for path in tmp_path.glob("**/checkpoints/**/*") if path.is_file()]

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """name -> the run of its smoke preset, made by the first test that asks for it, in whichever worker."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def run(name):
        folder = shared / "finished" / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            line = folder / "line.json"
            if not line.exists():
                made = asked(name, "--preset", "smoke", cwd=folder, draw=True)
                assert made.status == 0, made.err
                line.write_text(json.dumps([made.line, made.err]))
        return Finished(folder / "w", *json.loads(line.read_text()), 0)

    return run
