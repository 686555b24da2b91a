"""The experiment on networks in SRAM at small size: figures agree with each other and with the checkpoint."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments import in_memory
from experiments.in_memory import experiment, protocol
from subspace_jax import checkpoint, data, training
from subspace_jax.hardware import sram

CPU = in_memory.PRESETS["cpu"]


def test_figures_are_those_of_the_saved_network(finished):
    run = finished("in_memory")
    figures = run.figures
    assert run.line["claims"] == []
    model, variables, saved = checkpoint.load_model(run.workdir)
    scaling = data.Scaling(**saved["scaling"])
    train, test = data.load("digits", "train"), data.load("digits", "test")
    x, test_x = data.scale(train["image"][:64], scaling), data.scale(test["image"], scaling)
    assert figures["accuracy/float"] == float(training.evaluate(model.apply, variables, test_x, test["label"]))
    calibration = sram.calibrate(model.apply, variables, x)
    chip = sram.sample_chip(
        jax.random.fold_in(jax.random.fold_in(jax.random.key(0), protocol.CHIP_KEY), 0), calibration
    )
    logits = sram.run_chip(model.apply, variables, calibration, test_x, chip=chip)
    with np.load(run.workdir / "stages" / "seed0.npz") as found:
        assert found["chips/app"][0] == pytest.approx(float((np.asarray(logits).argmax(1) == test["label"]).mean()))
        assert figures["accuracy/app"] == pytest.approx(found["chips/app"].mean())
        assert figures["chip_min/app"] == found["chips/app"].min()
    assert figures["accuracy/app_sigma_3"] < figures["accuracy/app"] <= figures["accuracy/float"] + 0.02
    names = "no_adc", "ideal_table", "full_range", "calibrated", "noise", "6_bits"
    assert {f"accuracy/circuit_{name}" for name in names} <= figures.keys()
    assert figures["accuracy/circuit_full_range"] < figures["accuracy/circuit_calibrated"] - 0.2
    for name in ("lenet5", "network"):
        delay, energy, both = (figures[f"system/{name}/{ratio}"] for ratio in protocol.RATIOS)
        assert both == pytest.approx(delay * energy)


def test_the_circuit_draws_one_product_in_time(finished):
    run = finished("in_memory")
    assert "One product in time" in (run.workdir / "report.html").read_text()
    assert (run.workdir / "figures" / "bit_lines.png").stat().st_size > 1000


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("in_memory")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(sram, "calibrate", None)
    assert ask("in_memory", "--resume").figures == first.figures


def test_the_network_of_another_run_serves(finished, ask, monkeypatch):
    first = finished("in_memory")
    monkeypatch.setattr(training, "train_epoch", None)
    flags = ["--chips", "1", "--swept-bits", "--level", "app"]
    run = ask("in_memory", "--preset", "smoke", "--checkpoint", str(first.workdir), *flags)
    assert run.status == 0, run.err
    assert run.figures["accuracy/quantized"] == first.figures["accuracy/quantized"]


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    flags = ["--data", "digits", "--samples", "64", "--widths", "4", "4", "--chips", "2", "--epochs", "1"]
    few = ["--network-args", 'norm="none"', "pools=[1,2]", "dense=[8]", "--swept-sigmas", "--swept-bits"]
    few += ["--circuit-images", "20"]
    run = ask("in_memory", "--preset", "gpu", *flags, *few)
    assert run.status == 0, run.err
    assert np.isfinite(run.figures["accuracy/app"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chips", "0"], "--chips and --calibration are at least 1; got 0 and 64"),
        (["--rows", "26"], "rows summed before a conversion are whole, in [1, 25]; got 26"),
        (["--swept-sigmas", "-1"], "the deviation of a conversion is at least 0 and finite; got -1.0"),
        (["--bits", "5"], "mc_mean was simulated for 4 bits; got 5: take the table nominal_fit or ideal"),
        (["--circuit-images", "0"], "--circuit-images is at least 1; got 0"),
        (["--swept-bits", "17"], "bits of one value must be an integer in [1, 16]; got 17"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)
    refuse("in_memory", *flags, message=message)


FIGURES = {
    "accuracy/float": 0.99, "accuracy/quantized": 0.98, "accuracy/app": 0.97, "accuracy/app_sigma_3": 0.75,
    "accuracy/circuit_calibrated": 0.92, "accuracy/circuit_full_range": 0.1,
    "system/lenet5/delay_ratio": 9.4175, "system/lenet5/energy_ratio": 6.2414,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 7), ({"accuracy/quantized": 0.96}, 6), ({"accuracy/app": 0.94}, 6), ({"accuracy/app_sigma_3": 0.9}, 6),
        ({"accuracy/circuit_calibrated": 0.8}, 6), ({"accuracy/circuit_full_range": 0.5}, 6),
        ({"system/lenet5/delay_ratio": 9.42}, 6), ({"system/lenet5/energy_ratio": 5.08}, 6),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 9}, {"data": "mnist"}, {"chips": 5}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)
