"""The experiment on hybrid parallelism at small size: figures agree with each other, claims can fail."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from experiments import hybrid_parallel
from experiments.hybrid_parallel import experiment, methods, protocol
from subspace_jax.parallel import splitbrain

CPU = hybrid_parallel.PRESETS["cpu"]


def test_every_split_computes_the_same_and_bytes_are_predicted(finished):
    run = finished("hybrid_parallel")
    figures = run.figures
    assert run.line["claims"] == []
    names = "8x1/bk/pair", "8x1/jit/pair", "2x4/bk/pair", "2x4/modulo/pair", "2x4/jit/pair"
    for name, kind in itertools.product(names, ("gradient", "3_steps")):
        assert figures[f"max_difference_{kind}/{name}"] <= experiment.EXACT
    assert figures["accuracy/8x1"] == figures["accuracy/2x4"]
    places = [key.partition("/")[2] for key in figures if key.startswith("bytes_arguments/")]
    schemes = {"8x1": ("bk", "jit", "fsdp"), "2x4": ("bk", "modulo", "jit")}
    assert sorted(places) == sorted(f"{split}/{each}/b8" for split, own in schemes.items() for each in own)
    for place in places:
        assert figures[f"bytes_arguments/{place}"] == figures[f"bytes_arguments_predicted/{place}"]
    for name in ("8x1/bk", "2x4/bk", "2x4/modulo"):
        assert figures[f"bytes_collective/{name}"] == figures[f"bytes_collective_predicted/{name}"]
        assert figures[f"bytes_collective_difference/{name}"] == 0
    whole, own = (
        sum(figures[f"bytes_{kind}/{split}/bk/b8"] for kind in ("arguments", "temporaries")) for split in ("8x1", "2x4")
    )
    assert figures["saved/2x4/b8"] == pytest.approx(1 - own / whole)
    assert 0.5 < figures["saved/2x4/b8"] < 0.75
    assert figures["saved_predicted/2x4/b8"] == pytest.approx(figures["saved/2x4/b8"], abs=0.1)
    assert 0.9 < figures["work_ratio/2x4/b8"] < 1.2


def test_a_finished_run_is_read_and_not_computed_again(finished, ask, tmp_path, monkeypatch):
    first = finished("hybrid_parallel")
    shutil.copytree(first.workdir, tmp_path / "w")
    monkeypatch.setattr(splitbrain, "compile_step", None)
    monkeypatch.setattr(protocol, "followed", None)
    assert ask("hybrid_parallel", "--resume").figures == first.figures


def test_one_device_shows_itself_and_what_the_model_says_of_more(ask):
    """The preset for a GPU at small size."""
    small = ["--data", "digits", "--widths", "4", "8", "--dense", "32", "16", "--memory-dense", "256", "64"]
    few = ["--memory-shape", "8", "8", "3", "--batch-per-worker", "8", "--steps", "2"]
    run = ask("hybrid_parallel", "--preset", "gpu", *small, *few)
    assert run.status == 0, run.err
    assert {key for key in run.figures if key.startswith("bytes_arguments/")} == {"bytes_arguments/1x1/bk/b8"}
    assert run.figures["bytes_arguments/1x1/bk/b8"] == run.figures["bytes_arguments_predicted/1x1/bk/b8"]
    assert run.figures["bytes_collective/1x1/bk"] == 0
    saved = [run.figures[f"saved_predicted/{split}/b8"] for split in ("8x1", "4x2", "2x4", "1x8")]
    assert saved == sorted(saved)
    assert "There is one device" in (run.workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--splits", "2x3"], "2x3 is not a split of 8 devices; there are 8x1, 4x2, 2x4, 1x8"),
        (["--splits", "two"], "a split is written GROUPSxMEMBERS, such as 2x4; got 'two'"),
        (["--devices", "9"], "--devices 9: this process has 8; take 1 to 8"),
        (["--batch", "60"], "60 samples cannot be shared by 8x1 devices: take 64"),
        (["--batch", "40"], "40 samples cannot be shared by 2x4 devices in 4 passes: take 64"),
        (["--batch-per-worker", "6"], "48 samples cannot be shared by 2x4 devices in 4 passes: take 64"),
        (["--dense", "30", "16", "--rule", "size"], "dense0 has 30 outputs, which 4 members cannot share: make it 32"),
        (["--override", "conv0=column"], "no dense layer 'conv0' to override; there are dense0, dense1"),
        (["--override", "dense0"], "--override is PATH=KIND, such as dense0=replicated; got 'dense0'"),
        (["--model", "resnet20"], "--model is one of mlp, lenet5, cnn, cnn2"),
        (["--network-args", "norm=batch"], "--network-args norm would change what is split"),
        (["--steps", "0"], "--steps has to be at least 1"),
        (["--splits"], "--splits has to be at least 1 or to name at least one; got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(flags, message, refuse, monkeypatch):
    monkeypatch.setattr(protocol, "followed", None)
    monkeypatch.setattr(splitbrain, "compile_step", None)
    refuse("hybrid_parallel", *flags, message=message)


def test_schemes_of_a_group_of_one_are_one_and_fsdp_knows_no_groups():
    assert methods.schemes(CPU, "8x1") == ("bk", "jit", "fsdp")
    assert methods.schemes(CPU, "2x4") == ("bk", "modulo", "b", "jit")
    assert methods.schemes(dataclasses.replace(CPU, baselines=()), "1x1") == ("bk",)


FIGURES = {
    "max_difference_gradient/2x4/b/pair": 1e-16, "max_difference_20_steps/2x4/b/pair": 1e-15,
    "bytes_arguments/2x4/bk/b8": 10.0, "bytes_arguments_predicted/2x4/bk/b8": 10.0, "saved/2x4/b64": 0.65,
    "work_ratio/2x4/b64": 1.05, "work_ratio/2x4/b8": 1.3, "modulo_over_bk/1x8/b64": 1.2,
} | {f"bytes_collective_difference/{split}/bk": 0.0 for split in CPU.splits}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "held"),
    [
        ({}, 6), ({"max_difference_gradient/2x4/b/pair": 2e-12}, 5), ({"max_difference_20_steps/2x4/b/pair": 1e-11}, 5),
        ({"bytes_arguments/2x4/bk/b8": 11.0}, 5), ({"bytes_collective_difference/1x8/bk": 4.0}, 5),
        ({"saved/2x4/b64": 0.59}, 5), ({"work_ratio/2x4/b64": 1.11}, 5), ({"modulo_over_bk/1x8/b64": 0.99}, 7),
        ({"max_difference_gradient/2x4/b/pair": np.nan}, 5),
    ],
)  # fmt: skip
def test_each_claim_can_fail(changed, held):
    assert sum(claim.holds for claim in experiment.claims(CPU, FIGURES | changed)) == held


def test_claims_see_the_same_figures_of_one_seed_as_of_all(finished, monkeypatch):
    run, seen = finished("hybrid_parallel"), []
    monkeypatch.setattr(experiment, "claims", lambda config, figures: seen.append(set(figures)) or [])
    experiment.main(dataclasses.replace(hybrid_parallel.PRESETS["smoke"], preset="smoke", workdir=str(run.workdir)))
    assert seen == [set(run.figures)] * 2


def test_other_recipes_claim_nothing():
    for change in ({"steps": 9}, {"data": "mnist"}, {"dense": (64, 64)}, {"layout": ("pair",)}, {"preset": "smoke"}):
        assert experiment.claims(dataclasses.replace(CPU, **change), FIGURES) == []
    assert experiment.claims(dataclasses.replace(CPU, seed=7, seeds=2, workdir="w"), FIGURES)
