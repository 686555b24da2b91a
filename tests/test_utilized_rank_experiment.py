"""The experiment on utilized rank at small size: its figures agree with one another, its edit is a checkpoint."""

import dataclasses
import sys

import jax
import pytest

from experiments import utilized_rank
from experiments.harness import runner
from subspace_jax import checkpoint, data, training

SMALL = dataclasses.replace(
    utilized_rank.PRESETS["smoke"], preset="smoke", samples=200, widths=(24, 24), epochs=3, wider=True
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = dataclasses.replace(SMALL, workdir=str(tmp_path_factory.mktemp("rank")))
    return config, utilized_rank.main(config)


def test_figures_agree_with_one_another(run):
    _, (figures, std, claims, sections, rows) = run
    assert figures.keys() == std.keys()
    assert claims == []
    layers = ["dense0/kernel", "dense1/kernel", "head/kernel"]
    shares = [figures[f"utilization/{path}"] for path in layers]
    assert figures["utilization/mean"] == pytest.approx(sum(shares) / 3)
    assert all(0 < share <= 1 for share in [*shares, figures["utilization/mean_wider"]])
    assert all(1 <= figures[f"effective_rank/{path}"] <= 24 for path in layers)
    assert figures["parameters_ratio/tau_0.99"] <= figures["parameters_ratio/tau_0.999"] <= 1
    for kind in ("plain_svd", "input_only", "output_only", "whitened_svd", "random_subspaces", "magnitude_pruning"):
        assert all(f"accuracy_change/{kind}_{cut}" in figures for cut in ("tau_0.99", "tau_0.999", "search"))
    assert figures["accuracy_change/random_subspaces_tau_0.99"] < figures["accuracy_change/tau_0.99"] - 0.1
    assert {f"seconds/{part}" for part in ("capture", "spectra", "project", "factorise", "finetune", "search")} <= set(
        figures
    )
    assert [row["cut"] for row in rows] == ["tau_0.99", "tau_0.999", "search"]
    assert rows[0]["accuracy_change/tau_0.99"] == figures["accuracy_change/tau_0.99"]
    assert sum(len(section.figures) for section in sections) == 4
    assert all(path.exists() for section in sections for path in section.figures)


def test_a_finished_run_is_read_and_not_computed_again(run, monkeypatch):
    config, summary = run
    monkeypatch.setattr(utilized_rank.rank_cuts.capture, "collect", None)
    monkeypatch.setattr(training, "minimise", None)
    assert utilized_rank.main(config).figures == summary.figures


def test_the_edited_network_is_loaded_by_the_next_run(run, tmp_path):
    config, (figures, *_) = run
    model, variables, saved = checkpoint.load_model(f"{config.workdir}/edited")
    (edit,) = saved["edits"]
    assert edit["method"] == "utilized_rank"
    assert edit["tau"] == 0.999
    assert list(edit["ranks"]) == edit["layers"] == ["dense0/kernel", "dense1/kernel", "head/kernel"]
    test = data.load("digits", "test")
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    after = float(training.evaluate(model.apply, variables, x, test["label"]))
    assert after == pytest.approx(figures["test_accuracy/before"] + figures["accuracy_change/tau_0.999"])
    again = dataclasses.replace(
        SMALL, workdir=str(tmp_path), checkpoint=f"{config.workdir}/edited", tau=(0.999,), search=False
    )
    second = utilized_rank.main(again).figures
    assert second["test_accuracy/before"] == pytest.approx(after)
    assert second["utilization/mean"] <= figures["utilization/mean"]
    assert "utilization/mean_wider" not in second
    assert len(checkpoint.load_model(f"{again.workdir}/edited")[2]["edits"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tau", "0.9", "1.5"], "--tau is one or more shares of energy in (0, 1]; got (0.9, 1.5)"),
        (["--calibration", "0"], "--calibration must be at least 1; got 0"),
        (["--calibration", "50"], "50 calibration samples give 'dense0/kernel' 50 rows of 64 features"),
        (["--wider", "--widths", "90", "90", "--samples", "100"], "100 calibration samples give 'dense1/kernel'"),
        (["--wider", "--widths"], "--wider doubles --widths"),
        (["--finetune-epochs", "0"], "--finetune-epochs must be at least 1; got 0"),
        (["--finetune-lr", "0"], "--finetune-lr is above 0"),
        (["--max-drop", "-1"], "--max-drop at least 0; got 0.001 and -1.0"),
        (["--multiple", "0"], "--multiple must be at least 1; got 0"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_trained(flags, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["utilized_rank", "--preset", "smoke", *flags])
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the tests' compilation cache stays
    monkeypatch.setattr(training, "train_epoch", None)
    with pytest.raises(SystemExit) as stop:
        runner.run(utilized_rank.main, utilized_rank.PRESETS)
    assert stop.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err.splitlines()[0], err


FIGURES = {
    "utilization/dense1/kernel": 0.3, "utilization/mean": 0.6, "utilization/mean_wider": 0.5,
    "parameters_ratio/tau_0.999": 0.6, "parameters_ratio/tau_0.99": 0.2, "accuracy_change/tau_0.999": 0.001,
    "accuracy_change/tau_0.99": -0.01,
}  # fmt: skip


@pytest.mark.parametrize(
    "worse",
    [
        {}, {"utilization/dense1/kernel": 0.5}, {"parameters_ratio/tau_0.999": 0.8}, {"parameters_ratio/tau_0.99": 0.4},
        {"accuracy_change/tau_0.999": -0.003}, {"accuracy_change/tau_0.999": 0.003},
        {"accuracy_change/tau_0.99": -0.02}, {"utilization/mean_wider": 0.7},
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse):
    claims = utilized_rank.claims(utilized_rank.PRESETS["cpu"], FIGURES | worse)
    assert len(claims) == 6
    assert sum(not claim.holds for claim in claims) == len(worse)


@pytest.mark.parametrize(("ratio", "tuned", "svd", "held"), [(0.5, 0.0, -0.1, 3), (0.7, -0.01, -0.05, 0)])
def test_claims_of_the_gpu_preset(ratio, tuned, svd, held):
    names = ("parameters_ratio/search", "accuracy_change_finetuned/search", "accuracy_change/plain_svd_search")
    figures = dict(zip(names, (ratio, tuned, svd), strict=True)) | {"accuracy_change/search": -0.01}
    config = dataclasses.replace(utilized_rank.PRESETS["gpu"], preset="gpu", data_dir="somewhere", resume=True)
    assert sum(claim.holds for claim in utilized_rank.claims(config, figures)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 10}, {"noise": 0.1}, {"data": "mnist"}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert utilized_rank.claims(dataclasses.replace(utilized_rank.PRESETS["cpu"], **change), FIGURES) == []
    assert utilized_rank.claims(dataclasses.replace(utilized_rank.PRESETS["cpu"], seeds=5, seed=7), FIGURES)
