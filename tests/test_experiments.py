"""Every experiment as its user runs it: a process, one line on stdout, a folder, and the same again after a kill."""

import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import memorization
from experiments.harness import runner

ROOT = pathlib.Path(__file__).parent.parent
EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/__main__.py"))
SMALL = ["--preset", "smoke", "--epochs", "10", "--save-every", "2"]


def command(name, *flags):
    return [sys.executable, "-m", f"experiments.{name}", *flags]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compile quickly


def run(name, *flags, cwd):
    return subprocess.run(command(name, *flags), cwd=cwd, env=environment(), capture_output=True, text=True)


def summary(process):
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1
    return json.loads(process.stdout)


def outcome(process):
    """Figures without times."""
    return {k: v for k, v in summary(process)["figures"].items() if not k.startswith("seconds/")}


def own_data(folder, *, images=60, classes=3):
    """A user's npz folder."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        target = folder / "mine"
        target.mkdir(exist_ok=True)
        label = np.arange(images) % classes
        image = (rng.integers(0, 100, (images, 6, 6, 1)) + 50 * label[:, None, None, None]).astype(np.uint8)
        np.savez(target / f"{split}.npz", image=image, label=label, index=np.arange(images) + 1000)
    return ["--data", "mine", "--data-dir", str(folder), "--preset", "smoke", "--batch", "16"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_preset(name, tmp_path):
    line = summary(run(name, "--preset", "smoke", cwd=tmp_path))
    assert set(line) == {"experiment", "preset", "seconds", "figures", "std", "claims"}
    assert line["figures"].keys() == line["std"].keys()
    assert all(np.isfinite(value) for value in line["figures"].values())
    workdir = tmp_path / "runs" / name / "1"
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "http" not in page.replace("http://www.w3.org", "")
    for required in ("config.json", "metrics.jsonl", "summary.json", "figures"):
        assert (workdir / required).exists(), required


def test_memorization_table_and_figures(tmp_path):
    line = summary(run("memorization", "--preset", "smoke", "--workdir", "w", cwd=tmp_path))
    names = "fd_norm fd_norm_last ggn_exact hv_norm loss input_grad inconfidence forgetting margin learning_time"
    for name in [*names.split(), "confident_learning", "second_split"]:
        assert {f"auroc/{name}", f"precision/{name}", f"seconds/{name}"} <= line["figures"].keys()
    assert {"duplicates_auroc/fd_norm", "duplicates_auroc/loss", "test_accuracy"} <= line["figures"].keys()
    with (tmp_path / "w" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 500
    assert [int(row["rank"]) for row in rows] == list(range(1, 501))
    wrong = sum(row["given_label"] != row["true_label"] and row["planted_copy"] == "0" for row in rows)
    assert wrong == 50
    scores = [float(row["fd_norm"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_the_gpu_preset_at_small_size_with_convolutions(tmp_path):
    small = "--samples 96 --batch 32 --epochs 2 --score-every 1 --probes 2 --score-batch 48 --duplicates 3 --seeds 1"
    flags = [*small.split(), "--data", "digits", "--model", "lenet5", "--dtype", "float32", "--no-sweep"]
    line = summary(run("memorization", "--preset", "gpu", *flags, cwd=tmp_path))
    assert all(np.isfinite(value) for value in line["figures"].values())


def test_own_data_without_noise_lists_suspects(tmp_path):
    flags = [*own_data(tmp_path), "--noise", "0", "--duplicates", "0", "--workdir", "w"]
    line = summary(run("memorization", *flags, cwd=tmp_path))
    assert not any(key.startswith(("auroc", "precision", "duplicates")) for key in line["figures"])
    found = np.load(tmp_path / "w" / "scores.npz")
    assert set(found["index"]) == set(range(1000, 1060))
    assert (found["true_label"] == -1).all()


def test_a_saved_network_is_scored_without_training(tmp_path):
    trained = summary(run("memorization", *SMALL, "--keep-every", "2", "--workdir", "w", cwd=tmp_path))
    line = summary(run("memorization", "--preset", "smoke", "--checkpoint", "w", cwd=tmp_path))
    assert line["figures"]["test_accuracy"] == trained["figures"]["test_accuracy"]
    assert line["figures"]["auroc/fd_norm"] > 0.6
    assert "auroc/second_split" not in line["figures"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--noise", "1.5"], "fraction is the share of wrong labels, in [0, 1]; got 1.5"),
        (["--model", "lstm"], "there is no network 'lstm'"),
        (["--step", "0"], "step"),
        (["--probes", "0"], "probes must be at least 1; got 0"),
        (["--batch", "501"], "--batch 501 is larger than the 500 training samples"),
        (["--score-every", "9"], "--score-every is in [1, 6], the epochs; got 9"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--duplicates", "900"], "pairs is in [0, 225]"),
        (["--noise-kind", "human"], "digits has no column aggre_label; label columns there: label"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
        (["--resume"], "no run to resume"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["memorization", "--preset", "smoke", *flags])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the tests' compilation cache stays
    with pytest.raises(SystemExit) as stop:
        runner.run(memorization.main, memorization.PRESETS)
    assert stop.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err.splitlines()[0], err
    assert "Traceback" not in err


def test_a_used_workdir_is_not_overwritten_and_flags_do_not_change_midway(tmp_path):
    first = outcome(run("memorization", "--preset", "smoke", "--workdir", "w", cwd=tmp_path))
    again = run("memorization", "--preset", "smoke", "--workdir", "w", cwd=tmp_path)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    changed = run("memorization", "--resume", "--workdir", "w", "--lr", "0.2", cwd=tmp_path)
    assert changed.returncode == 2
    assert "started with lr = 0.05" in changed.stderr
    assert outcome(run("memorization", "--resume", "--workdir", "w", cwd=tmp_path)) == first


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(2))
def test_kill_and_resume_is_bit_exact(moment, tmp_path):
    whole = run("memorization", *SMALL, "--workdir", "whole", cwd=tmp_path)
    killed = subprocess.Popen(
        command("memorization", *SMALL, "--workdir", "killed"),
        cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    saved = tmp_path / "killed" / "checkpoints" / "seed0"
    while killed.poll() is None and not saved.exists():
        time.sleep(0.01)
    time.sleep(random.Random(moment).uniform(0, 4))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = run("memorization", "--resume", "--workdir", "killed", cwd=tmp_path)
    assert outcome(resumed) == outcome(whole)
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    a, b = (np.load(tmp_path / name / "scores.npz") for name in ("whole", "killed"))
    for column in a.files:
        np.testing.assert_array_equal(a[column], b[column])
