"""Questions on one classifier in several real processes: the figures and tables of one, also after one was killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
ROUNDING = 1e-5
TINY = "--preset smoke --samples 120 --epochs 4 --batch 32 --probes 1".split()
QUESTIONS = {
    "memorization": "--widths 8 --score-every 2 --save-every 1 --duplicates 3 --scores fd_norm",
    "membership_inference": "--widths 8 --models 8 --group 4 --curvature fd_norm",
    "stability_memorization": "--widths 8 --models 4 --group 2 --score-every 2",
}
TABLES = {"memorization": "scores", "membership_inference": "risk", "stability_memorization": "stability"}


def spawn(name, *flags, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"experiments.{name}", *flags, "--workdir", "several"]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def assert_same(process, name, alone):
    out, err = process.communicate()
    assert process.returncode == 0, err
    figures, folder = json.loads(out)["figures"], alone.workdir.parent
    for figure, value in alone.outcome().items():
        assert figures[figure] == pytest.approx(value, abs=ROUNDING, nan_ok=True), figure
    found, expected = (np.load(folder / run / f"{TABLES[name]}.npz") for run in ("several", alone.workdir.name))
    assert sorted(found.files) == sorted(expected.files)
    for column in expected.files:
        if expected[column].dtype.kind == "f":
            limit = ROUNDING * np.nanmax(np.abs(expected[column]), initial=1e-30)
            np.testing.assert_allclose(found[column], expected[column], rtol=0, atol=limit, err_msg=column)
        else:
            np.testing.assert_array_equal(found[column], expected[column], err_msg=column)


@pytest.mark.process
@pytest.mark.parametrize("name", ["membership_inference", "stability_memorization"])
def test_two_processes_find_what_one_finds(name, ask, tmp_path):
    flags = [*TINY, *QUESTIONS[name].split()]
    process = spawn(name, *flags, "--processes", "2", cwd=tmp_path)
    assert_same(process, name, ask(name, *flags))
    assert len(list((tmp_path / "several" / "logs").iterdir())) == 2


@pytest.mark.process
def test_a_process_is_killed_and_three_go_on_to_what_one_finds(ask, tmp_path):
    flags = [*TINY, *QUESTIONS["memorization"].split()]
    process = spawn("memorization", *flags, "--processes", "2", cwd=tmp_path)
    saved = tmp_path / "several" / "checkpoints" / "seed0"
    while not any(folder.name.isdigit() for folder in saved.glob("*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    err = process.communicate()[1]
    assert process.returncode == 1
    assert "process 1 was killed by signal 9\n" in err
    assert "--resume --workdir several" in err
    assert not (tmp_path / "several" / "summary.json").exists()
    again = spawn("memorization", "--resume", "--processes", "3", cwd=tmp_path)
    assert_same(again, "memorization", ask("memorization", *flags))
