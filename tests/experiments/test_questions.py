"""What every question promises: a command, one line on stdout, a folder with a report, presets that parse."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import experiments.__main__
from experiments.harness import runner
from experiments.harness.published import questions, system

ROOT = pathlib.Path(__file__).parents[2]
QUESTIONS = (
    "adc_pruning", "asynchronous", "class_unlearning", "continual_learning", "continual_space", "decentralized",
    "distill_decentralized", "dp_training", "federated_proxy", "hybrid_parallel", "in_memory", "label_correction",
    "lifecycle", "low_precision", "membership_inference", "memorization", "mixed_precision", "ood_detection",
    "ot_classifier", "pca_design", "privacy_links", "robust_layer", "spiking_dct", "spiking_pruning",
    "stability_memorization", "subpopulation_shift", "transferability", "utilized_rank",
)  # fmt: skip


def test_the_questions_are_these():
    assert tuple(questions()) == QUESTIONS


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_smoke_preset_gives_one_line_and_a_folder(question, finished):
    run = finished(question)
    assert set(run.line) == {"experiment", "preset", "seconds", "figures", "std", "claims"}
    assert (run.line["experiment"], run.line["preset"]) == (question, "smoke")
    assert run.figures.keys() == run.line["std"].keys()
    assert all(np.isfinite(value) for value in run.figures.values())
    page = (run.workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "http" not in page.replace("http://www.w3.org", "")
    explained = (run.workdir / "README.txt").read_text()
    for required in ("config.json", "metrics.jsonl", "summary.json", "figures"):
        assert (run.workdir / required).exists(), required
        assert required in explained
    for path in run.workdir.glob("*.*"):
        assert path.name in explained or path.name in ("README.txt", ".lock")


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_the_same_grammar_and_a_help_of_one_screen(question, monkeypatch, capsys):
    room = importlib.import_module(f"experiments.{question}")
    monkeypatch.setattr(sys, "argv", [question, "--help"])
    with pytest.raises(SystemExit) as stop:
        runner.run(room.main, room.PRESETS)
    assert stop.value.code == 0
    screen, flags = capsys.readouterr().out.split("All flags:")
    assert screen.count("\n") <= 40
    for told in (f"python -m experiments.{question}", "expected:", "presets", "report.html", "exit status"):
        assert told in screen
    for flag in "data data-dir model checkpoint epoch workdir preset seed seeds resume samples network-args".split():
        assert f"--{flag}" in flags
    loads = type(room.PRESETS["cpu"]).loads
    assert ("--checkpoint DIR" in screen) == loads


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_was_published_is_said_by_names_of_our_figures(question, finished):
    known = system(question)
    smoke, recorded = finished(question).figures, ROOT / "results" / f"{question}_cpu_digits.json"
    there = smoke.keys() | (json.loads(recorded.read_text())["figures"].keys() if recorded.exists() else set())
    assert known.figures.keys() <= there


def test_the_list_of_questions_names_each_with_its_presets_and_its_newest_run(finished, monkeypatch, capsys, tmp_path):
    run = finished("utilized_rank")
    (tmp_path / "runs" / "utilized_rank").mkdir(parents=True)
    (tmp_path / "runs" / "utilized_rank" / "3").symlink_to(run.workdir)
    (tmp_path / "runs" / "utilized_rank" / "4").mkdir()
    (tmp_path / "runs" / "utilized_rank" / "4" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    experiments.__main__.main()
    said = capsys.readouterr().out
    for question in QUESTIONS:
        assert re.search(rf"python -m experiments.{question} --preset smoke\|cpu(\|study)?\|gpu\n", said)
    assert "runs/utilized_rank/3: smoke, digits, " in said
    assert "--resume --workdir runs/utilized_rank/4" in " ".join(said.split())
    assert "recorded: cpu, digits, " in said


@pytest.mark.process
@pytest.mark.parametrize("question", ["memorization", "decentralized"])
def test_a_process_does_the_same(question, finished, tmp_path):
    """One that trains a classifier, one that sets up its devices: from any folder, in a process with one device."""
    flags = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", f"experiments.{question}", "--preset", "smoke"]
    process = subprocess.run(command, cwd=tmp_path, env=flags, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1
    assert json.loads(process.stdout)["figures"].keys() == finished(question).figures.keys()
    assert f"report: runs/{question}/1/report.html" in process.stderr
    assert (tmp_path / "runs" / question / "1" / "report.html").exists()
