"""Sequences of tasks as their user runs them: every method, every benchmark, the gpu preset at small size."""

import csv
import dataclasses
import sys

import jax
import numpy as np
import pytest

from experiments import continual_learning
from experiments.continual_learning import experiment, methods
from experiments.harness import runner
from subspace_jax.continual import protocol

SMOKE = dataclasses.replace(continual_learning.PRESETS["smoke"], preset="smoke", steps=20, space_steps=10)


def outcome(tmp_path, **changes):
    config = dataclasses.replace(SMOKE, workdir=str(tmp_path), **changes)
    return config, continual_learning.main(config)


def test_figures_are_those_of_the_written_matrix(tmp_path):
    _, summary = outcome(tmp_path, method="gpm", seeds=2)
    matrices = np.zeros((2, 3, 2))
    with (tmp_path / "matrix.csv").open() as file:
        for row in csv.DictReader(file):
            matrices[int(row["seed"]), int(row["tasks_learned"]), int(row["task"])] = float(row["accuracy"])
    measured = [protocol.measures(matrix) for matrix in matrices]
    assert summary.figures["acc/gpm"] == pytest.approx(np.mean([m.accuracy for m in measured]))
    assert summary.figures["bwt/gpm"] == pytest.approx(np.mean([m.backward_transfer for m in measured]))
    assert {row["method"] for row in summary.rows} == {"gpm"}
    assert len(summary.rows) == 2 * 6
    assert summary.figures["memory/gpm"] > 0
    assert summary.figures["task_id_at_test/gpm"] == 0


@pytest.mark.parametrize("benchmark", ["rotated", "split"])
def test_other_benchmarks(benchmark, tmp_path):
    _, summary = outcome(tmp_path, benchmark=benchmark, method="gpm")
    assert np.isfinite(list(summary.figures.values())).all()
    assert summary.figures["task_id_at_test/gpm"] == float(benchmark == "split")


def test_a_head_a_task_is_said(tmp_path):
    for name in methods.TOLD:
        _, summary = outcome(tmp_path / name, method=name)
        assert summary.figures[f"task_id_at_test/{name}"] == 1
        assert summary.claims == []


def test_superclasses_are_tasks(tmp_path):
    """Digits of three superclasses with two classes each."""
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for split in ("train", "test"):
        label = np.arange(60) % 6
        image = (rng.integers(0, 100, (60, 6, 6, 1)) + 20 * label[:, None, None, None]).astype(np.uint8)
        np.savez(tmp_path / "mine" / f"{split}.npz", image=image, label=label, coarse_label=label % 3)
    own = {"data": "mine", "data_dir": str(tmp_path), "benchmark": "superclass", "method": "finetune"}
    config, _ = outcome(tmp_path / "w", tasks=3, **own)
    shared = experiment.setup(config)
    assert shared.groups == ((0, 3), (1, 4), (2, 5))
    assert shared.classes == 2
    with pytest.raises(ValueError, match="mine has 3 superclasses, one a task; got --tasks 2"):
        outcome(tmp_path / "v", tasks=2, **own)


@pytest.mark.slow
def test_the_gpu_preset_at_small_size_with_convolutions_and_a_plateau(tmp_path):
    small = {"data": "digits", "samples": 200, "tasks": 2, "model": "lenet5", "epochs": 2, "batch": 20, "seeds": 1}
    for name in ("gpm", "trgp"):
        config = dataclasses.replace(
            continual_learning.PRESETS["gpu"], workdir=str(tmp_path / name), method=name, **small
        )  # fmt: skip
        summary = continual_learning.main(config)
        assert np.isfinite(list(summary.figures.values())).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "0"], "--tasks is at least 1"),
        (["--benchmark", "split", "--tasks", "3"], "a divisor of 10 classes; got 3"),
        (["--benchmark", "superclass"], "reads a column coarse_label, which digits lacks"),
        (
            ["--energy", "1.5"],
            "--energy is a share in [0, 1], or one for each of dense0/kernel, head/kernel; got (1.5,)",
        ),
        (["--energy", ".9", ".9", ".9"], "or one for each of dense0/kernel, head/kernel; got (0.9, 0.9, 0.9)"),
        (["--steps", "0"], "there are steps and samples to take; got 0 steps"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["continual_learning", "--preset", "smoke", "--method", "gpm", *flags])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the tests' compilation cache stays
    with pytest.raises(SystemExit) as stop:
        runner.run(continual_learning.main, continual_learning.PRESETS)
    assert stop.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err.splitlines()[0], err
