"""The experiment on spiking networks at small size: what it says is what its networks do, and claims can fail."""

import dataclasses
import shutil

import numpy as np
import pytest

from experiments import spiking_dct
from experiments.families import spiking
from experiments.spiking_dct import experiment
from subspace_jax import checkpoint, data, training
from subspace_jax.spiking import encode

CPU = spiking_dct.PRESETS["cpu"]


def test_figures_agree_with_one_another(finished):
    run = finished("spiking_dct")
    figures = run.figures
    assert run.line["claims"] == []
    names = {"dct", "dct_conversion", "poisson", "poisson_conversion", "keep_8", "keep_6", "keep_4_at_8", "direct_4"}
    for kind in ("accuracy", "energy_ratio", "energy_ratio_rate"):
        assert {f"{kind}/{name}" for name in names} <= figures.keys()
    assert figures["accuracy/keep_8"] == figures["accuracy/dct"]  # the first eight frequencies, one a step
    for name in names:  # a pooled spike counts once, and not a quarter
        assert 0 < figures[f"energy_ratio/{name}"] < figures[f"energy_ratio_rate/{name}"]
    assert figures["energy_ratio/direct_4_once"] > figures["energy_ratio/direct_4"]
    assert figures["spikes_per_pixel/dct"] < figures["spikes_per_pixel/poisson"] <= 8
    assert all(figures[f"threshold/{name}"] > 0 for name in ("conv0", "conv1", "dense0"))


def test_the_classifier_is_a_checkpoint_that_reads_raw_pixels(finished):
    run = finished("spiking_dct")
    model, variables, saved = checkpoint.load_model(run.workdir)
    assert saved["scaling"] == {"divisor": 16.0, "mean": [0.5], "std": [0.5]}
    test = data.load("digits", "test")
    x = data.scale(test["image"], data.Scaling(**saved["scaling"]))
    assert float(training.evaluate(model.apply, variables, x, test["label"])) == run.figures["accuracy/ann"]


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("spiking_dct")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(training, "minimise", None)
    assert ask("spiking_dct", "--resume").figures == first.figures


def test_thresholds_of_each_batch_are_a_choice():
    x = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
    own = spiking.setting(CPU, "dct", 16, block=4, per_batch=True)
    limits = encode.encoder_thresholds(encode.dct_frames(x))
    for per_batch, given in ((True, (-9.0, 9.0)), (False, limits)):
        found = spiking.encoded(own._replace(per_batch=per_batch), None, x, None, np.array(given))
        np.testing.assert_array_equal(found, encode.dct_encode(encode.dct_frames(x), *limits, steps=16))


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    """Blocks that overlap, bfloat16, dropout, direct and Poisson budgets."""
    flags = ["--data", "digits", "--samples", "128", "--widths", "4", "6", "--batch", "64", "--calibration", "64"]
    few = ["--network-args", "use_bias=false", 'norm="none"', 'pool="average"', "pools=[1,2]", "--timesteps", "6"]
    short = ["--ann-epochs", "4", "--epochs", "1", "--budgets", "direct_4"]
    run = ask("spiking_dct", "--preset", "gpu", *flags, *few, *short)
    assert run.status == 0, run.err
    assert np.isfinite(run.figures["energy_ratio/direct_4"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder", "rate"], "--encoder is one or more of dct, poisson, direct; got ['rate']"),
        (["--budgets", "dct"], "--budgets are ENCODER_STEPS, such as dct_4; got 'dct'"),
        (["--keep", "17"], "--keep and --swept are in [1, 16], the frequencies of a block; got 17"),
        (["--leak", "0"], "--leak is in (0, 1]"),
        (["--stride", "3"], "blocks of 4 with stride 3 do not cover images of 8x8"),
        (["--timesteps", "4"], "takes at least 5 steps; got 4"),
        (["--network-args", "use_bias=false"], "pool='average'; cnn2 has 'max'"),
        (["--augment"], "--augment moves pixels across the blocks"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)
    refuse("spiking_dct", *flags, message=message)


FIGURES = {
    "accuracy/ann": 0.97, "accuracy/dct": 0.85, "accuracy/dct_conversion": 0.6, "accuracy/keep_16": 0.85,
    "accuracy/keep_14": 0.84, "accuracy/keep_12": 0.85, "accuracy/keep_10": 0.78, "accuracy/keep_8": 0.7,
    "accuracy/keep_6": 0.5, "accuracy/keep_8_at_16": 0.8, "spikes_per_pixel/dct": 3.4, "spikes_per_pixel/poisson": 12.6,
    "energy_ratio/dct": 2.0, "energy_ratio/poisson_16": 0.7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 8), ({"accuracy/ann": 0.9}, 7), ({"accuracy/dct": 0.8}, 7), ({"accuracy/dct_conversion": 0.8}, 7),
        ({"accuracy/keep_6": 0.8}, 7), ({"accuracy/keep_8_at_16": 0.72}, 7), ({"spikes_per_pixel/dct": 6.0}, 7),
        ({"energy_ratio/dct": 1.4}, 7), ({"energy_ratio/poisson_16": 1.1}, 7),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 9}, {"data": "mnist"}, {"leak": 1.0}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)


def test_epochs_beside_a_checkpoint_are_those_of_the_spiking_networks(finished):
    preset = dataclasses.replace(spiking_dct.PRESETS["smoke"], preset="smoke")
    given = dataclasses.replace(preset, checkpoint=str(finished("spiking_dct").workdir), epochs=7)
    found = spiking.adopt(given, preset)
    assert (found.epochs, found.ann_epochs) == (7, preset.ann_epochs)
