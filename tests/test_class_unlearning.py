"""The experiment on forgetting classes: its figures, the network it leaves, networks it is given, flags it refuses."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from experiments import class_unlearning, memorization
from experiments.class_unlearning import methods, report
from experiments.families import classifier
from experiments.harness import runner
from subspace_jax import checkpoint, training
from subspace_jax.unlearning import baselines, evaluation

SMALL = "--preset smoke --samples 300 --epochs 4 --tune-epochs 1 --shadows 0 --samples-per-class 4".split()  # noqa: SIM905
PROJECTIONS = "original", "projection", "no_shared", "last_layer"


def run(monkeypatch, capfd, *flags):
    """The summary line of one run in this process, or the exit status and what it says."""
    monkeypatch.setattr(sys, "argv", ["class_unlearning", *flags])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the tests' compilation cache stays
    capfd.readouterr()
    try:
        runner.run(class_unlearning.main, class_unlearning.PRESETS)
    except SystemExit as stop:
        return stop.code, capfd.readouterr().err
    return json.loads(capfd.readouterr().out)


def saved_by(experiment, workdir, **flags):
    """A network trained and saved as another experiment does it, and its task."""
    config = experiment.Config(workdir=str(workdir), seeds=1, samples=300, epochs=4, widths=(16,), **flags)
    shared = classifier.setup(config)
    task = classifier.task(config, shared, 0)
    return classifier.trained(config, shared, task, 0), task


def accuracies(model, variables, task, forget):
    logits = training.predict(model.apply, variables, task.test_x)
    return [float(value) for value in evaluation.class_accuracy(logits, task.test_label, forget=forget)]


@pytest.mark.slow
def test_two_classes_at_once_and_in_turn_and_the_network_that_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    line = run(monkeypatch, capfd, *SMALL, "--forget", "3", "5", "--workdir", "w")
    methods = {*PROJECTIONS, "projection_sequential", *baselines.METHODS}
    kinds = {*report.KINDS, "score"}
    assert line["figures"].keys() == {f"{k}/{m}" for k in kinds for m in methods} | {"alpha_r", "alpha_f"}
    assert line["claims"] == []
    rows = [json.loads(row) for row in pathlib.Path("w/metrics.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["method"]) for row in rows] == list(dict.fromkeys((0, row["method"]) for row in rows))
    assert {row["method"] for row in rows} == methods

    model, variables, config = checkpoint.load_model("w/edited")
    (edit,) = config["edits"]
    assert {k: edit[k] for k in ("method", "forget", "data", "seed")} == {
        "method": "unlearn_classes", "forget": [3, 5], "data": "digits", "seed": 0,
    }  # fmt: skip
    assert edit["layers"] == ["dense0/kernel", "dense1/kernel", "head/kernel"]
    assert (edit["alpha_r"], edit["alpha_f"]) == (line["figures"]["alpha_r"], line["figures"]["alpha_f"])
    test = class_unlearning.PRESETS["smoke"]
    task = classifier.task(test, classifier.setup(test), 0)
    found = accuracies(model, variables, task, [3, 5])
    assert found == [line["figures"][f"{kind}_accuracy/projection"] for kind in ("retain", "forget")]

    again = run(monkeypatch, capfd, "--resume", "--workdir", "w")
    assert again["figures"] == line["figures"]  # the times, too: nothing was run
    status, err = run(monkeypatch, capfd, *SMALL, "--checkpoint", "w/edited", "--forget", "5")
    assert status == 2
    assert "class 5 is forgotten in w/edited already: name others in --forget" in err


@pytest.mark.slow
def test_a_network_of_another_experiment_is_not_trained_again(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    network, task = saved_by(memorization, tmp_path / "other", duplicates=3)
    line = run(monkeypatch, capfd, *SMALL, "--checkpoint", "other", "--workdir", "w")
    found = accuracies(network.model, network.variables, task, [3])
    assert found == [line["figures"][f"{kind}_accuracy/original"] for kind in ("retain", "forget")]
    assert not pathlib.Path("w/checkpoints").exists()
    assert [edit["forget"] for edit in checkpoint.load_model("w/edited")[2]["edits"]] == [[3]]


def drawn(forget, earlier, seed=0):
    config = class_unlearning.PRESETS["smoke"]
    shared = classifier.setup(config)
    task = classifier.task(config, shared, seed)
    return methods.choose(config, task, seed, forget, earlier), task, config


def test_the_samples_of_the_methods_are_apart_from_those_that_choose_the_strengths():
    rows, task, config = drawn((3,), ())
    used = np.concatenate([rows.retain, rows.forget])
    assert not np.intersect1d(used, rows.held).size
    assert len(rows.held) == len(task.label) // 5
    assert (np.bincount(task.label[rows.retain], minlength=10) == config.samples_per_class * (np.arange(10) != 3)).all()
    assert set(task.label[rows.forget]) == {3}
    assert len(rows.forget) == min(len(rows.retain), len(rows.go) - (task.label[rows.held] == 3).sum())
    assert sorted(np.concatenate([rows.stay, rows.go])) == list(range(len(task.label)))


def test_classes_that_were_forgotten_earlier_serve_nothing():
    before, _, _ = drawn((5,), ())
    rows, task, _ = drawn((5,), (3, 7))
    for part in (rows.retain, rows.forget, rows.held, rows.stay, rows.go):
        assert not np.isin(task.label[part], (3, 7)).any()
    assert not np.isin(task.test_label[rows.test], (3, 7)).any()
    assert set(rows.held) == {i for i in before.held if task.label[i] not in (3, 7)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--forget", "11"], "class 11 is to be forgotten but has no sample"),
        (["--forget", *map(str, range(10))], "no class stays when [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] are forgotten"),
        (["--forget"], "a forget set has at least 2 samples; got 0"),
        (["--samples-per-class", "0"], "each set takes at least 2 samples; asked for 0 and 0"),
        (["--shadows", "2"], "--shadows is 0 or at least 3, of which one is held out in turn; got 2"),
        (["--last-layers", "4"], "the last k layers are some of 3, k in [1, 3]; got 4"),
        (["--tune-epochs", "0"], "--tune-epochs is at least 1, a pass over the retain set; got 0"),
        (["--model", "lstm"], "there is no network 'lstm'"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_trained(flags, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    status, err = run(monkeypatch, capfd, *SMALL, *flags)
    assert status == 2
    assert message in err.splitlines()[0], err
    assert not list(tmp_path.glob("runs/*/*/checkpoints"))
