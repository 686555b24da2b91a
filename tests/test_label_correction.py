"""The correction of label noise as its user runs it: its figures, the network it leaves, the network it is given."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from experiments import label_correction, memorization
from experiments.families import classifier
from experiments.families.classifier import retrained
from experiments.harness import runner
from experiments.label_correction import protocol
from subspace_jax import checkpoint, data, training

SMALL = dataclasses.replace(label_correction.PRESETS["smoke"], preset="smoke", widths=(16,), alphas=(1e2, 1e3))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, summary) of a finished run."""
    config = dataclasses.replace(SMALL, workdir=str(tmp_path_factory.mktemp("run")))
    return config, label_correction.main(config)


@pytest.fixture
def no_training(monkeypatch):
    """A test fails where a network is trained: by an epoch or by steps."""
    for name in ("train_epoch", "minimise"):
        monkeypatch.setattr(training, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))


def test_every_method_has_its_figures(run):
    config, summary = run
    methods = [*protocol.BASELINES, "before", "verifix", "verifix_clean_selection", "early_stopping"]
    methods += ["sam_verifix", "mixup_verifix", *(f"verifix_{name}" for name in protocol.SETS)]
    expected = {f"test_accuracy/{name}" for name in methods} | {"train_accuracy/before", "alpha"}
    expected |= {f"{kind}/{name}" for kind in ("trusted_clean_share", "trusted_count") for name in protocol.SETS}
    expected |= {f"seconds/{name}" for name in (*protocol.BASELINES, "verifix")}
    assert summary.figures.keys() == expected
    assert summary.figures["test_accuracy/verifix"] == summary.figures[f"test_accuracy/verifix_{config.trusted}"]
    assert summary.figures["trusted_clean_share/clean_members"] == 1
    assert summary.figures["trusted_count/clean_members"] == config.trusted_count
    assert summary.figures["alpha"] in (0, *config.alphas)
    assert summary.claims == []
    assert json.dumps(summary.rows)
    assert {(row["trusted"], row["alpha"]) for row in summary.rows} == {
        (name, alpha) for name in protocol.SETS for alpha in (0, *config.alphas)
    }


def test_the_corrected_network_is_a_checkpoint_that_names_its_edit(run):
    config, summary = run
    model, variables, saved = checkpoint.load_model(f"{config.workdir}/edited")
    (edit,) = saved["edits"]
    assert edit["method"] == "verifix"
    assert edit["alpha"] == (summary.figures["alpha"] or None)
    assert edit["layers"] == ["dense0/kernel", "head/kernel"]
    assert len(set(edit["trusted"])) == config.trusted_count
    train, test = (data.load("digits", split) for split in ("train", "test"))
    assert set(edit["trusted"]) <= set(train["index"][: config.samples].tolist())
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    accuracy = training.evaluate(model.apply, variables, x, test["label"])
    assert float(accuracy) == summary.figures["test_accuracy/verifix"]


def test_a_resumed_run_trains_nothing_again(run, monkeypatch):
    config, summary = run
    monkeypatch.setattr(training, "train_epoch", lambda *_, **__: lambda *_: pytest.fail("an epoch was run"))
    monkeypatch.setattr(training, "minimise", lambda *_, **__: pytest.fail("minimise was called"))
    assert label_correction.main(config).figures == summary.figures


def test_samples_that_choose_alpha_and_those_never_seen_are_apart(run):
    config, _ = run
    stages = {name: np.load(f"{config.workdir}/stages/seed0_{name}.npz") for name in protocol.SETS}
    index = data.load("digits", "train")["index"]
    shared = classifier.setup(config)
    case = protocol.case(config, shared, 0)
    left = set(index[config.samples :].tolist())
    assert set(case.selection.index.tolist()) | set(case.rest.index.tolist()) == left
    assert len(case.selection.index) == config.selection_count
    assert set(stages["unseen"]["index"].tolist()) <= set(case.rest.index.tolist())
    wrong = (case.selection.label != case.selection.true).mean()
    assert wrong == pytest.approx(config.noise, abs=1 / config.selection_count)


def test_a_memorized_network_is_corrected_without_being_trained_again(tmp_path, monkeypatch):
    before = memorization.PRESETS["smoke"]
    before = dataclasses.replace(
        before, preset="smoke", samples=200, noise=0.3, epochs=2, widths=(16,), probes=1, duplicates=3,
        workdir=str(tmp_path / "memorized"),
    )  # fmt: skip
    monkeypatch.setattr(retrained, "scores", lambda *_: {})
    summary = memorization.main(before)
    config = dataclasses.replace(SMALL, checkpoint=before.workdir, workdir=str(tmp_path / "corrected"))
    monkeypatch.setattr(training, "train_epoch", lambda *_, **__: pytest.fail("it was trained again"))
    found = label_correction.main(config)
    assert found.figures["test_accuracy/before"] == summary.figures["test_accuracy"]
    assert "test_accuracy/early_stopping" not in found.figures
    _, _, saved = checkpoint.load_model(f"{config.workdir}/edited")
    assert saved["recipe"]["optimizer"] == "sgd"
    assert saved["corruption"]["duplicates"] == 3


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
def test_bad_input_is_one_sentence_before_anything_is_trained(
    flags, message, tmp_path, monkeypatch, capfd, no_training
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["label_correction", "--preset", "smoke", *flags])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the tests' compilation cache stays
    with pytest.raises(SystemExit) as stop:
        runner.run(label_correction.main, label_correction.PRESETS)
    assert stop.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err.splitlines()[0], err
