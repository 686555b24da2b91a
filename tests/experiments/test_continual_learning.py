"""Sequences of tasks as their user runs them: every method, every benchmark, the gpu preset at small size."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import continual_learning
from experiments.continual_learning import methods
from experiments.families import task_sequence
from subspace_jax.continual import protocol

SMALL = "--preset smoke --steps 20 --method".split()


def matrices(run, name, *, tasks=2):
    found = np.zeros((tasks + 1, tasks))
    with (run.workdir / "matrix.csv").open() as file:
        for row in csv.DictReader(file):
            if row["method"] == name:
                found[int(row["tasks_learned"]), int(row["task"])] = float(row["accuracy"])
    return found


def test_figures_are_those_of_the_written_matrix(finished):
    run = finished("continual_learning")
    for name in ("finetune", "gpm", "space"):
        measured = protocol.measures(matrices(run, name))
        assert run.figures[f"acc/{name}"] == pytest.approx(measured.accuracy)
        assert run.figures[f"bwt/{name}"] == pytest.approx(measured.backward_transfer)
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} == set(methods.NAMES)
    assert sum(row["method"] == "gpm" for row in rows) == 6
    assert run.figures["memory/gpm"] > 0


def test_every_method_runs_and_a_head_a_task_is_said(finished):
    run = finished("continual_learning")
    for name in methods.NAMES:
        assert run.figures[f"task_id_at_test/{name}"] == float(name in methods.TOLD)
    assert run.line["claims"] == []


@pytest.mark.parametrize("benchmark", ["rotated", "split"])
def test_other_benchmarks(benchmark, ask):
    run = ask("continual_learning", *SMALL, "gpm", "--benchmark", benchmark)
    assert np.isfinite(list(run.figures.values())).all()
    assert run.figures["task_id_at_test/gpm"] == float(benchmark == "split")


@pytest.fixture
def three_superclasses(tmp_path):
    """Digits of three superclasses with two classes each."""
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for split in ("train", "test"):
        label = np.arange(60) % 6
        image = (rng.integers(0, 100, (60, 6, 6, 1)) + 20 * label[:, None, None, None]).astype(np.uint8)
        np.savez(tmp_path / "mine" / f"{split}.npz", image=image, label=label, coarse_label=label % 3)
    return ["--data", "mine", "--data-dir", str(tmp_path), "--benchmark", "superclass"]


def test_superclasses_are_tasks(three_superclasses, ask, refuse, tmp_path):
    run = ask("continual_learning", *SMALL, "finetune", *three_superclasses, "--tasks", "3")
    assert run.figures["task_id_at_test/finetune"] == 1
    config = dataclasses.replace(
        continual_learning.PRESETS["smoke"], tasks=3, data="mine", data_dir=str(tmp_path), benchmark="superclass"
    )
    found = task_sequence.source(config)
    assert (found.groups, found.classes) == (((0, 3), (1, 4), (2, 5)), 2)


def test_superclasses_are_as_many_as_tasks(three_superclasses, refuse):
    message = "mine has 3 superclasses, one a task; got --tasks 2"
    refuse("continual_learning", "--method", "finetune", *three_superclasses, message=message)


@pytest.mark.process
@pytest.mark.parametrize("name", ["gpm", "trgp"])
def test_the_gpu_preset_at_small_size_with_convolutions_and_a_plateau(name, ask):
    small = "--data digits --samples 200 --tasks 2 --model lenet5 --epochs 2 --batch 20 --seeds 1".split()
    assert np.isfinite(
        list(ask("continual_learning", "--preset", "gpu", *small, "--method", name).figures.values())
    ).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "0"], "--tasks is at least 1"),
        (["--benchmark", "split", "--tasks", "3"], "a divisor of 10 classes; got 3"),
        (["--benchmark", "superclass"], "reads a column coarse_label, which digits lacks"),
        (["--energy", "1.5"], "is a share in [0, 1], or one for each of dense0/kernel, head/kernel; got (1.5,)"),
        (["--energy", ".9", ".9", ".9"], "or one for each of dense0/kernel, head/kernel; got (0.9, 0.9, 0.9)"),
        (["--steps", "0"], "there are steps and samples to take; got 0 steps"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(flags, message, refuse):
    refuse("continual_learning", "--method", "gpm", *flags, message=message)
