"""The experiment on pruning for converters at small size: figures are those of the networks that it saves."""

import base64
import dataclasses
import shutil

import numpy as np
import pytest

from experiments import adc_pruning
from experiments.adc_pruning import experiment, methods
from subspace_jax import checkpoint, data, training
from subspace_jax.hardware import adc_pruning as pruning
from subspace_jax.hardware import conversion, snapping

CPU = adc_pruning.PRESETS["cpu"]
PRUNED = "lbl", "snap", "ungated", "gated_0.001", "gated_0.02"
EVERY = "accuracy", "improvement", "improvement_weighted", "sparsity"


def kernels_of(folder):
    model, variables, saved = checkpoint.load_model(folder)
    layers = pruning.mapped(model.apply, variables, np.zeros((1, 8, 8, 1), np.float32), rows=4)
    kernels = pruning.kernels(layers, variables)
    return model, variables, saved, layers, {path: np.asarray(kernel) for path, kernel in kernels.items()}


@pytest.mark.parametrize("name", ["lbl", "gated_0.02"])
def test_figures_are_those_of_the_saved_network(name, finished):
    run = finished("adc_pruning")
    figures = run.figures
    model, variables, saved, layers, kernels = kernels_of(run.workdir / "pruned" / name)
    scaling = data.Scaling(**saved["scaling"])
    test = data.load("digits", "test")
    found = training.evaluate(model.apply, variables, data.scale(test["image"], scaling), test["label"])
    assert figures[f"accuracy/{name}"] == float(found)
    bins = {path: snapping.bins(kernel, 4) for path, kernel in kernels.items()}
    assert figures[f"improvement/{name}"] == pytest.approx(conversion.improvement(bins, 4))
    weights = dict(zip(layers, (64.0, 16.0), strict=True))  # positions
    assert figures[f"improvement_weighted/{name}"] == pytest.approx(conversion.improvement(bins, 4, weights=weights))
    zeros = sum((kernel == 0).sum() for kernel in kernels.values()) / sum(kernel.size for kernel in kernels.values())
    assert figures[f"sparsity/{name}"] == pytest.approx(zeros)
    edit = saved["edits"][-1]
    assert (edit["method"], edit["rows"], edit["layers"]) == (name, 4, list(kernels))
    for path, text in edit["masks"].items():
        bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=kernels[path].size)
        np.testing.assert_array_equal(bits.reshape(edit["shapes"][path]) == 1, kernels[path] != 0)


def test_every_figure_is_there(finished):
    figures = finished("adc_pruning").figures
    expected = {f"{kind}/{name}" for kind in EVERY for name in ("dense", *PRUNED)}
    expected |= {f"{kind}/clip_{bits}" for kind in EVERY[:2] for bits in (2, 1)}
    expected |= {f"penalty/{name}" for name in ("dense", *PRUNED) if name not in ("lbl", "snap")}
    converted = "lbl", "gated_0.001", "gated_0.02"
    expected |= {f"{kind}/{name}" for kind in ("accuracy_adc", "accuracy_adc_exact") for name in converted}
    assert figures.keys() == expected
    assert figures["improvement/dense"] == figures["improvement_weighted/dense"] == 1
    assert (figures["improvement/clip_2"], figures["improvement/clip_1"]) == (1, 2)
    assert figures["improvement/snap"] > 1
    assert figures["penalty/gated_0.02"] < figures["penalty/gated_0.001"] < figures["penalty/dense"]


def test_columns_of_a_snapped_network_are_balanced_and_only_convolutions_were_trained_on(finished):
    run = finished("adc_pruning")
    dense = checkpoint.load_model(run.workdir / "checkpoints")[1]["params"]
    _, variables, _, _, kernels = kernels_of(run.workdir / "pruned" / "snap")
    blocks, _ = pruning.convolution.tiles(kernels["conv1/kernel"], 4)  # 8 outputs of 36 inputs: whole tiles
    zeros = (blocks == 0).sum(-1)
    np.testing.assert_array_equal(zeros.min(-1), zeros.max(-1))
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], dense["head"]["kernel"])
    assert (np.asarray(variables["params"]["conv1"]["bias"]) != dense["conv1"]["bias"]).any()
    left = kernels["conv1/kernel"] != 0
    assert (kernels["conv1/kernel"][left] != np.asarray(dense["conv1"]["kernel"])[left]).any()


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("adc_pruning")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(training, "train_epoch", None)
    monkeypatch.setattr(snapping, "bins", None)
    assert ask("adc_pruning", "--resume").figures == first.figures


def test_the_network_of_another_run_serves_and_percentiles_are_scanned(finished, ask, monkeypatch):
    first = finished("adc_pruning")
    monkeypatch.setattr(training, "train_epoch", None)
    flags = ["--methods", "snap", "--percentiles", "--max-drop", "0.9", "--clip-bits", "--include-dense"]
    run = ask("adc_pruning", "--preset", "smoke", "--checkpoint", str(first.workdir), *flags, "--finetune-epochs", "0")
    assert run.status == 0, run.err
    assert run.figures["accuracy/dense"] == first.figures["accuracy/dense"]
    assert run.figures["sparsity/snap"] > 0.8  # nothing is lost by a bound of .9: 95 % each


@pytest.mark.process
def test_the_gpu_preset_runs_at_small_size(ask):
    flags = ["--data", "digits", "--samples", "64", "--widths", "4", "4", "--batch", "16", "--rows", "4"]
    few = ["--network-args", 'norm="none"', "pools=[1,2]", "dense=[8]", "--percentiles", "40", "80"]
    few += ["--epochs", "1", "--prune-epochs", "1", "--finetune-epochs", "1", "--finetune-drops", "--adc-images", "20"]
    run = ask("adc_pruning", "--preset", "gpu", *flags, *few, "--clip-bits", "2")
    assert run.status == 0, run.err
    assert np.isfinite(run.figures["improvement/s_dub"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "12"], "rows of a crossbar are a power of two, such as 16 or 64; got 12"),
        (["--rows", "1"], "a crossbar of 1 row has one column, and one column no variance"),
        (["--percentiles", "40"], "one percentile a kernel, 2 for conv0/kernel, conv1/kernel; got 1"),
        (["--percentiles", "40", "100"], "percentiles are in [0, 100), since at 100 nothing is left; got 100"),
        (["--model", "mlp", "--network-args"], "no convolution lies in a crossbar; the layers are dense0/kernel, de"),
        (["--methods", "gate"], "--methods are lbl, snap, no_regularizer, ungated, gated, group_lasso, s_dub; got 'g"),
        (["--variances", "-1"], "--variances is a strength, at least 0 and finite; got -1.0"),
        (["--clip-bits", "4"], "--clip-bits of 4 rows are in [1, 3], which is exact; got 4"),
        (["--calibration", "0"], "--prune-epochs, --calibration and --adc-images are at least 1, --finetune-epochs"),
        (["--max-drop", "0"], "--max-drop is in (0, 1); got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)
    refuse("adc_pruning", *flags, message=message)


def test_a_penalty_that_is_no_number_is_refused(finished, ask):
    first = finished("adc_pruning")
    flags = ["--methods", "gated", "--variances", "1e30", "--clip-bits"]
    run = ask("adc_pruning", "--preset", "smoke", "--checkpoint", str(first.workdir), *flags)
    assert run.status == 2
    assert "the penalty of gated_1e+30 is nan in epoch" in run.err
    assert "lower its strength 1e+30 or --prune-lr 0.05" in run.err


FIGURES = {f"accuracy/{name}": 0.98 for name in ("dense", "lbl", "snap", "no_regularizer", "ungated", "clip_1")} | {
    "accuracy/gated_0.001": 0.98, "accuracy/gated_0.005": 0.98, "accuracy/gated_0.02": 0.97,
    "improvement/dense": 1.0, "improvement/lbl": 1.5, "improvement/snap": 2.0, "improvement/no_regularizer": 1.9,
    "improvement/ungated": 1.9, "improvement/gated_0.001": 2.2, "improvement/gated_0.005": 2.6,
    "improvement/gated_0.02": 3.2, "improvement/clip_1": 4.0, "penalty/dense": 400.0, "penalty/gated_0.005": 0.2,
    "accuracy_adc_exact/gated_0.005": 0.98,
}  # fmt: skip


@pytest.mark.parametrize(
    ("worse", "held"),
    [
        ({}, 8), ({"improvement/gated_0.02": 2.8}, 7), ({"improvement/gated_0.005": 2.3}, 7),
        ({"improvement/gated_0.001": 1.95}, 7), ({"improvement/lbl": 1.8}, 7), ({"improvement/ungated": 2.1}, 7),
        ({"accuracy/snap": 0.95}, 7), ({"accuracy/clip_1": 0.5}, 8), ({"penalty/gated_0.005": 5.0}, 7),
        ({"accuracy_adc_exact/gated_0.005": 0.9}, 7),
    ],
)  # fmt: skip
def test_each_claim_can_fail(worse, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | worse)) == held


def test_other_recipes_claim_nothing():
    for change in ({"epochs": 9}, {"data": "mnist"}, {"rows": 8}, {"checkpoint": "runs/1"}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)


def test_what_fewer_bits_save_by_each_model():
    assert methods.clipped(CPU) == {4: 1, 3: pytest.approx(4 / 3), 2: 2, 1: 4}
    exponential = methods.clipped(dataclasses.replace(CPU, adc_model="exponential"))
    assert exponential == {4: 1, 3: 2, 2: 4, 1: 8}
