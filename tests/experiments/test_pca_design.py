"""The experiment on designs at small size: figures that agree, networks that other experiments open."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import pca_design
from experiments.pca_design import experiment, methods
from subspace_jax import checkpoint, data, nn, training
from subspace_jax.core import capture, costs

CPU = pca_design.PRESETS["cpu"]


def test_figures_agree_with_one_another(finished):
    run = finished("pca_design")
    figures = run.figures
    assert run.line["claims"] == []
    rows = {row["network"]: row for row in map(json.loads, (run.workdir / "metrics.jsonl").read_text().splitlines())}
    assert list(rows) == ["full", "tau_0.9", "depth_0.9", "uniform_0.9"]
    assert rows["tau_0.9"]["widths"] == [max(2, figures[f"dims/conv{i}/tau_0.9"]) for i in range(2)]
    assert figures["dims/conv0/tau_0.9"] <= 6
    assert figures["depth_kept"] == len(rows["depth_0.9"]["widths"])
    assert figures["parameters_ratio/full"] == figures["macs_ratio/full"] == 1
    for name, row in rows.items():
        assert figures[f"accuracy/{name}"] == row["accuracy"]
        assert figures[f"parameters_ratio/{name}"] == pytest.approx(row["parameters"] / rows["full"]["parameters"])
    assert {f"{kind}/conv{i}/tau_0.9" for kind in ("dims", "dims_untrained") for i in range(2)} <= figures.keys()
    assert all(1 <= figures[f"participation/conv{i}"] <= (6, 8)[i] for i in range(2))


def test_the_designed_network_is_a_checkpoint_of_the_same_recipe(finished):
    run = finished("pca_design")
    model, variables, saved = checkpoint.load_model(run.workdir / "designs" / "tau_0.9")
    assert saved["model"]["name"] == "cnn"
    assert saved["seed"] == 0
    test = data.load("digits", "test")
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    assert float(training.evaluate(model.apply, variables, x, test["label"])) == run.figures["accuracy/tau_0.9"]


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("pca_design")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(capture, "collect", None)
    monkeypatch.setattr(checkpoint, "resumable_fit", None)
    assert ask("pca_design", "--resume").figures == first.figures


def test_a_network_of_memorization_is_designed_anew_and_opened_again(finished, ask):
    """Of the smoke preset, an mlp with wrong labels; the design has to be trained on the same wrong labels."""
    source = finished("memorization")
    flags = ["--preset", "smoke", "--no-depth", "--controls", "random_widths", "--taus", "0.8"]
    run = ask("pca_design", "--checkpoint", str(source.workdir), *flags)
    assert run.status == 0, run.err
    rows = [json.loads(row) for row in (run.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["network"] for row in rows] == ["full", "tau_0.8", "random_0.8"]
    assert sorted(rows[1]["widths"]) == sorted(rows[2]["widths"])
    assert "depth_kept" not in run.figures
    _, _, saved = checkpoint.load_model(run.workdir / "designs" / "tau_0.8")
    _, _, original = checkpoint.load_model(source.workdir)
    assert saved["corruption"] == original["corruption"]
    assert saved["recipe"] == original["recipe"]


@pytest.mark.process
@pytest.mark.parametrize("question", ["utilized_rank", "memorization"])
def test_the_designed_network_is_opened_by_other_questions(question, finished, ask):
    run, few = finished("pca_design"), {"utilized_rank": ["--no-search", "--tau", ".99"], "memorization": []}
    again = ask(question, "--checkpoint", str(run.workdir / "designs" / "tau_0.9"), "--preset", "smoke", *few[question])
    assert again.status == 0, again.err


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    """Augmentation, bfloat16 with counts in float32, batch norm, all controls."""
    flags = ["--data", "digits", "--samples", "300", "--widths", "4", "6", "8", "--network-args", "pools=[1,2]"]
    run = ask("pca_design", "--preset", "gpu", *flags, "--epochs", "1", "--batch", "64", "--taus", ".9")
    assert run.status == 0, run.err
    assert {f"accuracy/{name}_0.9" for name in ("tau", "depth", "uniform", "random")} <= run.figures.keys()


def test_a_vgg_becomes_a_chain_of_equal_cost_and_keeps_its_poolings():
    full = methods.chain("vgg11", {"convs": (1, 2), "width": 4, "classes": 3})
    assert full == methods.Network("vgg", {"widths": [4, 8, 8], "pools": [1, 3], "classes": 3})
    found = []
    for name, arguments in (("vgg11", {"convs": (1, 2), "width": 4, "classes": 3}), full):
        model, x = nn.build(name, **arguments), np.zeros((1, 4, 4, 1), np.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        found.append((costs.parameters(variables["params"]), costs.macs(capture.layers(model.apply, variables, x))))
    assert found[0] == found[1]
    assert methods.narrowed(full, (2, 3)).arguments["pools"] == [1, 2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--taus", "0.9", "1"], "--taus are one or more shares of the variance in (0, 1); got (0.9, 1.0)"),
        (["--slack", "1"], "--slack is in [0, 1)"),
        (["--min-width", "0"], "got 0.05, 0 and 1"),
        (["--controls", "first"], "--controls are uniform, random_widths, untrained; got 'first'"),
        (["--model", "resnet18", "--widths"], "--model resnet18: designs are those of mlp"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)
    refuse("pca_design", *flags, message=message)


FIGURES = {
    "parameters_ratio/tau_0.95": 0.2, "parameters_ratio/tau_0.99": 0.5, "parameters_ratio/tau_0.999": 0.8,
    "accuracy/tau_0.95": 0.97, "accuracy/full": 0.98,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 4), ({"parameters_ratio/tau_0.95": 0.3}, 3), ({"accuracy/tau_0.95": 0.95}, 3),
        ({"parameters_ratio/tau_0.99": 0.7}, 3), ({"parameters_ratio/tau_0.999": 0.4}, 3),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 10}, {"data": "mnist"}, {"taus": (0.95,)}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)
