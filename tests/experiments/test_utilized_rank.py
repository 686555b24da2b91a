"""The experiment on utilized rank at small size: its figures agree with one another, its edit is a checkpoint."""

import dataclasses
import json
import shutil

import pytest

from experiments import utilized_rank
from experiments.utilized_rank import experiment
from subspace_jax import checkpoint, data, training
from subspace_jax.core import capture

LAYERS = ["dense0/kernel", "dense1/kernel", "head/kernel"]


def test_figures_agree_with_one_another(finished):
    run = finished("utilized_rank")
    figures = run.figures
    assert run.line["claims"] == []
    shares = [figures[f"utilization/{path}"] for path in LAYERS]
    assert figures["utilization/mean"] == pytest.approx(sum(shares) / 3)
    assert all(0 < share <= 1 for share in [*shares, figures["utilization/mean_wider"]])
    assert all(1 <= figures[f"effective_rank/{path}"] <= 24 for path in LAYERS)
    assert figures["parameters_ratio/tau_0.99"] <= figures["parameters_ratio/tau_0.999"] <= 1
    for kind in ("plain_svd", "input_only", "output_only", "whitened_svd", "random_subspaces", "magnitude_pruning"):
        assert all(f"accuracy_change/{kind}_{cut}" in figures for cut in ("tau_0.99", "tau_0.999", "search"))
    assert figures["accuracy_change/random_subspaces_tau_0.99"] < figures["accuracy_change/tau_0.99"] - 0.1
    timed = ("capture", "spectra", "project", "factorise", "finetune", "search")
    assert {f"seconds/{part}" for part in timed} <= figures.keys()
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["cut"] for row in rows] == ["tau_0.99", "tau_0.999", "search"]
    assert rows[0]["accuracy_change/tau_0.99"] == figures["accuracy_change/tau_0.99"]
    assert len(list((run.workdir / "figures").iterdir())) == 4


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("utilized_rank")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(capture, "collect", None)
    monkeypatch.setattr(training, "minimise", None)
    assert ask("utilized_rank", "--resume").figures == first.figures


def test_the_edited_network_is_loaded_by_the_next_run(finished, ask):
    first = finished("utilized_rank")
    model, variables, saved = checkpoint.load_model(first.workdir / "edited")
    (edit,) = saved["edits"]
    assert edit["method"] == "utilized_rank"
    assert edit["tau"] == 0.999
    assert list(edit["ranks"]) == edit["layers"] == LAYERS
    test = data.load("digits", "test")
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    after = float(training.evaluate(model.apply, variables, x, test["label"]))
    assert after == pytest.approx(first.figures["test_accuracy/before"] + first.figures["accuracy_change/tau_0.999"])
    flags = ["--checkpoint", str(first.workdir / "edited"), "--tau", "0.999", "--no-search"]
    again = ask("utilized_rank", "--preset", "smoke", *flags)
    assert again.figures["test_accuracy/before"] == pytest.approx(after)
    assert again.figures["utilization/mean"] <= first.figures["utilization/mean"]
    assert "utilization/mean_wider" not in again.figures
    assert len(checkpoint.load_model(again.workdir / "edited")[2]["edits"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tau", "0.9", "1.5"], "--tau is one or more shares of energy in (0, 1]; got (0.9, 1.5)"),
        (["--calibration", "0"], "--calibration must be at least 1; got 0"),
        (["--calibration", "50"], "50 calibration samples give 'dense0/kernel' 50 rows of 64 features"),
        (["--widths", "90", "90", "--samples", "100"], "100 calibration samples give 'dense1/kernel'"),
        (["--widths"], "--wider doubles --widths"),
        (["--finetune-epochs", "0"], "--finetune-epochs must be at least 1; got 0"),
        (["--finetune-lr", "0"], "--finetune-lr is above 0"),
        (["--max-drop", "-1"], "--max-drop at least 0; got 0.001 and -1.0"),
        (["--multiple", "0"], "--multiple must be at least 1; got 0"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)
    refuse("utilized_rank", *flags, message=message)


def test_a_flag_that_contradicts_the_network_at_checkpoint_is_refused(finished, refuse, monkeypatch):
    """It would have no effect; those that say the same are taken."""
    monkeypatch.setattr(training, "train_epoch", None)
    edited = str(finished("utilized_rank").workdir / "edited")
    same = ["--preset", "smoke", "--checkpoint", edited, "--data", "digits"]
    refuse("utilized_rank", *same, "--model", "cnn", message=f"--model cnn, but the network at {edited} has mlp")
    refuse("utilized_rank", *same, "--samples", "7", message="--samples 7, but the network at")
    refuse("continual_learning", *same, "--samples", "7", message="--samples 7, but the network at")


FIGURES = {
    "utilization/dense1/kernel": 0.3, "utilization/mean": 0.6, "utilization/mean_wider": 0.5,
    "parameters_ratio/tau_0.999": 0.6, "parameters_ratio/tau_0.99": 0.2, "accuracy_change/tau_0.999": 0.001,
    "accuracy_change/tau_0.99": -0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    "worse",
    [
        {}, {"utilization/dense1/kernel": 0.5}, {"parameters_ratio/tau_0.999": 0.8}, {"parameters_ratio/tau_0.99": 0.4},
        {"accuracy_change/tau_0.999": -0.004}, {"accuracy_change/tau_0.999": 0.004},
        {"accuracy_change/tau_0.99": -0.02}, {"utilization/mean_wider": 0.7},
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse):
    claims = experiment.claims(utilized_rank.PRESETS["cpu"], FIGURES | worse)
    assert len(claims) == 6
    assert sum(not claim.holds for claim in claims) == len(worse)


@pytest.mark.parametrize(("ratio", "tuned", "svd", "held"), [(0.5, 0.0, -0.1, 3), (0.7, -0.01, -0.05, 0)])
def test_claims_of_the_gpu_preset(ratio, tuned, svd, held):
    names = ("parameters_ratio/search", "accuracy_change_finetuned/search", "accuracy_change/plain_svd_search")
    figures = dict(zip(names, (ratio, tuned, svd), strict=True)) | {"accuracy_change/search": -0.01}
    config = dataclasses.replace(utilized_rank.PRESETS["gpu"], preset="gpu", data_dir="somewhere", resume=True)
    assert sum(claim.holds for claim in experiment.claims(config, figures)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 10}, {"noise": 0.1}, {"data": "mnist"}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(utilized_rank.PRESETS["cpu"], **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(utilized_rank.PRESETS["cpu"], seeds=5, seed=7), FIGURES)
