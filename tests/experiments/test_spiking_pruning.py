"""The experiment on narrower spiking networks at small size: what is counted, trained and compared; claims can fail."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments import spiking_pruning
from experiments.spiking_pruning import experiment, methods
from subspace_jax import checkpoint, nn, training
from subspace_jax.core.moments import Moments
from subspace_jax.spiking import network, pruning

CPU = spiking_pruning.PRESETS["cpu"]
NAMES = {"base", "tau_0.999", "magnitude_0.999", "annealed_2", "direct_2", "untuned_2"}


def test_figures_agree_with_one_another(finished):
    run = finished("spiking_pruning")
    figures = run.figures
    assert run.line["claims"] == []
    ratios = "energy_ratio", "energy_ratio_rate", "energy_ratio_unpruned", "parameters_ratio"
    for kind in ("accuracy", "spikes", "spikes_per_neuron", *ratios):
        assert {f"{kind}/{name}" for name in NAMES} <= figures.keys()
    assert {f"accuracy_noise/0.5/{name}" for name in ("ann", "base", "ann_pruned", "pruned")} <= figures.keys()
    for name in ("conv0", "conv1"):
        assert 1 <= figures[f"dims/{name}/tau_0.999"] <= figures[f"rank/{name}"]
    assert figures["rank/conv0"] <= 9  # pixels that a 3x3 kernel reads, of twelve channels
    assert figures["energy_ratio_unpruned/base"] == figures["energy_ratio/base"]
    assert figures["energy_ratio_unpruned/tau_0.999"] > figures["energy_ratio/tau_0.999"]
    widths = [int(figures[f"dims/{name}/tau_0.999"]) for name in ("conv0", "conv1")]
    narrow, full = (9 * k1 * (1 + k2) + 4 * k2 * 10 for k1, k2 in (widths, (12, 6)))
    assert figures["parameters_ratio/tau_0.999"] == pytest.approx(narrow / full)
    assert figures["parameters_ratio/annealed_2"] == figures["parameters_ratio/magnitude_0.999"] == narrow / full


def test_designs_are_checkpoints_of_their_widths(finished):
    run = finished("spiking_pruning")
    model, variables, saved = checkpoint.load_model(run.workdir / "designs" / "tau_0.999", seed=0)
    counted = [run.figures[f"dims/{name}/tau_0.999"] for name in ("conv0", "conv1")]
    assert saved["model"]["kwargs"]["widths"] == counted
    assert len(network.spiking(model, variables).layers) == 3


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("spiking_pruning")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(training, "minimise", None)
    assert ask("spiking_pruning", "--resume").figures == first.figures


def test_controls_have_the_widths_of_the_design_or_its_size():
    model = nn.build("cnn2", widths=(4, 6), dense=(5,), pool="average", use_bias=False)
    snn = network.spiking(model, jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)))
    diagonal = {"conv0/kernel": [4.0, 4, 0, 0], "conv1/kernel": [9.0, 9, 9, 0.1, 0, 0], "dense0/kernel": [1.0] * 5}
    measured = {path: Moments(np.diag(own), np.zeros(len(own)), 64.0) for path, own in diagonal.items()}
    config = dataclasses.replace(CPU, tau=(0.99,), controls=methods.CONTROLS)
    found = methods.designs(config, snn, measured, jax.random.key(0))
    assert found["tau_0.99"] == methods.Design((2, 3))
    for name in methods.STARTS:
        start = found[f"{name}_0.99"].start()
        assert [own["kernel"].shape[-1] for own in start.values()] == [2, 3, 5, 10]
    uniform, sizes = found["uniform_0.99"].widths, {}
    for k1 in range(1, 5):
        for k2 in range(1, 7):
            sizes[k1, k2] = pruning.parameters(snn, (k1, k2, 5))
    assert uniform[1] / uniform[0] == pytest.approx(1.5, abs=0.51)
    assert abs(sizes[uniform] - sizes[2, 3]) <= 9 * 6 + 20
    assert list(methods.designs(dataclasses.replace(config, controls=()), snn, measured, jax.random.key(0))) == [
        "tau_0.99"
    ]


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    """Eight convolutions, bfloat16, dropout, a schedule that does not halve."""
    flags = ["--data", "digits", "--samples", "128", "--widths", "4", "6", "--batch", "64", "--calibration", "64"]
    few = ["--network-args", "use_bias=false", 'norm="none"', 'pool="average"', "pools=[1,2]", "--counted", "64"]
    short = ["--ann-epochs", "6", "--epochs", "1", "--stage-epochs", "1", "--timesteps", "8", "6"]
    run = ask("spiking_pruning", "--preset", "gpu", *flags, *few, *short)
    assert run.status == 0, run.err
    assert np.isfinite(run.figures["energy_ratio/annealed_6"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tau", "0.9", "0.99"], "--tau are shares in (0, 1], falling; got [0.9, 0.99]"),
        (["--tau", "1.5"], "--tau are shares in (0, 1], falling; got [1.5]"),
        (["--timesteps", "8", "8"], "--timesteps are time steps, falling, at least 1; got [8, 8]"),
        (["--timesteps", "8", "2", "--order", "spike_first"], "takes at least 4 steps; got 2"),
        (["--bits", "1"], "--bits are in [2, 32]; got 1"),
        (["--controls", "first"], "--controls are some of uniform, random, magnitude, pca, untrained; got ['first']"),
        (["--model", "mlp"], "--model is cnn, cnn2 or vgg, whose convolutions are narrowed; got mlp"),
        (["--leak", "0"], "--leak is in (0, 1]"),
        (["--counted", "2000"], "--counted 2000: there are 256 training samples; lower it"),
        (["--pixel-noise", "0"], "--stage-epochs, --counted and --pixel-noise are above 0"),
        (["--augment"], "--augment: spiking networks are tuned on the images as they are"),
        (["--network-args", "use_bias=true", 'pool="average"'], "bias' has no place in a spiking network"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)
    refuse("spiking_pruning", *flags, message=message)


FIGURES = {
    "accuracy/base": 0.95, "accuracy/tau_0.999": 0.92, "accuracy/tau_0.99": 0.91, "accuracy/bits_5": 0.95,
    "accuracy/bits_2": 0.2, "accuracy/annealed_4": 0.92, "accuracy/untuned_4": 0.86,
    "dims/conv0/tau_0.999": 9.0, "dims/conv0/tau_0.99": 8.0, "dims/conv1/tau_0.999": 48.0, "dims/conv1/tau_0.99": 24.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 6), ({"accuracy/tau_0.999": 0.87}, 5), ({"accuracy/tau_0.99": 0.87}, 5), ({"accuracy/bits_5": 0.93}, 5),
        ({"accuracy/bits_2": 0.6}, 5), ({"accuracy/untuned_4": 0.9}, 5), ({"dims/conv0/tau_0.99": 9.0}, 5),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 9}, {"data": "mnist"}, {"leak": 1.0}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)
