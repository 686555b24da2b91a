"""The first question as its user asks it: table, own data, saved networks, refusals, a run that is stopped."""

import contextlib
import csv
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.families.classifier import retrained
from experiments.harness import runner
from subspace_jax.checkpoint import load_model, running
from subspace_jax.core import closures
from tests.experiments.conftest import Finished, asked

ROOT = pathlib.Path(__file__).parents[2]
TINY = (  # what is tested is the order of files and keys, not what is learned
    "--preset smoke --samples 120 --widths 8 --epochs 4 --save-every 2 --score-every 2 --batch 32 --probes 1 "
    "--duplicates 3"
).split()
STOPPED = [*TINY, "--scores", "fd_norm"]  # one score with random directions, so that its keys count


def test_table_and_figures(finished):
    run = finished("memorization")
    names = "fd_norm fd_norm_last ggn_exact hv_norm loss input_grad inconfidence forgetting margin learning_time"
    for name in [*names.split(), "confident_learning", "second_split"]:
        assert {f"auroc/{name}", f"precision/{name}", f"seconds/{name}"} <= run.figures.keys()
    assert {"duplicates_auroc/fd_norm", "duplicates_auroc/loss", "test_accuracy"} <= run.figures.keys()
    with (run.workdir / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert [int(row["rank"]) for row in rows] == list(range(1, 301))
    wrong = sum(row["given_label"] != row["true_label"] and row["planted_copy"] == "0" for row in rows)
    assert wrong == 30
    scores = [float(row["loss"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_fewer_scores_no_refits_and_further_arguments_of_the_network(ask):
    few = ["--scores", "hv_norm", "--score", "hv_norm", "--no-refits", "--network-args", "activation=gelu"]
    run = ask("memorization", *TINY, *few)
    timed = {name.removeprefix("seconds/") for name in run.figures if name.startswith("seconds/")}
    assert timed == {"hv_norm", "training", *"loss margin learning_time forgetting inconfidence".split()}
    _, _, config = load_model(run.workdir)
    assert config["model"]["kwargs"]["activation"] == "gelu"
    again = ask("memorization", "--preset", "smoke", "--checkpoint", str(run.workdir), *few[:-2], workdir="again")
    assert again.figures["test_accuracy"] == run.figures["test_accuracy"]


@pytest.mark.process
def test_the_gpu_preset_at_small_size_with_convolutions(ask):
    small = "--samples 96 --batch 32 --epochs 2 --score-every 1 --probes 2 --score-batch 48 --duplicates 3 --seeds 1"
    flags = [*small.split(), "--data", "digits", "--model", "lenet5", "--dtype", "float32", "--no-sweep"]
    assert all(np.isfinite(value) for value in ask("memorization", "--preset", "gpu", *flags).figures.values())


def test_a_saved_network_is_scored_without_training(finished, ask):
    trained = finished("memorization")
    again = ask("memorization", "--preset", "smoke", "--checkpoint", str(trained.workdir))
    assert again.figures["test_accuracy"] == trained.figures["test_accuracy"]
    one, other = (np.load(run.workdir / "scores.npz") for run in (trained, again))
    one, other = ({name: found[name][np.argsort(found["index"])] for name in found.files} for found in (one, other))
    last, mean = (np.corrcoef(one[name], other["fd_norm"])[0, 1] for name in ("fd_norm_last", "fd_norm"))
    assert last > 0.5 > mean  # it scores the saved epoch, along other directions
    assert "auroc/second_split" not in again.figures


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--noise", "1.5"], "fraction is the share of wrong labels, in [0, 1]; got 1.5"),
        (["--model", "lstm"], "there is no network 'lstm'"),
        (["--step", "0"], "step"),
        (["--probes", "0"], "probes must be at least 1; got 0"),
        (["--batch", "301"], "--batch 301 is larger than the 300 training samples"),
        (["--score-every", "9"], "--score-every is in [1, 6], the epochs; got 9"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--duplicates", "900"], "pairs is in [0, 135]"),
        (["--noise-kind", "human"], "digits has no column aggre_label; label columns there: label"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
        (["--resume"], "no run to resume"),
        (["--scores", "curvature"], "--scores: no score 'curvature'; there are fd_norm"),
        (["--network-args", "depth=3"], "mlp takes no argument 'depth'"),
        (["--network-args", "norm"], "--network-args are NAME=VALUE, each name once; got 'norm'"),
        (["--network-args", "norm=12"], "norm is one of"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, refuse):
    refuse("memorization", *flags, message=message)


def test_a_used_workdir_is_not_overwritten_and_flags_do_not_change_midway(finished, ask, tmp_path):
    first = finished("memorization")
    shutil.copytree(first.workdir, tmp_path / "w")
    again = ask("memorization", "--preset", "smoke")
    assert again.status == 2
    assert "--resume" in again.err
    changed = ask("memorization", "--resume", "--lr", "0.2")
    assert changed.status == 2
    assert "started with lr = 0.05" in changed.err
    assert ask("memorization", "--resume").outcome() == first.outcome()


@contextlib.contextmanager
def stopped_at(number):
    """Count the moments before something is written, and stop at one of them; 0: at none."""
    seen = {"count": 0}

    def watched(real):
        def run(*args, **kwargs):
            seen["count"] += 1
            if seen["count"] == number:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((running, "save"), (runner, "save_arrays")):
            patch.setattr(module, name, watched(getattr(module, name)))
        yield seen


def assert_same_run(found, whole):
    assert found.outcome() == whole.outcome()
    assert (found.workdir / "metrics.jsonl").read_text() == (whole.workdir / "metrics.jsonl").read_text()
    a, b = (np.load(run.workdir / "scores.npz") for run in (whole, found))
    for column in a.files:
        np.testing.assert_array_equal(a[column], b[column])


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A whole run, and how many moments there are before something is written."""
    with stopped_at(0) as seen:
        return asked("memorization", *STOPPED, cwd=tmp_path_factory.mktemp("whole")), seen["count"]


@pytest.fixture
def whole(counted):
    return counted[0]


def test_a_run_stopped_before_anything_is_written_goes_on_to_the_same(counted, ask, tmp_path):
    """Each time it goes on it writes once and is stopped before the next moment: an error would reach the end."""
    whole, moments = counted
    assert moments >= 6
    with stopped_at(1):
        stopped = ask("memorization", *STOPPED)
    for _ in range(moments - 1):
        assert stopped.status == 130
        assert not (tmp_path / "w" / "summary.json").exists()
        assert "This run is not finished" in (tmp_path / "w" / "README.txt").read_text()
        *_, module, resume, flag, folder = shlex.split(stopped.err.splitlines()[-1])
        assert (module, resume, flag, folder) == ("experiments.memorization", "--resume", "--workdir", "w")
        with stopped_at(2):
            stopped = ask("memorization", resume)
    assert stopped.status == 130
    assert not (tmp_path / "w" / "summary.json").exists()
    assert_same_run(ask("memorization", "--resume"), whole)


def test_a_killed_process_goes_on_to_the_same(whole, tmp_path):
    """The real command, at a moment that nobody chose, on as many devices as this process has."""
    flags = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.memorization"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, *STOPPED, "--workdir", "w"], cwd=tmp_path, env=flags, **quiet) as run:
        saved = tmp_path / "w" / "checkpoints" / "seed0"
        while run.poll() is None and not saved.exists():
            time.sleep(0.01)
        time.sleep(0.2)
        run.send_signal(signal.SIGKILL)
    assert not (tmp_path / "w" / "summary.json").exists()
    command += ["--resume", "--workdir", "w"]
    resumed = subprocess.run(command, cwd=tmp_path, env=flags, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("\n") == 1
    assert_same_run(Finished(tmp_path / "w", json.loads(resumed.stdout), resumed.stderr, 0), whole)


@pytest.mark.process
@pytest.mark.parametrize("seconds", [0, 0.3])
def test_ctrl_c_says_the_command_that_goes_on(seconds, whole, tmp_path):
    flags = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.memorization", *STOPPED, "--workdir", "my run"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    run = subprocess.Popen(command, cwd=tmp_path, env=flags, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with run:
        while run.poll() is None and not (tmp_path / "my run" / "checkpoints").exists():
            time.sleep(0.01)
        time.sleep(seconds)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()
    assert run.returncode == 130
    assert "Traceback" not in err
    said = shlex.split(err.splitlines()[-1].removeprefix("what was finished is kept: "))
    assert said == ["python", "-m", "experiments.memorization", "--resume", "--workdir", "my run"]
    resumed = subprocess.run([sys.executable, *said[1:]], cwd=tmp_path, env=flags, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(Finished(tmp_path / "my run", json.loads(resumed.stdout), resumed.stderr, 0), whole)


def test_networks_that_are_trained_again_are_compiled_once():
    def apply(own, x):
        return x @ own

    assert closures.current(retrained.stacked(apply)) is closures.current(retrained.stacked(apply))
