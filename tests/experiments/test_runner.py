"""A run and its folder: who writes there, what stays after an error, what is said of how to go on.

The file is itself a small experiment.
"""

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.harness import contents, flags, interrupt, report, runner
from tests.test_files import limited


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """A run that fails as it is told."""

    fails: str = ""
    """The error to raise: first, or after a finished stage."""


PRESETS = {"cpu": Config(seeds=1)}
ERRORS = {
    "value": ValueError("--width is at least 1; got 0."),
    "key": KeyError("there is no score 'x'"),
    "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scores.npz"),
    "ctrl-c": KeyboardInterrupt(),
    "ours": AttributeError("no attribute 'logits'"),
    "dictionary": KeyError("fd_norm"),
}


ROOT = pathlib.Path(__file__).parents[2]
GO_ON = "python -m tests.experiments.test_runner --resume --workdir"


class Bare(Config):
    loads = False


def interrupted(*_):
    raise KeyboardInterrupt


def main(config):
    when, _, kind = config.fails.partition(" ")
    if when == "first":
        raise ERRORS[kind]
    found = runner.stage(config, "one", lambda: {"a": np.arange(3)})
    if when == "then":
        raise ERRORS[kind]
    return runner.Summary({"a/sum": float(found["a"].sum())}, {"a/sum": 0.0}, [], [], [])


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def ask(*flags, presets=PRESETS):
        monkeypatch.setattr(sys, "argv", ["test_runner", *flags])
        status = 0
        try:
            runner.run(main, presets)
        except SystemExit as stop:
            status = stop.code
        out, err = capfd.readouterr()
        return status, out, err

    return ask


def failing(how):
    return {"cpu": dataclasses.replace(PRESETS["cpu"], fails=how)}


def test_a_run_writes_a_numbered_folder_and_one_line(run, tmp_path):
    status, out, err = run()
    assert status == 0
    assert json.loads(out)["figures"] == {"a/sum": 3.0}
    assert out.count("\n") == 1
    assert "report: runs/test_runner/1/report.html" in err
    assert run()[2].count("runs/test_runner/2/report.html") == 1
    assert (tmp_path / "runs" / "test_runner" / "1" / "summary.json").exists()


def test_a_preset_that_a_question_lacks_is_refused(run, tmp_path):
    status, _, err = run("--preset", "study")
    assert status == 2
    assert "experiments.test_runner has the presets cpu; got --preset study." in err
    assert not (tmp_path / "runs").exists()


def test_two_runs_do_not_write_in_one_folder(run, tmp_path):
    assert run("--workdir", "w")[0] == 0
    (tmp_path / "w" / "summary.json").unlink()
    with (tmp_path / "w" / ".lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(0)
        held.write("4711")
        held.flush()
        before = sorted(tmp_path.glob("w/**/*"))
        status, out, err = run("--resume", "--workdir", "w")
        assert (status, out) == (2, "")
        assert err.splitlines() == ["error: process 4711 writes in w: wait for it, stop it, or use another."]
        assert sorted(tmp_path.glob("w/**/*")) == before
    assert run("--resume", "--workdir", "w")[0] == 0
    assert (tmp_path / "w" / ".lock").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("value", "error: --width is at least 1; got 0."),
        ("key", "error: there is no score 'x'"),
        ("disk", "error: scores.npz could not be written (No space left on device): free space."),
    ],
)
def test_a_refusal_before_anything_is_finished_leaves_the_folder_free(kind, message, run, tmp_path):
    status, out, err = run("--workdir", "w", presets=failing(f"first {kind}"))
    assert (status, out) == (2, "")
    assert err.splitlines() == [message, "details: w/error.txt"]
    assert "Traceback" in (tmp_path / "w" / "error.txt").read_text()
    assert run("--workdir", "w")[0] == 0


def test_an_error_after_a_finished_part_says_how_to_go_on(run):
    status, _, err = run("--workdir", "w", presets=failing("then disk"))
    assert status == 2
    assert err.splitlines()[-1] == f"what was finished is kept: {GO_ON} w"


@pytest.mark.parametrize("when", ["first", "then"])
def test_an_interrupted_run_says_how_to_go_on(when, run):
    status, out, err = run("--workdir", "w", presets=failing(f"{when} ctrl-c"))
    assert (status, out) == (130, "")
    assert err.splitlines() == ["stopped", f"what was finished is kept: {GO_ON} w"]


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-30], lambda raw: raw[:70] + b"?" + raw[71:]])
def test_a_damaged_stage_is_computed_again(damage, run, tmp_path):
    assert run("--workdir", "w", presets=failing("then disk"))[0] == 2
    path = tmp_path / "w" / "stages" / "one.npz"
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "w" / "config.json").write_text((tmp_path / "w" / "config.json").read_text().replace("then disk", ""))
    status, out, err = run("--resume", "--workdir", "w")
    assert (status, json.loads(out)["figures"]) == (0, {"a/sum": 3.0})
    assert err.startswith("w/stages/one.npz is damaged (")
    assert err.splitlines()[0].endswith("): it is computed again.")


def test_a_report_that_does_not_fit_leaves_an_unfinished_run(run, tmp_path):
    with limited(1_500):  # the files before it are smaller
        status, out, err = run("--workdir", "w")
    assert (status, out) == (2, "")
    assert err.startswith("error: w/report.html could not be written (File too large): free space or raise the limit")
    assert err.splitlines()[-1] == f"what was finished is kept: {GO_ON} w"
    assert not list(tmp_path.glob("w/**/*.partial"))
    assert not (tmp_path / "w" / "summary.json").exists()
    assert json.loads(run("--resume", "--workdir", "w")[1])["figures"] == {"a/sum": 3.0}


def test_of_runs_that_start_at_once_each_has_its_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flags, "numbered", lambda folder: [])  # as long as none has made its own
    assert [flags.opened("q", Config()).workdir for _ in range(3)] == ["runs/q/1", "runs/q/2", "runs/q/3"]
    flags.opened("q", Config(workdir="w", fails="first"))
    with pytest.raises(ValueError, match="w already holds a run"):
        flags.opened("q", Config(workdir="w", fails="second"))
    assert json.loads((tmp_path / "w" / "config.json").read_text())["fails"] == "first"


def test_flags_that_do_not_fit_leave_no_half_file(run, tmp_path):
    with limited(180):
        status, out, err = run("--workdir", "w")
    assert (status, out) == (2, "")
    assert (
        err == "error: w/config.json could not be written (File too large): free space or raise the limit on file "
        "sizes (ulimit -f).\n"
    )
    assert run("--workdir", "w")[0] == 0


def test_ctrl_c_before_there_is_a_folder_promises_nothing(run, monkeypatch):
    monkeypatch.setattr(flags, "configure", interrupted)
    assert run("--workdir", "w") == (130, "", "stopped\n")


@pytest.mark.parametrize(("kind", "said"), [("ours", "AttributeError: no"), ("dictionary", "KeyError: 'fd_norm'")])
def test_an_error_of_ours_has_its_own_status_and_a_file_to_report(kind, said, run, tmp_path):
    status, out, err = run("--workdir", "w", presets=failing(f"then {kind}"))
    assert (status, out) == (1, "")
    fault, report, go_on = err.splitlines()[-3:]
    assert fault.startswith(f"fault: {said}")
    assert report == "please report it with w/error.txt"
    assert go_on == f"what was finished is kept: {GO_ON} w"
    assert "Traceback" in (tmp_path / "w" / "error.txt").read_text()


def test_a_run_of_another_version_is_named(run, tmp_path):
    assert run("--workdir", "w")[0] == 0
    (tmp_path / "w" / "summary.json").unlink()
    saved = json.loads((tmp_path / "w" / "config.json").read_text())
    for text, message in (
        (json.dumps(saved | {"warmth": 3}), "has warmth, which this version lacks"),
        ("{", "damaged"),
    ):
        (tmp_path / "w" / "config.json").write_text(text)
        status, _, err = run("--resume", "--workdir", "w")
        assert status == 2
        assert message in err.splitlines()[0]


def test_a_flag_without_use_is_refused(run):
    untrained = {"cpu": Bare(seeds=1)}
    for presets, asked, message in (
        (untrained, ("--checkpoint", "x"), "--checkpoint has no use here"),
        (PRESETS, ("--epoch", "3"), "got --epoch 3 without it"),
    ):
        status, out, err = run(*asked, presets=presets)
        assert (status, out) == (2, "")
        assert message in err


def test_a_folder_says_what_its_files_are(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("empty.csv", "summary.json", "figures/curve.png", "lone.npz", "scores.npz"):
        (tmp_path / name).touch()
    (tmp_path / "scores.csv").write_text("index,loss\n0,.5\n1,.25\n")
    for network, config in (("seed0/4", {"model": {}}), ("seed0/10", {"model": {}}), ("ring/2", {"label": "ring"})):
        folder = tmp_path / "checkpoints" / network / "config"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(json.dumps(config))
    for damaged, text in (("seed0/12.orbax-checkpoint-tmp", "{}"), ("cut/3", "{")):
        folder = tmp_path / "checkpoints" / damaged / "config"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(text)
    shown = [report.Section("How it learned", figures=(tmp_path / "figures" / "curve.png",))]
    found = dict(contents.described(tmp_path, shown))
    assert list(found) == [
        "summary.json", "empty.csv", "scores.csv", "lone.npz", "scores.npz", "figures/curve.png", "checkpoints/seed0/",
        "checkpoints/cut/",
    ]  # fmt: skip
    assert found["scores.csv"] == "2 rows of index, loss"
    assert found["scores.npz"] == "the columns of scores.csv as NumPy arrays"
    assert found["figures/curve.png"] == "How it learned"
    network = tmp_path / "checkpoints" / "seed0"
    assert found["checkpoints/seed0/"] == f"a network (epochs 4, 10) for any question: --checkpoint {network}"
    assert found["checkpoints/cut/"].endswith("(2 in all), for --resume alone")


def test_a_folder_that_may_not_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = run("--workdir", "file/w")
    assert (status, out) == (2, "")
    assert err.startswith("error: [Errno 20] Not a directory: ")
    assert err.count("\n") == 1


def test_arguments_of_a_network_are_numbers_lists_and_words():
    lines = ("filters=16,32", "widths=[8]", "use_bias=false", "norm=group", "width=4", "rate=.5")
    assert flags.network_arguments(Config(network_args=lines)) == {
        "filters": [16, 32], "widths": [8], "use_bias": False, "norm": "group", "width": 4, "rate": ".5",
    }  # fmt: skip


def test_arrays_are_written_without_pickles_and_read_back(tmp_path):
    runner.save_arrays(tmp_path / "a.npz", {"a": np.arange(3), "b": np.array(["x", "yz"])})
    with np.load(tmp_path / "a.npz") as found:
        assert sorted(found.files) == ["a", "b"]
    with pytest.raises(TypeError, match="c holds Python objects"):
        runner.save_arrays(tmp_path / "b.npz", {"c": np.array([None])})


def test_ctrl_c_in_the_garbage_collector_is_heard_a_moment_later():
    def _xla_gc_callback():
        signal.raise_signal(signal.SIGINT)

    def work():
        with interrupt.heard():
            _xla_gc_callback()
            time.sleep(20)

    before, started = signal.getsignal(signal.SIGINT), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - started < 10
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_while_the_command_imports_leaves_no_traceback(tmp_path):
    """A library that takes its time, and Ctrl-C arrives."""
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)"
    (tmp_path / "jax.py").write_text(text)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    run = subprocess.Popen(
        [sys.executable, "-m", "experiments.memorization"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (130, "", "stopped\n")


def test_a_claim_has_its_value_by_every_seed():
    def claims(config, figures):
        return [runner.Claim("a above b", figures["a"] - figures["b"], 0.5)]

    runs = [{"a": a, "b": b} for a, b in ((1.0, 0.0), (3.0, 1.0), (1.0, 1.0), (2.0, 1.0))]
    figures, _ = runner.over_seeds(runs)
    (claim,) = runner.judged(claims, Config(), figures, runs)
    assert (claim.value, claim.seeds, claim.holds) == (1.0, [1.0, 2.0, 0.0, 1.0], True)
    assert report.by_seed(claim._asdict(), first=10) == ("0.6667", "12")


def test_few_seeds_have_no_lowest_three_and_what_is_no_number_falls_short():
    claim = {"seeds": [1.0, float("nan")], "threshold": 0.5}
    assert report.by_seed(claim, first=0) == ("", "1")
    assert report.by_seed({"threshold": 0.5}, first=0) == ("", "")
