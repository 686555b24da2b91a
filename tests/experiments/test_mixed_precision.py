"""The experiment on mixed precision at small size: figures that agree, networks that are opened again."""

import dataclasses
import json
import shutil

import pytest

from experiments import mixed_precision
from experiments.mixed_precision import experiment, methods
from subspace_jax import checkpoint, data, training
from subspace_jax.compression import hybrid_net
from subspace_jax.core import costs

CPU = mixed_precision.PRESETS["cpu"]
NAMES = ["xnor", "hybrid_2", "last_2", "all_2", "full"]


def test_figures_agree_with_one_another(finished):
    run = finished("mixed_precision")
    figures = run.figures
    assert run.line["claims"] == []
    rows = {row["network"]: row for row in map(json.loads, (run.workdir / "metrics.jsonl").read_text().splitlines())}
    assert list(rows) == NAMES
    assert [rows[name]["bits"] for name in ("xnor", "all_2", "full")] == [[32, k, k] for k in (1, 2, 32)]
    assert rows["hybrid_2"]["bits"][1:] == [figures[f"bits/conv{i}"] for i in (1, 2)]
    jump = figures["dims/conv2"] - figures["dims/conv1"] >= 2
    assert [figures[f"significant/conv{i}"] for i in (1, 2)] == [0, float(jump)]
    layers = hybrid_net.layer_costs((8, 8, 1), widths=(2, 4, 8), strides=(1, 2, 1), classes=10)
    for name, row in rows.items():
        assert figures[f"accuracy/{name}"] == row["accuracy"]
        energy = costs.energy(layers, hybrid_net.layer_bits(layers, row["bits"]))
        assert figures[f"energy_efficiency/{name}"] == pytest.approx(energy.efficiency)
        assert figures[f"memory_compression/{name}"] == pytest.approx(energy.memory_compression)
    assert figures["energy_efficiency/full"] == figures["memory_compression/full"] == 1


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("mixed_precision")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(training, "minimise", None)
    assert ask("mixed_precision", "--resume").figures == first.figures


def test_every_network_is_saved_with_its_bits(finished):
    run = finished("mixed_precision")
    model, variables, saved = checkpoint.load_model(run.workdir / "checkpoints" / "all_2")
    assert saved["model"]["kwargs"]["bits"] == [32, 2, 2]
    test = data.load("digits", "test")
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    assert float(training.evaluate(model.apply, variables, x, test["label"])) == run.figures["accuracy/all_2"]


def test_a_saved_binary_network_is_counted_again(finished, ask):
    first = finished("mixed_precision")
    again = ask("mixed_precision", "--preset", "smoke", "--checkpoint", str(first.workdir / "checkpoints" / "xnor"))
    assert again.status == 0, again.err
    assert again.outcome() == first.outcome()


def test_another_saved_network_is_refused(finished, refuse, monkeypatch):
    folder = finished("mixed_precision").workdir / "checkpoints" / "all_2"
    monkeypatch.setattr(training, "minimise", None)
    refuse("mixed_precision", "--checkpoint", str(folder), message="is no binary network without skips (bits [32")


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    """Augmentation and skips, for which the plain twin is counted."""
    flags = ["--data", "digits", "--samples", "300", "--widths", "2", "4", "8", "--network-args", "strides=[1,2,1]"]
    run = ask("mixed_precision", "--preset", "gpu", *flags, "--steps", "4", "--batch", "64", "--seeds", "1")
    assert run.status == 0, run.err
    saved = {name: checkpoint.load_model(run.workdir / "checkpoints" / name)[2] for name in ("xnor", "xnor_plain")}
    assert [own["model"]["kwargs"]["skip"] for own in saved.values()] == [True, False]


def test_controls_are_as_many_other_layers():
    config = dataclasses.replace(CPU, bits=(2, 4))
    plans = methods.plans(config, {f"conv{i}": k for i, k in enumerate((3, 3, 6, 6, 9), start=1)}, seed=0)
    assert plans["hybrid_2"] == (32, 1, 1, 2, 1, 2)
    assert plans["hybrid_4"] == (32, 1, 1, 4, 1, 4)
    assert plans["first_4"] == (32, 4, 4, 1, 1, 1)
    assert plans["last_4"] == (32, 1, 1, 1, 4, 4)
    random = plans["random_4"]
    assert random.count(4) == 2
    assert random[3] == random[5] == 1
    assert plans["all_2"] == (32, 2, 2, 2, 2, 2)
    assert list(plans) == ["xnor", "hybrid_2", "hybrid_4", "first_4", "last_4", "random_4", "all_2", "full"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tau", "1"], "--tau is a share in (0, 1), --delta and --steps are at least 1; got 1.0, 2 and 6"),
        (["--delta", "0"], "got 0.99, 0 and 6"),
        (["--bits", "1"], "--bits are one or more whole numbers in [2, 8]; got (1,)"),
        (["--controls", "middle"], "--controls are first, last, random; got 'middle'"),
        (["--model", "resnet18"], "--model is hybrid_cnn or hybrid_resnet"),
        (["--checkpoint", "nothing"], "no checkpoint of seed 0 at nothing"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "minimise", None)
    refuse("mixed_precision", *flags, message=message)


FIGURES = {
    "accuracy/xnor": 0.6, "accuracy/hybrid_4": 0.65, "accuracy/all_2": 0.75, "accuracy/full": 0.9,
    "energy_efficiency/xnor": 9.0, "energy_efficiency/hybrid_2": 8.0, "energy_efficiency/all_2": 6.0,
    "energy_efficiency/full": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 4), ({"accuracy/hybrid_4": 0.59}, 3), ({"accuracy/all_2": 0.66}, 3), ({"accuracy/full": 0.8}, 3),
        ({"energy_efficiency/hybrid_2": 5.0}, 3),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"steps": 10}, {"data": "mnist"}, {"delta": 1}, {"checkpoint": "r"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)
