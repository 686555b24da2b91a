"""The correction of label noise as its user runs it: its figures, the network it leaves, the network it is given."""

import json
import shutil

import numpy as np
import pytest

from experiments import label_correction
from experiments.families import classifier
from experiments.label_correction import methods
from subspace_jax import checkpoint, data, training

SMOKE = label_correction.PRESETS["smoke"]


@pytest.fixture
def no_training(monkeypatch):
    """A test fails where a network is trained: by an epoch or by steps."""
    for name in ("train_epoch", "minimise"):
        monkeypatch.setattr(training, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))


def test_every_method_has_its_figures(finished):
    run = finished("label_correction")
    names = [*methods.BASELINES, "before", "verifix", "verifix_clean_selection", "early_stopping"]
    names += ["sam_verifix", "mixup_verifix", *(f"verifix_{name}" for name in methods.SETS)]
    expected = {f"test_accuracy/{name}" for name in names} | {"train_accuracy/before", "alpha"}
    expected |= {f"{kind}/{name}" for kind in ("trusted_clean_share", "trusted_count") for name in methods.SETS}
    expected |= {f"seconds/{name}" for name in (*methods.BASELINES, "verifix")}
    assert run.figures.keys() == expected
    assert run.figures["test_accuracy/verifix"] == run.figures[f"test_accuracy/verifix_{SMOKE.trusted}"]
    assert run.figures["trusted_clean_share/clean_members"] == 1
    assert run.figures["trusted_count/clean_members"] == SMOKE.trusted_count
    assert run.figures["alpha"] in (0, *SMOKE.alphas)
    assert run.line["claims"] == []
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert {(row["trusted"], row["alpha"]) for row in rows} == {
        (name, alpha) for name in methods.SETS for alpha in (0, *SMOKE.alphas)
    }


def test_the_corrected_network_is_a_checkpoint_that_names_its_edit(finished):
    run = finished("label_correction")
    model, variables, saved = checkpoint.load_model(run.workdir / "edited")
    (edit,) = saved["edits"]
    assert edit["method"] == "verifix"
    assert edit["alpha"] == (run.figures["alpha"] or None)
    assert edit["layers"] == ["dense0/kernel", "head/kernel"]
    assert len(set(edit["trusted"])) == SMOKE.trusted_count
    train, test = (data.load("digits", split) for split in ("train", "test"))
    assert set(edit["trusted"]) <= set(train["index"][: SMOKE.samples].tolist())
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    accuracy = training.evaluate(model.apply, variables, x, test["label"])
    assert float(accuracy) == run.figures["test_accuracy/verifix"]


def test_a_resumed_run_trains_nothing_again(finished, ask, tmp_path, monkeypatch):
    first = finished("label_correction")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(training, "train_epoch", lambda *_, **__: lambda *_: pytest.fail("an epoch was run"))
    monkeypatch.setattr(training, "minimise", lambda *_, **__: pytest.fail("minimise was called"))
    assert ask("label_correction", "--resume").figures == first.figures


def test_samples_that_choose_alpha_and_those_never_seen_are_apart(finished):
    run = finished("label_correction")
    unseen = np.load(run.workdir / "stages" / "seed0_unseen.npz")["index"]
    index = data.load("digits", "train")["index"]
    case = methods.case(SMOKE, classifier.setup(SMOKE), 0)
    left = set(index[SMOKE.samples :].tolist())
    assert set(case.selection.index.tolist()) | set(case.rest.index.tolist()) == left
    assert len(case.selection.index) == SMOKE.selection_count
    assert set(unseen.tolist()) <= set(case.rest.index.tolist())
    wrong = (case.selection.label != case.selection.true).mean()
    assert wrong == pytest.approx(SMOKE.noise, abs=1 / SMOKE.selection_count)


def test_a_memorized_network_is_corrected_without_being_trained_again(finished, ask, monkeypatch):
    other = finished("memorization")
    monkeypatch.setattr(training, "train_epoch", lambda *_, **__: pytest.fail("it was trained again"))
    run = ask("label_correction", "--preset", "smoke", "--checkpoint", str(other.workdir))
    assert run.figures["test_accuracy/before"] == other.figures["test_accuracy"]
    assert "test_accuracy/early_stopping" not in run.figures
    _, _, saved = checkpoint.load_model(run.workdir / "edited")
    assert saved["recipe"]["optimizer"] == "sgd"
    assert saved["corruption"]["duplicates"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "1437"], "--selection-count 100 and at least 10 samples to trust are taken from the 0 training"),
        (["--samples", "1330"], "from the 107 training samples that are left out"),
        (["--selection-count", "0"], "--selection-count 0 and"),
        (["--trusted-count", "9"], "--trusted-count is at least 10, one sample a class; got 9"),
        (["--trusted-count", "400"], "40 are asked for"),
        (["--alphas"], "--alphas are positive and finite, such as 10 100 1000; got ()"),
        (["--alphas", "10", "-1"], "got (10.0, -1.0)"),
        (["--alphas", "nan"], "got (nan,)"),
        (["--skip", "1"], "--skip is a share of each class, in [0, 1); got 1.0"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(flags, message, refuse, no_training):
    refuse("label_correction", *flags, message=message)
