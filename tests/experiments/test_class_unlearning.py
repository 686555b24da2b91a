"""The experiment on forgetting classes: its figures, the network it leaves, networks it is given, flags it refuses."""

import json
import shutil

import numpy as np
import pytest

from experiments import class_unlearning
from experiments.class_unlearning import methods, report
from experiments.families import classifier
from subspace_jax import checkpoint, training
from subspace_jax.unlearning import baselines, evaluation

LOADED = "--preset smoke --samples 300 --tune-epochs 1 --shadows 0 --samples-per-class 4".split()
SMALL = [*LOADED, "--epochs", "4"]
PROJECTIONS = "original", "projection", "no_shared", "last_layer"


@pytest.fixture
def one_baseline(monkeypatch):
    """For tests of the network that is loaded, edited and saved: the other ten baselines say nothing of it."""
    monkeypatch.setattr(baselines, "METHODS", {"retrain": baselines.retrain})
    monkeypatch.setattr(report, "BESIDE", ("projection", "retrain"))


def task_of(**flags):
    config = class_unlearning.Config(**{"seeds": 1, "samples": 300} | flags)
    return classifier.task(config, classifier.setup(config), 0)


def accuracies(folder, task, forget):
    model, variables, _ = checkpoint.load_model(folder)
    logits = training.predict(model.apply, variables, task.test_x)
    return [float(value) for value in evaluation.class_accuracy(logits, task.test_label, forget=forget)]


def assert_complete(run, methods):
    kinds = {*report.KINDS, "score"}
    named = {name for name in run.figures if not name.startswith("ulira")}
    assert named == {f"{kind}/{method}" for kind in kinds for method in methods} | {"alpha_r", "alpha_f"}
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert sorted((row["seed"], row["method"]) for row in rows) == sorted((0, method) for method in methods)
    assert run.line["claims"] == []


def test_every_method_has_its_figures_and_the_attack_too(finished):
    run = finished("class_unlearning")
    assert_complete(run, {*PROJECTIONS, *baselines.METHODS})
    assert {"ulira_auc/original", "ulira_auc/projection"} <= run.figures.keys()


def test_the_edited_network_is_a_checkpoint_that_names_its_edit(finished):
    run = finished("class_unlearning")
    _, _, config = checkpoint.load_model(run.workdir / "edited")
    (edit,) = config["edits"]
    assert {k: edit[k] for k in ("method", "forget", "data", "seed")} == {
        "method": "unlearn_classes", "forget": [3], "data": "digits", "seed": 0,
    }  # fmt: skip
    assert edit["layers"] == ["dense0/kernel", "dense1/kernel", "head/kernel"]
    assert (edit["alpha_r"], edit["alpha_f"]) == (run.figures["alpha_r"], run.figures["alpha_f"])
    expected = [run.figures[f"{kind}_accuracy/projection"] for kind in ("retain", "forget")]
    assert accuracies(run.workdir / "edited", task_of(), [3]) == expected


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path):
    first = finished("class_unlearning")
    shutil.copytree(first.workdir, tmp_path / "w")
    assert ask("class_unlearning", "--resume").figures == first.figures  # the times, too: nothing was run


def test_a_class_that_is_gone_already_is_refused(finished, ask):
    edited = finished("class_unlearning").workdir / "edited"
    again = ask("class_unlearning", *LOADED, "--checkpoint", str(edited))
    assert again.status == 2
    assert f"class 3 is forgotten in {edited} already: name others in --forget" in again.err


def test_two_classes_at_once_and_in_turn(ask, one_baseline):
    run = ask("class_unlearning", *SMALL, "--forget", "3", "5")
    assert_complete(run, {*PROJECTIONS, "projection_sequential", "retrain"})
    expected = [run.figures[f"{kind}_accuracy/projection"] for kind in ("retain", "forget")]
    assert accuracies(run.workdir / "edited", task_of(), [3, 5]) == expected


def test_a_network_of_another_experiment_is_not_trained_again(finished, ask, one_baseline):
    other = finished("memorization").workdir
    run = ask("class_unlearning", *LOADED, "--checkpoint", str(other))
    expected = [run.figures[f"{kind}_accuracy/original"] for kind in ("retain", "forget")]
    assert accuracies(other, task_of(), [3]) == expected
    assert not (run.workdir / "checkpoints").exists()
    assert [edit["forget"] for edit in checkpoint.load_model(run.workdir / "edited")[2]["edits"]] == [[3]]


def drawn(forget, earlier, seed=0):
    config = class_unlearning.PRESETS["smoke"]
    task = classifier.task(config, classifier.setup(config), seed)
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
        (["--forget"], "forget names the classes to forget by number, such as (3, 5); got ()"),
        (["--samples-per-class", "0"], "each set takes at least 2 samples; asked for 0 and 0"),
        (["--shadows", "2"], "--shadows is 0 or at least 3, of which one is held out in turn; got 2"),
        (["--last-layers", "4"], "the last k layers are some of 3, k in [1, 3]; got 4"),
        (["--tune-epochs", "0"], "--tune-epochs is at least 1, a pass over the retain set; got 0"),
        (["--model", "lstm"], "there is no network 'lstm'"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_trained(flags, message, refuse):
    refuse("class_unlearning", *flags, message=message)
